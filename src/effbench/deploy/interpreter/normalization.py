"""Normalizations. Their inner steps use the run's arithmetic: a lost epsilon or an overflowing square is simulated."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from effbench.deploy.interpreter.registry import OpCall, operator


def _inverse_deviation(call: OpCall, mean_square: Tensor, epsilon: float) -> Tensor:
    eps = call.math.round(torch.tensor(epsilon, dtype=mean_square.dtype))
    return call.math.round(torch.rsqrt(call.math.round(mean_square + eps)))


def _standardize(call: OpCall, x: Tensor, dims: Sequence[int], epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
    mean = call.math.mean(x, dims, keepdim=True)
    centered = call.math.round(x - call.math.round(mean))
    variance = call.math.mean(call.math.round(centered * centered), dims, keepdim=True)
    inverse = _inverse_deviation(call, variance, epsilon)
    return call.math.round(centered * inverse), mean, inverse


def _per_channel(values: Tensor, rank: int) -> Tensor:
    return values.reshape(-1, *[1] * (rank - 2))


@operator("BatchNormalization")
def batch_normalization(
    call: OpCall,
    x: Tensor,
    scale: Tensor,
    bias: Tensor,
    mean: Tensor,
    variance: Tensor,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    training_mode: int = 0,
    spatial: int = 1,
    is_test: int = 1,
) -> Tensor:
    """Scale and shift each channel; both numbers are folded in float, as in every converter."""
    if training_mode:
        raise ValueError("training_mode is not for inference")
    wide = [t.to(x.dtype) for t in (scale, bias, mean, variance)]
    factor = wide[0] / torch.sqrt(wide[3] + epsilon)
    offset = wide[1] - wide[2] * factor
    rank = max(x.dim(), 2)
    factor, offset = (_per_channel(call.math.round(t), rank) for t in (factor, offset))
    return call.math.round(x * factor) + offset


@operator("InstanceNormalization")
def instance_normalization(call: OpCall, x: Tensor, scale: Tensor, bias: Tensor, *, epsilon: float = 1e-5) -> Tensor:
    """Standardize each channel of each image, then scale and shift it."""
    normal, _, _ = _standardize(call, x, range(2, x.dim()), epsilon)
    return call.math.round(normal * _per_channel(scale, x.dim())) + _per_channel(bias, x.dim())


@operator("LayerNormalization")
def layer_normalization(
    call: OpCall, x: Tensor, scale: Tensor, bias: Tensor | None = None, *, axis: int = -1, epsilon: float = 1e-5
) -> tuple[Tensor, Tensor, Tensor]:
    """Standardize over the dimensions from an axis on; also return the mean and the inverse deviation."""
    normal, mean, inverse = _standardize(call, x, range(axis % x.dim(), x.dim()), epsilon)
    scaled = call.math.round(normal * scale)
    return (scaled if bias is None else scaled + bias), mean, inverse


@operator("RMSNormalization")
def rms_normalization(call: OpCall, x: Tensor, scale: Tensor, *, axis: int = -1, epsilon: float = 1e-5) -> Tensor:
    """Divide by the root of the mean square over the dimensions from an axis on."""
    square = call.math.mean(call.math.round(x * x), range(axis % x.dim(), x.dim()), keepdim=True)
    return call.math.round(x * _inverse_deviation(call, square, epsilon)) * scale


@operator("GroupNormalization")
def group_normalization(
    call: OpCall, x: Tensor, scale: Tensor, bias: Tensor, *, num_groups: int, epsilon: float = 1e-5
) -> Tensor:
    """Standardize groups of channels; scale and shift belong to groups before opset 21, to channels since."""
    grouped = x.reshape(x.shape[0], num_groups, -1)
    normal = _standardize(call, grouped, [2], epsilon)[0]
    if call.opset < 21:
        scaled = call.math.round(normal * scale.reshape(1, -1, 1)) + bias.reshape(1, -1, 1)
        return scaled.reshape(x.shape)
    return call.math.round(normal.reshape(x.shape) * _per_channel(scale, x.dim())) + _per_channel(bias, x.dim())


@operator("LpNormalization")
def lp_normalization(call: OpCall, x: Tensor, *, axis: int = -1, p: int = 2) -> Tensor:
    """Divide by the p-norm along an axis; a zero norm gives zeros."""
    powers = call.math.round(x.abs() ** p)
    norm = call.math.round(call.math.sum(powers, [axis], keepdim=True) ** (1 / p))
    return torch.where(norm == 0, torch.zeros_like(x), x / norm)


@operator("MeanVarianceNormalization")
def mean_variance_normalization(call: OpCall, x: Tensor, *, axes: Sequence[int] = (0, 2, 3)) -> Tensor:
    """Standardize over some axes; the standard's epsilon of 1e-9 is added to the deviation."""
    mean = call.math.mean(x, axes, keepdim=True)
    centered = call.math.round(x - mean)
    variance = call.math.mean(call.math.round(centered * centered), axes, keepdim=True)
    return centered / (call.math.round(torch.sqrt(variance)) + 1e-9)


@operator("LRN")
def lrn(call: OpCall, x: Tensor, *, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0) -> Tensor:
    """Divide by a power of the sum of squares over neighboring channels."""
    squares = call.math.round(x * x)
    before = (size - 1) // 2
    shape = [0, 0] * (x.dim() - 2) + [before, math.ceil((size - 1) / 2)]
    windows = torch.nn.functional.pad(squares, shape).unfold(1, size, 1)
    return x / (bias + alpha / size * call.math.sum(windows, [-1])) ** beta
