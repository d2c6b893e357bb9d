"""The table of translated ONNX operators, and the node that each rule receives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from effbench.deploy.targets.coreml.lazy import LazyModule, mb
from effbench.errors import ConversionError

Array = npt.NDArray[Any]
_types: Any = LazyModule("coremltools.converters.mil.mil", "types")

INT32 = np.iinfo(np.int32)
CAST_NAMES = {"float32": "fp32", "float16": "fp16", "int32": "int32", "int64": "int32", "bool": "bool"}
"""numpy's name of an element type -> the name for MIL's ``cast``; 64-bit integers become 32-bit ones."""


@dataclass(frozen=True)
class Node:
    """One ONNX node with its inputs resolved: an array if the value is known, a MIL variable, or None."""

    op: str
    name: str
    inputs: tuple[Any, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    opset: int
    target: int

    def __contains__(self, index: int) -> bool:
        return index < len(self.inputs) and self.inputs[index] is not None

    def tensor(self, index: int) -> Any:
        """Return an input for MIL: a variable, or an array of a type that MIL has."""
        return mil_array(self, self.inputs[index])

    def constant(self, index: int, description: str, default: Any = None) -> Any:
        """Return an input that must be known when translating, in ONNX's type.

        Raises:
            ConversionError: It is computed at run time.
        """
        if index not in self:
            return default
        if not isinstance(self.inputs[index], np.ndarray):
            raise self.error(f"{description} is computed at run time; Core ML needs it fixed")
        return self.inputs[index]

    def integers(self, index: int, attribute: str) -> list[int] | None:
        """Return integers that are an attribute in older opsets and an input in newer ones."""
        if index in self:
            return [int(value) for value in self.constant(index, attribute).reshape(-1)]
        values = self.attributes.get(attribute)
        return None if values is None else [int(value) for value in values]

    def get(self, attribute: str, default: Any) -> Any:
        """Return an attribute."""
        return self.attributes.get(attribute, default)

    def known(self, index: int) -> bool:
        """Return whether an input is present and known when translating."""
        return index in self and isinstance(self.inputs[index], np.ndarray)

    def error(self, message: str) -> ConversionError:
        """Build the error that names this node."""
        return ConversionError("Core ML translation", message, node=self.name, op=self.op)


Rule = Callable[[Node], Any]
R = TypeVar("R", bound=Rule)
RULES: dict[str, Rule] = {}


def operator(*names: str) -> Callable[[R], R]:
    """Register a function as the translation of one or more ONNX operators."""

    def register(rule: R) -> R:
        for name in names:
            if name in RULES:
                raise ValueError(f"ONNX operator '{name}' has two rules.")
            RULES[name] = rule
        return rule

    return register


def mil_array(node: Node, value: Any) -> Any:
    """Return a known value in a type that MIL has; variables are returned unchanged.

    Raises:
        ConversionError: An integer needs more than 32 bits, or MIL lacks the type (double, complex, strings).
    """
    if not isinstance(value, np.ndarray):
        return value
    if value.dtype in (np.int64, np.uint32, np.uint64):
        if value.size and (value.max() > INT32.max or value.min() < INT32.min):
            raise node.error(f"holds an integer beyond 32 bits ({value.min()} ... {value.max()})")
        return value.astype(np.int32)
    if value.dtype.name not in ("float32", "float16", "int32", "bool", "int8", "uint8"):
        raise node.error(f"works on {value.dtype.name}, which Core ML does not have")
    return value


def dtype_of(value: Any) -> np.dtype[Any]:
    """Return the numpy type of a variable's or an array's elements."""
    known = isinstance(value, (np.ndarray, np.generic))
    dtype: np.dtype[Any] = np.dtype(value.dtype if known else _types.nptype_from_builtin(value.dtype))
    return dtype


def is_float(value: Any) -> bool:
    """Return whether a value's elements are floating-point numbers."""
    return dtype_of(value).kind == "f"


def shape_of(value: Any) -> tuple[int, ...]:
    """Return a value's shape as Python integers."""
    return tuple(int(size) for size in value.shape)


def like(value: float, other: Any) -> Any:
    """Return a constant in the element type of another value, as MIL requires of its parameters."""
    return dtype_of(other).type(value)


def cast(value: Any, dtype: str) -> Any:
    """Cast to an element type by numpy's name; without an operation if the value has that type."""
    name = CAST_NAMES.get(dtype, dtype)
    same = dtype_of(value) == np.dtype({"fp32": "float32", "fp16": "float16"}.get(name, name))
    return value if same else mb.cast(x=value, dtype=name)


def through(value: Any, dtype: str, rule: Callable[[Any], Any]) -> Any:
    """Apply a rule in another element type, for operations that MIL lacks in the value's type."""
    return cast(rule(cast(value, dtype)), dtype_of(value).name)


def rank_of(value: Any) -> int:
    """Return the number of dimensions."""
    return len(value.shape)
