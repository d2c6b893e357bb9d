"""Activation functions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from effbench.deploy.interpreter.registry import OpCall, operator


@operator("Relu")
def relu(call: OpCall, x: Tensor) -> Tensor:
    """Return max(x, 0)."""
    return torch.relu(x)


@operator("LeakyRelu")
def leaky_relu(call: OpCall, x: Tensor, *, alpha: float = 0.01) -> Tensor:
    """Return x where positive, else alpha x."""
    return F.leaky_relu(x, alpha)


@operator("PRelu")
def prelu(call: OpCall, x: Tensor, slope: Tensor) -> Tensor:
    """Return x where positive, else slope x; a 1-D slope belongs to the channels in models from old exporters."""
    if slope.dim() == 1 and x.dim() > 2 and slope.shape[0] not in (1, x.shape[-1]):
        slope = slope.reshape(-1, *[1] * (x.dim() - 2))
    return torch.where(x < 0, slope * x, x)


@operator("Elu")
def elu(call: OpCall, x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """Return x where positive, else alpha (exp(x) - 1)."""
    return F.elu(x, alpha)


@operator("Celu")
def celu(call: OpCall, x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """Return x where positive, else alpha (exp(x / alpha) - 1)."""
    return F.celu(x, alpha)


@operator("Selu")
def selu(
    call: OpCall, x: Tensor, *, alpha: float = 1.67326319217681884765625, gamma: float = 1.05070102214813232421875
) -> Tensor:
    """Return the scaled exponential linear unit."""
    return gamma * torch.where(x > 0, x, alpha * torch.expm1(x))


@operator("Sigmoid")
def sigmoid(call: OpCall, x: Tensor) -> Tensor:
    """Return 1 / (1 + exp(-x))."""
    return torch.sigmoid(x)


@operator("HardSigmoid")
def hard_sigmoid(call: OpCall, x: Tensor, *, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    """Return alpha x + beta, limited to 0 and 1."""
    return (alpha * x + beta).clamp(0, 1)


@operator("HardSwish")
def hard_swish(call: OpCall, x: Tensor) -> Tensor:
    """Return x times the hard sigmoid with alpha 1/6."""
    return x * (x / 6 + 0.5).clamp(0, 1)


@operator("Tanh")
def tanh(call: OpCall, x: Tensor) -> Tensor:
    """Return the hyperbolic tangent."""
    return torch.tanh(x)


@operator("Softplus")
def softplus(call: OpCall, x: Tensor) -> Tensor:
    """Return log(1 + exp(x))."""
    return F.softplus(x)


@operator("Softsign")
def softsign(call: OpCall, x: Tensor) -> Tensor:
    """Return x / (1 + |x|)."""
    return x / (1 + x.abs())


@operator("Gelu")
def gelu(call: OpCall, x: Tensor, *, approximate: str = "none") -> Tensor:
    """Return the Gaussian error linear unit."""
    return F.gelu(x, approximate=approximate)


@operator("Mish")
def mish(call: OpCall, x: Tensor) -> Tensor:
    """Return x tanh(softplus(x))."""
    return F.mish(x)


@operator("Swish")
def swish(call: OpCall, x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """Return x sigmoid(alpha x)."""
    return x * torch.sigmoid(alpha * x)


@operator("SwiGLU")
def swiglu(call: OpCall, gate: Tensor, x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """Return x times the swish of the gate."""
    return call.math.round(swish(call, gate, alpha=alpha)) * x


@operator("ThresholdedRelu")
def thresholded_relu(call: OpCall, x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """Return x above alpha, else 0."""
    return torch.where(x > alpha, x, torch.zeros_like(x))


@operator("Shrink")
def shrink(call: OpCall, x: Tensor, *, bias: float = 0.0, lambd: float = 0.5) -> Tensor:
    """Move values beyond lambd toward zero by a bias, clear the others."""
    moved = torch.where(x > lambd, x - bias, torch.where(x < -lambd, x + bias, torch.zeros_like(x)))
    return moved.to(x.dtype)


def stable_softmax(call: OpCall, x: Tensor, dim: int) -> Tensor:
    """Return the softmax; the maximum is subtracted first, as in every runtime."""
    powers = call.math.round(torch.exp(call.math.round(x - x.amax(dim, keepdim=True))))
    return powers / call.math.sum(powers, [dim], keepdim=True)


@operator("Softmax", since=13)
def softmax(call: OpCall, x: Tensor, *, axis: int = -1) -> Tensor:
    """Return the softmax along an axis."""
    return stable_softmax(call, x, axis)


@operator("Softmax")
def softmax_flat(call: OpCall, x: Tensor, *, axis: int = 1) -> Tensor:
    """Return the softmax over all dimensions from an axis on (opsets before 13)."""
    axis %= x.dim()
    return stable_softmax(call, x.flatten(axis), axis).reshape(x.shape)


@operator("LogSoftmax", since=13)
def log_softmax(call: OpCall, x: Tensor, *, axis: int = -1) -> Tensor:
    """Return the logarithm of the softmax along an axis."""
    shifted = call.math.round(x - x.amax(axis, keepdim=True))
    return shifted - call.math.round(torch.log(call.math.sum(call.math.round(torch.exp(shifted)), [axis], True)))


@operator("LogSoftmax")
def log_softmax_flat(call: OpCall, x: Tensor, *, axis: int = 1) -> Tensor:
    """Return the logarithm of the softmax over all dimensions from an axis on (opsets before 13)."""
    axis %= x.dim()
    result: Tensor = log_softmax(call, x.flatten(axis), axis=axis).reshape(x.shape)
    return result


@operator("Hardmax")
def hardmax(call: OpCall, x: Tensor, *, axis: int | None = None) -> Tensor:
    """Return 1 at the first largest element along an axis, 0 elsewhere."""
    axis = axis if axis is not None else (-1 if call.opset >= 13 else 1)
    flat = x if call.opset >= 13 else x.flatten(axis)
    largest = torch.zeros_like(flat).scatter_(axis, flat.argmax(axis, keepdim=True), 1)
    return largest.reshape(x.shape)
