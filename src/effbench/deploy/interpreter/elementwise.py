"""Elementwise operators."""

from __future__ import annotations

import operator as python
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from effbench.deploy.interpreter.registry import Function, OpCall, operator


def _unary(name: str, function: Function) -> None:
    operator(name)(lambda call, x: function(x))


def _binary(name: str, function: Function) -> None:
    @operator(name)
    def compute(call: OpCall, a: Tensor, b: Tensor, *, axis: int | None = None, broadcast: int = 0) -> Any:
        # Before opset 7 the second operand could be laid along an axis of the first.
        if axis is not None and broadcast:
            b = b.reshape((*b.shape, *[1] * (a.dim() - axis % a.dim() - b.dim())))
        return function(a, b)


def _divide(a: Tensor, b: Tensor) -> Tensor:
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


_UNARY: dict[str, Function] = {
    "Abs": torch.abs,
    "Neg": torch.neg,
    "Exp": torch.exp,
    "Log": torch.log,
    "Sqrt": torch.sqrt,
    "Reciprocal": torch.reciprocal,
    "Floor": torch.floor,
    "Ceil": torch.ceil,
    "Round": torch.round,
    "Sign": torch.sign,
    "Erf": torch.erf,
    "Sin": torch.sin,
    "Cos": torch.cos,
    "Tan": torch.tan,
    "Asin": torch.asin,
    "Acos": torch.acos,
    "Atan": torch.atan,
    "Sinh": torch.sinh,
    "Cosh": torch.cosh,
    "Asinh": torch.asinh,
    "Acosh": torch.acosh,
    "Atanh": torch.atanh,
    "Not": torch.logical_not,
    "BitwiseNot": torch.bitwise_not,
    "IsNaN": torch.isnan,
}

_BINARY: dict[str, Function] = {
    "Add": torch.add,
    "Sub": torch.sub,
    "Mul": torch.mul,
    "Div": _divide,
    "And": torch.logical_and,
    "Or": torch.logical_or,
    "Xor": torch.logical_xor,
    "BitwiseAnd": torch.bitwise_and,
    "BitwiseOr": torch.bitwise_or,
    "BitwiseXor": torch.bitwise_xor,
    "Equal": torch.eq,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
}

for _name in _UNARY:
    _unary(_name, _UNARY[_name])
for _name in _BINARY:
    _binary(_name, _BINARY[_name])


@operator("Pow")
def power(call: OpCall, base: Tensor, exponent: Tensor) -> Tensor:
    """Raise to a power; the result has the type of the base."""
    if not base.is_floating_point() and exponent.is_floating_point():
        return torch.pow(base.double(), exponent).to(base.dtype)
    return torch.pow(base, exponent.to(base.dtype) if base.is_floating_point() else exponent).to(base.dtype)


@operator("Mod")
def mod(call: OpCall, a: Tensor, b: Tensor, *, fmod: int = 0) -> Tensor:
    """Return the remainder: the divisor's sign, or the dividend's with ``fmod``."""
    return torch.fmod(a, b) if fmod else torch.remainder(a, b)


@operator("BitShift")
def bit_shift(call: OpCall, a: Tensor, b: Tensor, *, direction: str) -> Tensor:
    """Shift bits left or right."""
    return torch.bitwise_left_shift(a, b) if direction == "LEFT" else torch.bitwise_right_shift(a, b)


@operator("Max")
def maximum(call: OpCall, *tensors: Tensor) -> Tensor:
    """Return the largest of several tensors, element by element."""
    return reduce(torch.maximum, tensors)


@operator("Min")
def minimum(call: OpCall, *tensors: Tensor) -> Tensor:
    """Return the smallest of several tensors, element by element."""
    return reduce(torch.minimum, tensors)


@operator("Sum")
def add_all(call: OpCall, *tensors: Tensor) -> Tensor:
    """Add several tensors."""
    return reduce(python.add, tensors)


@operator("Mean")
def average(call: OpCall, *tensors: Tensor) -> Tensor:
    """Average several tensors."""
    return call.math.round(reduce(python.add, tensors)) / len(tensors)


@operator("Where", moves=True)
def where(call: OpCall, condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Select elements of a where a condition holds, otherwise of b."""
    return torch.where(condition, a, b)


@operator("Clip")
def clip(
    call: OpCall,
    x: Tensor,
    low: Tensor | None = None,
    high: Tensor | None = None,
    *,
    min: float | None = None,
    max: float | None = None,
) -> Tensor:
    """Limit values; if the lower bound exceeds the upper one, the upper one holds."""
    low = low if low is not None or min is None else torch.tensor(min, dtype=x.dtype)
    high = high if high is not None or max is None else torch.tensor(max, dtype=x.dtype)
    x = x if low is None else torch.maximum(x, low)
    return x if high is None else torch.minimum(x, high)


@operator("IsInf")
def is_inf(call: OpCall, x: Tensor, *, detect_negative: int = 1, detect_positive: int = 1) -> Tensor:
    """Return a mask of the infinite values."""
    infinite = torch.isinf(x)
    return infinite & (((x > 0) & bool(detect_positive)) | ((x < 0) & bool(detect_negative)))


@operator("Identity", moves=True)
def identity(call: OpCall, x: Tensor) -> Tensor:
    """Return the input."""
    return x


@operator("Dropout", moves=True)
def dropout(
    call: OpCall,
    x: Tensor,
    ratio_input: Tensor | None = None,
    training: Tensor | None = None,
    *,
    ratio: float = 0.5,
    seed: int = 0,
    is_test: int = 1,
) -> tuple[Tensor, Tensor]:
    """Return the input and a mask of ones: inference drops nothing."""
    if training is not None and bool(training) and (ratio_input is None or float(ratio_input) > 0):
        raise ValueError("a Dropout in training mode is random")
    return x, torch.ones(x.shape, dtype=torch.bool)
