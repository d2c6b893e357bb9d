"""MIL operations that read or write by index, and those that sort."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from effbench.deploy.targets.coreml.evaluator.registry import OperationCall, operation
from effbench.deploy.targets.coreml.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

REDUCE = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def _nonnegative(indices: Tensor, size: int) -> Tensor:
    indices = indices.long()
    return torch.where(indices < 0, indices + size, indices)


@operation("gather")
def gather(call: OperationCall) -> Tensor:
    """Take slices of an axis; the indices' shape replaces the axis after the batch dimensions."""
    x, batch = call.raw("x"), call.integer("batch_dims")
    axis = call.integer("axis") % x.ndim
    indices = _nonnegative(call.raw("indices"), x.shape[axis])
    if batch == 0:
        slices = x.index_select(axis, indices.reshape(-1))
        return slices.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])
    lead = x.shape[:batch]
    rows = x.reshape(-1, *x.shape[batch:])
    columns = indices.reshape(rows.shape[0], -1)
    slices = torch.stack([row.index_select(axis - batch, column) for row, column in zip(rows, columns, strict=True)])
    return slices.reshape(*lead, *x.shape[batch:axis], *indices.shape[batch:], *x.shape[axis + 1 :])


@operation("gather_along_axis")
def gather_along_axis(call: OperationCall) -> Tensor:
    """Take one element per index; the other coordinates are those of the index."""
    x = call.raw("x")
    axis = call.integer("axis") % x.ndim
    return x.gather(axis, _nonnegative(call.raw("indices"), x.shape[axis]))


@operation("gather_nd")
def gather_nd(call: OperationCall) -> Tensor:
    """Take elements or slices by coordinate tuples, after shared batch dimensions."""
    x, indices, batch = call.raw("x"), call.raw("indices").long(), call.integer("batch_dims")
    rows = x.reshape(-1, *x.shape[batch:])
    keys = indices.reshape(rows.shape[0], -1, indices.shape[-1])
    elements = torch.stack([row[tuple(key.unbind(-1))] for row, key in zip(rows, keys, strict=True)])
    return elements.reshape(*indices.shape[:-1], *x.shape[batch + indices.shape[-1] :])


@operation("scatter")
def scatter(call: OperationCall) -> Tensor:
    """Write slices of an axis at a vector of indices."""
    data, updates = call.tensor("data"), call.tensor("updates")
    axis = call.integer("axis") % data.ndim
    indices = _nonnegative(call.raw("indices"), data.shape[axis]).reshape(-1)
    result = data.movedim(axis, 0).clone()
    for index, update in zip(indices.tolist(), updates.movedim(axis, 0), strict=True):
        result[index] = _combine(call, result[index], update)
    return result.movedim(0, axis)


COMBINE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "update": lambda old, new: new,
    "add": lambda old, new: old + new,
    "sub": lambda old, new: old - new,
    "mul": lambda old, new: old * new,
    "div": lambda old, new: old / new,
    "max": lambda old, new: torch.maximum(old, new),
    "min": lambda old, new: torch.minimum(old, new),
}


def _combine(call: OperationCall, old: Tensor, new: Tensor) -> Tensor:
    return COMBINE[call.text("mode", "add")](old, new)


@operation("scatter_along_axis")
def scatter_along_axis(call: OperationCall) -> Tensor:
    """Write one element per index; the other coordinates are those of the index."""
    data, updates = call.tensor("data"), call.tensor("updates")
    axis = call.integer("axis") % data.ndim
    indices, mode = _nonnegative(call.raw("indices"), data.shape[axis]), call.text("mode", "add")
    if mode == "update":
        return data.scatter(axis, indices, updates)
    if mode not in REDUCE:
        raise call.unsupported(f"scatter mode '{mode}'")
    return data.scatter_reduce(axis, indices, updates, REDUCE[mode], include_self=True)


@operation("scatter_nd")
def scatter_nd(call: OperationCall) -> Tensor:
    """Write elements or slices at coordinate tuples."""
    data, indices, updates = call.tensor("data").clone(), call.raw("indices").long(), call.tensor("updates")
    keys = indices.reshape(-1, indices.shape[-1])
    rows = updates.reshape(keys.shape[0], *data.shape[indices.shape[-1] :])
    for key, row in zip(keys.tolist(), rows, strict=True):
        data[tuple(key)] = _combine(call, data[tuple(key)], row)
    return data


@operation("one_hot")
def one_hot(call: OperationCall) -> Tensor:
    """Write the on value at the index, the off value elsewhere."""
    indices, size = call.raw("indices").long(), call.integer("one_hot_vector_size")
    axis = call.integer("axis", -1) % (indices.ndim + 1)
    hits = torch.arange(size).reshape(-1, *(1 for _ in range(indices.ndim - axis))) == indices.unsqueeze(axis)
    on = call.raw("on_value") if "on_value" in call else torch.tensor(1, dtype=torch.int32)
    off = call.raw("off_value") if "off_value" in call else torch.tensor(0, dtype=torch.int32)
    return torch.where(hits, on, off)


@operation("non_zero")
def non_zero(call: OperationCall) -> Tensor:
    """Return the coordinates of elements that are not zero."""
    return call.raw("x").nonzero()


@operation("reverse_sequence")
def reverse_sequence(call: OperationCall) -> Tensor:
    """Reverse the first ``lengths[b]`` elements of each batch entry."""
    x, lengths = call.raw("x").clone(), call.numbers("lengths")
    sequence, batch = call.integer("seq_axis"), call.integer("batch_axis")
    rows = x.movedim((batch, sequence), (0, 1))
    for row, length in zip(rows, lengths, strict=True):
        row[:length] = row[:length].flip(0).clone()
    return rows.movedim((0, 1), (batch, sequence))


@operation("topk")
def topk(call: OperationCall) -> list[Tensor]:
    """Return the k largest (or smallest) elements in order, and their indices."""
    values, order = _sorted(call, call.integer("axis", -1), call.flag("ascending"))
    count, axis = call.integer("k", 1), call.integer("axis", -1)
    return [part.narrow(axis, 0, count) for part in (values, order)][: len(call.outputs)]


@operation("argsort")
def argsort(call: OperationCall) -> Tensor:
    """Return the indices that sort an axis."""
    return _sorted(call, call.integer("axis", -1), call.flag("ascending"))[1]


def _sorted(call: OperationCall, axis: int, ascending: bool) -> tuple[Tensor, Tensor]:
    # Among equal elements a stable sort puts the lower index first, in both directions.
    values, order = torch.sort(call.tensor("x"), dim=axis, descending=not ascending, stable=True)
    return values, order
