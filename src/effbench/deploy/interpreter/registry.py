"""The table of operators: one small function each, its ONNX attributes as keyword arguments with their defaults."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from effbench.deploy.interpreter.arithmetic import Arithmetic


@dataclass(frozen=True)
class OpCall:
    """The context of one node for its operator.

    ``floats`` is the type of floating-point results in the run's mode, or None for the graph's own types.
    """

    math: Arithmetic
    opset: int
    outputs: int
    floats: torch.dtype | None = None

    def float_type(self, declared: torch.dtype) -> torch.dtype:
        """Return the type of a result that the graph declares as ``declared``."""
        return self.floats if self.floats is not None and declared.is_floating_point else declared


Function = Callable[..., Any]


@dataclass(frozen=True)
class Operator:
    """An operator of ONNX from opset ``since`` on; ``moves`` means that it only moves or converts values."""

    name: str
    function: Function
    since: int
    moves: bool
    attributes: frozenset[str]


_OPERATORS: dict[str, list[Operator]] = {}

# By the standard, these do not influence the result.
_IGNORED = frozenset({"consumed_inputs", "stash_type"})


def operator(*names: str, since: int = 1, moves: bool = False) -> Callable[[Function], Function]:
    """Register a function for one or more operators."""

    def register(function: Function) -> Function:
        parameters = inspect.signature(function).parameters.values()
        attributes = frozenset(p.name for p in parameters if p.kind is p.KEYWORD_ONLY) | _IGNORED
        for name in names:
            _OPERATORS.setdefault(name, []).append(Operator(name, function, since, moves, attributes))
        return function

    return register


def find(name: str, opset: int) -> Operator | None:
    """Return the newest implementation that the opset allows, or None."""
    fitting = [op for op in _OPERATORS.get(name, ()) if op.since <= opset]
    return max(fitting, key=lambda op: op.since, default=None)


def operators() -> tuple[str, ...]:
    """Return the names of all operators, sorted."""
    return tuple(sorted(_OPERATORS))


def ignored(attribute: str) -> bool:
    """Tell whether an attribute has no influence on the result."""
    return attribute in _IGNORED
