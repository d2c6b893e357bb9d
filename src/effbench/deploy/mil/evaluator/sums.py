"""Sums and products as hardware may form them: in float32, or with an accumulator in half precision.

With ``half`` every product is added to a half accumulator in index order and each addition is rounded once, as a
chain of fused multiply-adds does. That is the strictest reading; hardware with partial sums loses less.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from effbench.deploy.mil.evaluator.registry import widen
from effbench.deploy.mil.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


def total(x: Tensor, axes: Sequence[int], half: bool) -> Tensor:
    """Sum over axes, which stay as size 1."""
    if not half or not axes:
        return x.sum(tuple(axes), keepdim=True) if axes else x
    axes = [axis % x.ndim for axis in axes]
    kept = [axis for axis in range(x.ndim) if axis not in axes]
    rows = x.permute(*axes, *kept).reshape(-1, *(x.shape[axis] for axis in kept)).half().contiguous()
    sums = torch.zeros(rows.shape[1:], dtype=torch.float16)
    for row in rows:
        sums += row
    return sums.float().reshape([1 if axis in axes else size for axis, size in enumerate(x.shape)])


def product(a: Tensor, b: Tensor, half: bool) -> Tensor:
    """Multiply matrices, shapes (..., M, K) and (..., K, N), with numpy's rules for rank 1 and broadcasting."""
    if not half:
        return torch.matmul(a, b)
    left = a.unsqueeze(0) if a.ndim == 1 else a
    right = b.unsqueeze(-1) if b.ndim == 1 else b
    # K comes first, so that each step of the chain reads contiguous memory.
    columns = left.half().movedim(-1, 0).unsqueeze(-1).contiguous()
    rows = right.half().movedim(-2, 0).unsqueeze(-2).contiguous()
    sums = torch.zeros_like(columns[0] * rows[0])
    for column, row in zip(columns, rows, strict=True):
        sums.addcmul_(column, row)
    sums = sums.squeeze(-1) if b.ndim == 1 else sums
    return widen(sums.squeeze(-1 if b.ndim == 1 else -2) if a.ndim == 1 else sums)


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
    if not half:
        run = (torch.nn.functional.conv1d, torch.nn.functional.conv2d, torch.nn.functional.conv3d)[x.ndim - 3]
        return run(x, weight, None, tuple(strides), 0, tuple(dilations), groups)
    batch, channels, *spatial = x.shape
    kernel = weight.shape[2:]
    sizes = [(n - d * (k - 1) - 1) // s + 1 for n, d, k, s in zip(spatial, dilations, kernel, strides, strict=True)]
    inputs = x.half().reshape(batch, groups, channels // groups, *spatial)
    filters = weight.half().reshape(groups, -1, *weight.shape[1:])
    sums = torch.zeros((batch, groups, filters.shape[1], *sizes), dtype=torch.float16)
    taps = list(itertools.product(*map(range, kernel)))
    for channel, (index, tap) in itertools.product(range(channels // groups), enumerate(taps)):
        places = zip(tap, dilations, sizes, strides, strict=True)
        window: Any = (..., *(slice(t * d, t * d + (n - 1) * s + 1, s) for t, d, n, s in places))
        plane = inputs[:, :, channel : channel + 1][window]
        factor = filters[:, :, channel].flatten(2)[:, :, index].reshape(1, groups, -1, *(1 for _ in sizes))
        sums.addcmul_(plane, factor)
    return sums.reshape(batch, -1, *sizes).float()
