"""Evaluate the program of a saved ``.mlpackage`` in torch, on any machine; valid for fidelity, not for latency.

Every tensor has the type that the package declares. An operation computes in float32 and its result is rounded once to
the declared type; with ``accumulate="float16"`` sums inside convolutions, matrix products, reductions and norms are in
half precision too. The arithmetic of hardware is between these two or near them; agreement in both is necessary for a
faithful artifact, but not sufficient.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from effbench.deploy import abbreviate
from effbench.deploy.targets.coreml.evaluator.registry import RULES, OperationCall
from effbench.deploy.targets.coreml.lazy import torch
from effbench.deploy.targets.coreml.package import Name, Operation, Package, Variable
from effbench.errors import ConversionError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

Array = npt.NDArray[Any]
ACCUMULATE = ("float32", "float16")
FAMILIES = ("pointwise", "shape", "index", "reduce", "matrix", "pool", "resize", "compress")

for _family in FAMILIES:
    import_module(f"{__name__}.{_family}")


class Evaluator:
    """A loaded program that runs on arrays.

    Raises:
        ConversionError: The program has operations without a rule; the message names them.
    """

    def __init__(self, package: Package, accumulate: str = "float32") -> None:
        if accumulate not in ACCUMULATE:
            raise UsageError(f"Cannot accumulate in '{accumulate}'.", hint=f"Valid: {', '.join(ACCUMULATE)}.")
        self.package = package
        self.half = accumulate == "float16"
        _refuse_unknown(package)
        self._constants: dict[str, Any] = {}
        self._steps: list[Operation] = []
        for op in package.operations:
            if op.kind == "const":
                self._constants[op.outputs[0].name] = _literal(op.inputs["val"][0])
            elif op.kind.startswith("constexpr_"):
                self._store(op, self._run(op, self._constants), self._constants)
            else:
                self._steps.append(op)
        self._last = _last_uses(self._steps, package.outputs)

    def __call__(self, feeds: Mapping[str, Array]) -> dict[str, Any]:
        """Run once on arrays by input name; return arrays (and labels) by output name."""
        values: dict[str, Any] = {var.name: _tensor(feeds[var.name], var) for var in self.package.inputs}
        with torch.inference_mode():
            for position, op in enumerate(self._steps):
                self._store(op, self._run(op, values), values)
                for name in self._last.get(position, ()):
                    values.pop(name, None)
        outputs = {name: values[name] if name in values else self._constants[name] for name in self.package.outputs}
        return {name: value.numpy() if isinstance(value, torch.Tensor) else value for name, value in outputs.items()}

    def _run(self, op: Operation, values: Mapping[str, Any]) -> Any:
        arguments = {key: tuple(self._resolve(item, values) for item in items) for key, items in op.inputs.items()}
        half = self.half and bool(op.outputs) and op.outputs[0].dtype == "float16"
        return RULES[op.kind](OperationCall(op.kind, op.name, arguments, op.outputs, half))

    def _resolve(self, item: Any, values: Mapping[str, Any]) -> Any:
        if isinstance(item, Name):
            return values[item.name] if item.name in values else self._constants[item.name]
        return _literal(item)

    def _store(self, op: Operation, result: Any, values: dict[str, Any]) -> None:
        results = result if isinstance(result, list) else [result]
        for variable, value in zip(op.outputs, results, strict=True):
            values[variable.name] = _round_to_declared(op, value, variable)


def _refuse_unknown(package: Package) -> None:
    kinds = Counter(op.kind for op in package.operations if op.kind != "const")
    unknown = sorted(set(kinds) - set(RULES))
    if unknown:
        raise ConversionError(
            "evaluate",
            f"{package.path.name} has operations without a rule: {abbreviate(unknown)}.",
            op=unknown[0],
            hint=f"{len(RULES)} operations are supported, among them all that effbench's translator writes.",
        )


def _last_uses(steps: list[Operation], outputs: tuple[str, ...]) -> dict[int, list[str]]:
    """Return the values that are no longer needed after each step, to free their memory."""
    last: dict[str, int] = {}
    for position, op in enumerate(steps):
        names = [item.name for items in op.inputs.values() for item in items if isinstance(item, Name)]
        last.update(dict.fromkeys([*names, *(out.name for out in op.outputs)], position))
    unneeded: dict[int, list[str]] = {}
    for name, position in last.items():
        if name not in outputs:
            unneeded.setdefault(position, []).append(name)
    return unneeded


def _literal(value: Any) -> Any:
    if not isinstance(value, np.ndarray):
        return value
    widened = value.astype({"uint16": np.int32, "uint32": np.int64}.get(value.dtype.name, value.dtype))
    return torch.from_numpy(np.ascontiguousarray(widened).reshape(value.shape).copy())


def _tensor(array: Array, variable: Variable) -> Tensor:
    value = torch.from_numpy(np.ascontiguousarray(array).reshape(array.shape).copy())
    if tuple(value.shape) != variable.shape:
        raise ConversionError(
            "evaluate", f"input '{variable.name}' has shape {tuple(value.shape)}, not {variable.shape}"
        )
    return value.to(getattr(torch, variable.dtype))


def _round_to_declared(op: Operation, value: Any, variable: Variable) -> Any:
    """Round a result to the type that the package declares, and check its declared shape."""
    if not isinstance(value, torch.Tensor) or variable.dtype not in (
        "float16",
        "float32",
        "int32",
        "int8",
        "uint8",
        "bool",
        "int16",
        "uint16",
    ):
        return value
    if tuple(value.shape) != variable.shape and -1 not in variable.shape:
        raise ConversionError(
            "evaluate", f"has shape {tuple(value.shape)}, but {variable.shape} is declared", node=op.name, op=op.kind
        )
    return value.to(getattr(torch, "int32" if variable.dtype == "uint16" else variable.dtype))
