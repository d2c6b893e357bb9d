"""Sums and products with an accumulator in float32 or in half precision, as hardware may have.

With ``half`` a sum consists of exact partial sums of `CHUNK` terms, as in a matrix unit's dot product. Each is rounded
to half precision and added to a running sum, which is rounded again. A kernel window is never split.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from effbench.deploy.targets.coreml.evaluator.registry import narrow
from effbench.deploy.targets.coreml.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

CHUNK = 32
"""Terms added before rounding, as in `effbench.deploy.interpreter`; dot-product units take 16 to 64."""


def total(x: Tensor, axes: Sequence[int], half: bool) -> Tensor:
    """Sum over axes, which are kept with size 1."""
    if not half or not axes:
        return x.sum(tuple(axes), keepdim=True) if axes else x
    axes = [axis % x.ndim for axis in axes]
    remaining = [axis for axis in range(x.ndim) if axis not in axes]
    rows = x.permute(*axes, *remaining).reshape(-1, *(x.shape[axis] for axis in remaining))
    sums = torch.zeros(rows.shape[1:])
    for part in torch.split(rows, CHUNK):
        sums = narrow(sums + narrow(part.sum(0)))
    return sums.reshape([1 if axis in axes else size for axis, size in enumerate(x.shape)])


def product(a: Tensor, b: Tensor, half: bool) -> Tensor:
    """Multiply matrices, shapes (..., M, K) and (..., K, N), with numpy's rules for rank 1 and broadcasting."""
    if not half or not a.is_floating_point():
        return torch.matmul(a, b)
    axis = b.ndim - 2 if b.ndim > 1 else 0
    pairs = zip(torch.split(a, CHUNK, a.ndim - 1), torch.split(b, CHUNK, axis), strict=True)
    left, right = next(pairs)
    sums = narrow(torch.matmul(left, right))
    for left, right in pairs:
        sums = narrow(sums + narrow(torch.matmul(left, right)))
    return sums


def convolve(
    x: Tensor, weight: Tensor, strides: Sequence[int], dilations: Sequence[int], groups: int, half: bool
) -> Tensor:
    """Convolve an already padded input over 1, 2 or 3 spatial dimensions.

    Args:
        x: Shape (B, C, *spatial).
        weight: Shape (O, C / groups, *kernel).
        strides: One per spatial dimension.
        dilations: One per spatial dimension.
        groups: Number of channel groups.
        half: Accumulate in half precision.
    """
    run = (torch.nn.functional.conv1d, torch.nn.functional.conv2d, torch.nn.functional.conv3d)[x.ndim - 3]
    if not half:
        return run(x, weight, None, tuple(strides), 0, tuple(dilations), groups)
    grouped = x.reshape(x.shape[0], groups, -1, *x.shape[2:])
    channels = max(1, CHUNK // math.prod(weight.shape[2:]))
    parts = zip(torch.split(grouped, channels, 2), torch.split(weight, channels, 1), strict=True)
    sums: Tensor | None = None
    for inputs, filters in parts:
        plane = narrow(run(inputs.flatten(1, 2), filters, None, tuple(strides), 0, tuple(dilations), groups))
        sums = plane if sums is None else narrow(sums + plane)
    assert sums is not None  # a convolution has at least one channel
    return sums
