"""Operators that pick or place elements by index."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from effbench.deploy.interpreter.registry import OpCall, operator
from effbench.deploy.interpreter.shape import ints
from effbench.deploy.interpreter.types import torch_type


def _positive(indices: Tensor, length: int) -> Tensor:
    indices = indices.long()
    return torch.where(indices < 0, indices + length, indices)


@operator("Gather", moves=True)
def gather(call: OpCall, x: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    """Pick slices along an axis."""
    axis %= x.dim()
    picked = x.index_select(axis, _positive(indices, x.shape[axis]).reshape(-1))
    return picked.reshape((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))


@operator("GatherElements", moves=True)
def gather_elements(call: OpCall, x: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    """Pick single elements along an axis."""
    return torch.gather(x, axis, _positive(indices, x.shape[axis]))


@operator("GatherND", moves=True)
def gather_nd(call: OpCall, x: Tensor, indices: Tensor, *, batch_dims: int = 0) -> Tensor:
    """Pick slices by tuples of indices."""
    batch = x.shape[:batch_dims]
    flat = x.reshape(-1, *x.shape[batch_dims:])
    tuples = indices.long().reshape(flat.shape[0], -1, indices.shape[-1])
    picked = torch.stack([rows[t.unbind(-1)] for rows, t in zip(flat, tuples, strict=True)])
    return picked.reshape((*batch, *indices.shape[batch_dims:-1], *x.shape[batch_dims + indices.shape[-1] :]))


_REDUCE = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


@operator("ScatterElements", "Scatter")
def scatter_elements(
    call: OpCall, x: Tensor, indices: Tensor, updates: Tensor, *, axis: int = 0, reduction: str = "none"
) -> Tensor:
    """Place single elements along an axis."""
    places = _positive(indices, x.shape[axis])
    if reduction == "none":
        return x.scatter(axis, places, updates)
    return x.scatter_reduce(axis, places, updates, _REDUCE[reduction])


@operator("ScatterND")
def scatter_nd(call: OpCall, x: Tensor, indices: Tensor, updates: Tensor, *, reduction: str = "none") -> Tensor:
    """Place slices by tuples of indices."""
    depth = indices.shape[-1]
    strides = [1] * depth
    for i in reversed(range(depth - 1)):
        strides[i] = strides[i + 1] * x.shape[i + 1]
    columns = [_positive(column, n) for column, n in zip(indices.unbind(-1), x.shape, strict=False)]
    places = torch.stack([c * s for c, s in zip(columns, strides, strict=True)]).sum(0).reshape(-1)
    flat = x.reshape(-1, *x.shape[depth:])
    rows = updates.reshape(places.shape[0], *x.shape[depth:])
    if reduction == "none":
        return flat.index_copy(0, places, rows).reshape(x.shape)
    target = places.reshape(-1, *[1] * (flat.dim() - 1)).expand(rows.shape)
    return flat.scatter_reduce(0, target, rows, _REDUCE[reduction]).reshape(x.shape)


@operator("OneHot", moves=True)
def one_hot(call: OpCall, indices: Tensor, depth: Tensor, values: Tensor, *, axis: int = -1) -> Tensor:
    """Return one-hot vectors of two values; an index out of range gives a vector of the off value."""
    count = int(depth.reshape(()))
    places = _positive(indices, count).unsqueeze(axis)
    shape = [1] * places.dim()
    shape[axis] = count
    return torch.where(torch.arange(count).reshape(shape) == places, values[1], values[0])


@operator("Trilu", moves=True)
def trilu(call: OpCall, x: Tensor, k: Tensor | None = None, *, upper: int = 1) -> Tensor:
    """Keep the upper or lower triangle."""
    shift = 0 if k is None else int(k)
    return torch.triu(x, shift) if upper else torch.tril(x, shift)


@operator("EyeLike", moves=True)
def eye_like(call: OpCall, x: Tensor, *, dtype: int | None = None, k: int = 0) -> Tensor:
    """Return ones on a diagonal."""
    kind = x.dtype if dtype is None else call.float_type(torch_type(dtype))
    return torch.diagonal_scatter(torch.zeros(x.shape, dtype=kind), torch.ones(x.diagonal(k).shape, dtype=kind), k)


@operator("NonZero", moves=True)
def non_zero(call: OpCall, x: Tensor) -> Tensor:
    """Return the indices of the nonzero elements, shape (rank, count)."""
    return torch.nonzero(x).T


@operator("Compress", moves=True)
def compress(call: OpCall, x: Tensor, condition: Tensor, *, axis: int | None = None) -> Tensor:
    """Keep the slices whose condition holds."""
    x, axis = (x.reshape(-1), 0) if axis is None else (x, axis)
    return x.index_select(axis, torch.nonzero(condition)[:, 0])


@operator("ReverseSequence", moves=True)
def reverse_sequence(call: OpCall, x: Tensor, lengths: Tensor, *, batch_axis: int = 1, time_axis: int = 0) -> Tensor:
    """Reverse the first entries of each sequence."""
    rows = []
    for row, length in zip(x.unbind(batch_axis), ints(lengths), strict=True):
        time = time_axis - (time_axis > batch_axis)
        rest = row.narrow(time, length, row.shape[time] - length)
        rows.append(torch.cat([row.narrow(time, 0, length).flip(time), rest], time))
    return torch.stack(rows, batch_axis)


@operator("CenterCropPad", moves=True)
def center_crop_pad(call: OpCall, x: Tensor, shape: Tensor, *, axes: Sequence[int] | None = None) -> Tensor:
    """Crop or zero-pad around the center to a size."""
    chosen = list(axes) if axes is not None else list(range(x.dim()))
    for axis, size in zip(chosen, ints(shape), strict=True):
        axis %= x.dim()
        excess = x.shape[axis] - size
        if excess > 0:
            x = x.narrow(axis, excess // 2, size)
        elif excess < 0:
            before = -excess // 2
            pads = [0, 0] * (x.dim() - 1 - axis) + [before, -excess - before]
            x = torch.nn.functional.pad(x, pads)
    return x


@operator("Unique", moves=True)
def unique(
    call: OpCall, x: Tensor, *, axis: int | None = None, sorted: int = 1
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the distinct elements or slices, the first place of each, the number of each element, and the counts."""
    dim = 0 if axis is None else axis
    values, inverse, counts = torch.unique(
        x.reshape(-1) if axis is None else x, return_inverse=True, return_counts=True, dim=dim
    )
    places = torch.arange(len(inverse))
    first = torch.full((len(counts),), len(inverse)).scatter_reduce(0, inverse, places, "amin")
    if not sorted:  # in the order of first occurrence
        order = torch.argsort(first)
        rank = torch.empty_like(order).scatter(0, order, torch.arange(len(order)))
        values, first, inverse, counts = values.index_select(dim, order), first[order], rank[inverse], counts[order]
    return values, first, inverse, counts


@operator("TensorScatter", moves=True)
def tensor_scatter(
    call: OpCall, cache: Tensor, update: Tensor, start: Tensor | None = None, *, axis: int = -2, mode: str = "linear"
) -> Tensor:
    """Write an update into a cache along an axis, from one index per entry of the batch on."""
    axis %= cache.dim()
    length, count = cache.shape[axis], update.shape[axis]
    starts = torch.zeros(len(cache), dtype=torch.int64) if start is None else start
    result = cache.clone()
    for row, values, first in zip(result, update, ints(starts), strict=True):
        places = torch.arange(first, first + count)
        row.index_copy_(axis - 1, places % length if mode == "circular" else places, values)
    return result
