"""MIL operations that work element by element."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from effbench.deploy.targets.coreml.evaluator.registry import RULES, OperationCall, operation
from effbench.deploy.targets.coreml.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

UNARY: dict[str, str] = {
    **{kind: kind for kind in ("abs", "acos", "asin", "atan", "atanh", "ceil", "cos", "cosh", "erf", "exp", "exp2")},
    **{kind: kind for kind in ("floor", "relu", "sigmoid", "sign", "sin", "sinh", "sqrt", "square", "tan", "tanh")},
    "round": "round",
    "logical_not": "logical_not",
}
BINARY: dict[str, str] = {
    "add": "add",
    "sub": "sub",
    "mul": "mul",
    "maximum": "maximum",
    "minimum": "minimum",
    "pow": "pow",
    "mod": "remainder",
    "equal": "eq",
    "not_equal": "ne",
    "greater": "gt",
    "greater_equal": "ge",
    "less": "lt",
    "less_equal": "le",
    "logical_and": "logical_and",
    "logical_or": "logical_or",
    "logical_xor": "logical_xor",
}
PARAMETRIC: dict[str, Callable[[Tensor, float, float], Tensor]] = {
    "clamped_relu": lambda x, a, b: torch.where(x >= 0, x, a * x).clamp(max=b),
    "elu": lambda x, a, b: torch.where(x > 0, x, a * torch.expm1(x)),
    "leaky_relu": lambda x, a, b: torch.where(x >= 0, x, a * x),
    "linear_activation": lambda x, a, b: a * x + b,
    "scaled_tanh": lambda x, a, b: a * torch.tanh(b * x),
    "sigmoid_hard": lambda x, a, b: (a * x + b).clamp(0, 1),
    "threshold": lambda x, a, b: x.clamp(min=a),
    "thresholded_relu": lambda x, a, b: torch.where(x >= a, x, torch.zeros_like(x)),
}
"""Operations with constants alpha and beta."""


def _unary(kind: str) -> Callable[[OperationCall], Tensor]:
    def rule(call: OperationCall) -> Tensor:
        result: Tensor = getattr(torch, UNARY[kind])(call.tensor("x"))
        return result

    return rule


def _binary(kind: str) -> Callable[[OperationCall], Tensor]:
    def rule(call: OperationCall) -> Tensor:
        result: Tensor = getattr(torch, BINARY[kind])(call.tensor("x"), call.tensor("y"))
        return result

    return rule


def _parametric(kind: str) -> Callable[[OperationCall], Tensor]:
    def rule(call: OperationCall) -> Tensor:
        return PARAMETRIC[kind](call.tensor("x"), call.number("alpha", 1.0), call.number("beta"))

    return rule


RULES.update({kind: _unary(kind) for kind in UNARY})
RULES.update({kind: _binary(kind) for kind in BINARY})
RULES.update({kind: _parametric(kind) for kind in PARAMETRIC})


@operation("real_div")
def real_div(call: OperationCall) -> Tensor:
    """Divide; integers are rounded toward zero, because the package declares an integer output."""
    x, y = call.tensor("x"), call.tensor("y")
    if x.is_floating_point():
        return x / y
    return torch.div(x, y, rounding_mode="trunc")


@operation("floor_div")
def floor_div(call: OperationCall) -> Tensor:
    """Divide and round toward minus infinity."""
    return torch.div(call.tensor("x"), call.tensor("y"), rounding_mode="floor")


@operation("inverse")
def inverse(call: OperationCall) -> Tensor:
    """Return 1 / (x + epsilon)."""
    return 1 / (call.tensor("x") + call.number("epsilon", 1e-4))


@operation("rsqrt")
def rsqrt(call: OperationCall) -> Tensor:
    """Return 1 / sqrt(x + epsilon)."""
    return torch.rsqrt(call.tensor("x") + call.number("epsilon", 1e-12))


@operation("log")
def log(call: OperationCall) -> Tensor:
    """Take the logarithm of x + epsilon."""
    return torch.log(call.tensor("x") + call.number("epsilon", 1e-45))


@operation("relu6")
def relu6(call: OperationCall) -> Tensor:
    """Clip to 0 ... 6."""
    return call.tensor("x").clamp(0, 6)


@operation("silu")
def silu(call: OperationCall) -> Tensor:
    """Return x * sigmoid(x)."""
    return torch.nn.functional.silu(call.tensor("x"))


@operation("softplus")
def softplus(call: OperationCall) -> Tensor:
    """Return log(1 + exp(x)), without torch's linear branch above 20."""
    x = call.tensor("x")
    return torch.logaddexp(x, torch.zeros_like(x))


@operation("softsign")
def softsign(call: OperationCall) -> Tensor:
    """Return x / (1 + |x|)."""
    return torch.nn.functional.softsign(call.tensor("x"))


@operation("softplus_parametric")
def softplus_parametric(call: OperationCall) -> Tensor:
    """Return alpha * log(1 + exp(beta * x)) with constants per channel."""
    x, shape = call.tensor("x"), (-1, *(1 for _ in range(call.raw("x").ndim - 2)))
    inner = call.tensor("beta").reshape(shape) * x
    return call.tensor("alpha").reshape(shape) * torch.logaddexp(inner, torch.zeros_like(inner))


@operation("prelu")
def prelu(call: OperationCall) -> Tensor:
    """Scale negative values by a constant per channel (axis 1)."""
    x = call.tensor("x")
    alpha = call.tensor("alpha").reshape(-1, *(1 for _ in range(x.ndim - 2)))
    return torch.where(x >= 0, x, alpha * x)


@operation("gelu")
def gelu(call: OperationCall) -> Tensor:
    """Compute GELU exactly, by tanh or by the sigmoid approximation."""
    x, mode = call.tensor("x"), call.text("mode", "EXACT")
    if mode == "EXACT":
        return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))
    if mode == "TANH_APPROXIMATION":
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    if mode == "SIGMOID_APPROXIMATION":
        return x * torch.sigmoid(1.702 * x)
    raise call.unsupported(f"GELU mode '{mode}'")


@operation("clip")
def clip(call: OperationCall) -> Tensor:
    """Limit to alpha ... beta."""
    return call.tensor("x").clamp(call.number("alpha"), call.number("beta"))


@operation("select")
def select(call: OperationCall) -> Tensor:
    """Select from a where the condition is true, else from b."""
    return torch.where(call.raw("cond").bool(), call.tensor("a"), call.tensor("b"))


@operation("identity")
def identity(call: OperationCall) -> Tensor:
    """Return the input."""
    return call.raw("x")


@operation("cast")
def cast(call: OperationCall) -> Tensor:
    """Change the element type; numbers become integers by truncation."""
    target = {"fp16": "float16", "fp32": "float32"}.get(call.text("dtype"), call.text("dtype"))
    dtype: torch.dtype = getattr(torch, target)
    return call.raw("x").to(dtype)
