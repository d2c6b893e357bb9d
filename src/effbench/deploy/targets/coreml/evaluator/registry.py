"""The table of evaluated MIL operations, and the call that each rule receives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from effbench.deploy.targets.coreml.lazy import torch
from effbench.deploy.targets.coreml.package import Variable
from effbench.errors import ConversionError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class OperationCall:
    """One operation with its arguments resolved.

    ``half`` selects sums in half precision; it is set only if the declared output is float16.
    """

    kind: str
    name: str
    arguments: Mapping[str, tuple[Any, ...]]
    outputs: tuple[Variable, ...]
    half: bool

    def __contains__(self, key: str) -> bool:
        return key in self.arguments

    def raw(self, key: str) -> Tensor:
        """Return a tensor argument in its stored type."""
        value: Tensor = self.arguments[key][0]
        return value

    def tensor(self, key: str) -> Tensor:
        """Return a tensor argument; float16 is converted to float32, so that an operation rounds only its result."""
        return widen(self.raw(key))

    def tensors(self, key: str) -> list[Tensor]:
        """Return the tensors of a variadic argument."""
        return [widen(value) for value in self.arguments[key]]

    def numbers(self, key: str, default: list[int] | None = None) -> list[int]:
        """Return an argument of integers as a list."""
        if key not in self.arguments:
            return list(default or [])
        return [int(value) for value in self.raw(key).reshape(-1).tolist()]

    def number(self, key: str, default: float = 0.0) -> float:
        """Return a scalar argument."""
        return float(self.raw(key).item()) if key in self.arguments else default

    def integer(self, key: str, default: int = 0) -> int:
        """Return a scalar integer argument."""
        return int(self.raw(key).item()) if key in self.arguments else default

    def flag(self, key: str, default: bool = False) -> bool:
        """Return a scalar Boolean argument."""
        return bool(self.raw(key).item()) if key in self.arguments else default

    def text(self, key: str, default: str = "") -> str:
        """Return a string argument."""
        return str(self.arguments[key][0]) if key in self.arguments else default

    def unsupported(self, message: str) -> ConversionError:
        """Build the error for an argument that the evaluator does not support."""
        return ConversionError("evaluate", message, node=self.name, op=self.kind)


Rule = Callable[[OperationCall], Any]
R = TypeVar("R", bound=Rule)
RULES: dict[str, Rule] = {}


def operation(*kinds: str) -> Callable[[R], R]:
    """Register a function as the rule of one or more MIL operations."""

    def register(rule: R) -> R:
        for kind in kinds:
            if kind in RULES:
                raise ValueError(f"MIL operation '{kind}' has two rules.")
            RULES[kind] = rule
        return rule

    return register


def widen(value: Tensor) -> Tensor:
    """Return float16 as float32; other types are unchanged."""
    return value.float() if value.dtype == torch.float16 else value


def narrow(value: Tensor) -> Tensor:
    """Round float32 to half precision and return it as float32."""
    return value.half().float()
