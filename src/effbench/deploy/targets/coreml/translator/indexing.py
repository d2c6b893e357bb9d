"""ONNX operators that read, write or pad by position."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from effbench.deploy.targets.coreml.lazy import mb
from effbench.deploy.targets.coreml.translator.registry import (
    Node,
    cast,
    dtype_of,
    like,
    operator,
    rank_of,
    shape_of,
    through,
)

MODES = {"none": "update", "add": "add", "mul": "mul", "max": "max", "min": "min"}


@operator("Slice")
def slice_(node: Node) -> Any:
    """Use ``slice_by_index`` with positions that are resolved when translating."""
    x = node.tensor(0)
    shape = shape_of(x)
    starts, ends = node.integers(1, "starts") or [], node.integers(2, "ends") or []
    axes = node.integers(3, "axes") or list(range(len(starts)))
    steps = node.integers(4, "steps") or [1] * len(starts)
    ranges = [range(size) for size in shape]
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        ranges[axis % len(shape)] = range(shape[axis % len(shape)])[slice(start, end, step)]
    return slice_ranges(x, ranges)


def slice_ranges(x: Any, ranges: Sequence[range]) -> Any:
    """Slice a variable to one range of positions per axis; no operation is added if all ranges are complete."""
    if all(span == range(size) for span, size in zip(ranges, shape_of(x), strict=True)):
        return x
    if any(len(span) == 0 for span in ranges):
        raise ValueError("the result would be empty")
    return mb.slice_by_index(
        x=x,
        begin=[span.start for span in ranges],
        end=[max(span.stop, 0) for span in ranges],
        stride=[span.step for span in ranges],
        end_mask=[span.stop < 0 for span in ranges],
    )


@operator("Gather")
def gather(node: Node) -> Any:
    """Use a slice for one constant position, else ``gather``."""
    x, indices = node.tensor(0), node.tensor(1)
    axis = node.get("axis", 0) % rank_of(x)
    if isinstance(indices, np.ndarray):
        indices = np.where(indices < 0, indices + shape_of(x)[axis], indices).astype(np.int32)
        if indices.ndim == 0 and rank_of(x) > 1:
            ranges = [range(size) for size in shape_of(x)]
            ranges[axis] = range(int(indices), int(indices) + 1)
            return mb.squeeze(x=slice_ranges(x, ranges), axes=[axis])
    return _numeric(x, lambda value: mb.gather(x=value, indices=indices, axis=axis))


def _numeric(x: Any, rule: Any) -> Any:
    """Apply a rule that MIL has only for numbers; Booleans are cast to integers and back."""
    return through(x, "int32", rule) if dtype_of(x) == np.bool_ else rule(x)


def _nonnegative(node: Node, index: int, sizes: Any) -> Any:
    """Return indices with the size added to negative ones."""
    indices = node.tensor(index)
    if isinstance(indices, np.ndarray):
        return np.where(indices < 0, indices + sizes, indices).astype(np.int32)
    negative = cast(mb.less(x=indices, y=np.int32(0)), "int32")
    return mb.add(x=indices, y=mb.mul(x=negative, y=np.asarray(sizes, np.int32)))


@operator("GatherElements")
def gather_elements(node: Node) -> Any:
    """Use ``gather_along_axis`` on an input sliced to the indices' extent."""
    x = node.tensor(0)
    axis = node.get("axis", 0) % rank_of(x)
    indices = _nonnegative(node, 1, shape_of(x)[axis])
    extents = [range(size if i == axis else shape_of(indices)[i]) for i, size in enumerate(shape_of(x))]
    return _numeric(slice_ranges(x, extents), lambda value: mb.gather_along_axis(x=value, indices=indices, axis=axis))


@operator("GatherND")
def gather_nd(node: Node) -> Any:
    """Use ``gather_nd``."""
    x, batch = node.tensor(0), int(node.get("batch_dims", 0))
    depth = shape_of(node.tensor(1))[-1]
    indices = _nonnegative(node, 1, np.asarray(shape_of(x)[batch : batch + depth]))
    return _numeric(x, lambda value: mb.gather_nd(x=value, indices=indices, batch_dims=batch))


def _mode(node: Node) -> str:
    reduction = node.get("reduction", "none")
    return MODES[reduction.decode() if isinstance(reduction, bytes) else reduction]


@operator("Scatter", "ScatterElements")
def scatter_elements(node: Node) -> Any:
    """Use ``scatter_along_axis``; updates narrower than the data become coordinates of ``scatter_nd``."""
    data, updates = node.tensor(0), node.tensor(2)
    axis = node.get("axis", 0) % rank_of(data)
    indices = _nonnegative(node, 1, shape_of(data)[axis])
    shape = shape_of(indices)
    if all(size == shape_of(data)[i] for i, size in enumerate(shape) if i != axis):
        return mb.scatter_along_axis(data=data, indices=indices, updates=updates, axis=axis, mode=_mode(node))
    columns = [mb.reshape(x=indices, shape=[-1, 1]) if i == axis else grid for i, grid in enumerate(_grids(shape))]
    keys = mb.concat(values=columns, axis=1)
    return mb.scatter_nd(data=data, indices=keys, updates=mb.reshape(x=updates, shape=[-1]), mode=_mode(node))


def _grids(shape: tuple[int, ...]) -> list[Any]:
    return [grid.reshape(-1, 1).astype(np.int32) for grid in np.indices(shape)]


@operator("ScatterND")
def scatter_nd(node: Node) -> Any:
    """Use ``scatter_nd``."""
    data, updates = node.tensor(0), node.tensor(2)
    depth = shape_of(node.tensor(1))[-1]
    indices = _nonnegative(node, 1, np.asarray(shape_of(data)[:depth]))
    return mb.scatter_nd(data=data, indices=indices, updates=updates, mode=_mode(node))


@operator("Pad")
def pad(node: Node) -> Any:
    """Use ``pad`` for a constant, gathers of positions for the other modes; negative amounts crop."""
    x = node.tensor(0)
    shape = shape_of(x)
    amounts = node.integers(1, "pads") or []
    axes = node.integers(3, "axes") or list(range(len(shape)))
    pairs = [(0, 0)] * len(shape)
    for axis, before, after in zip(axes, amounts[: len(axes)], amounts[len(axes) :], strict=True):
        pairs[axis % len(shape)] = (before, after)
    x = slice_ranges(
        x, [range(max(-before, 0), size - max(-after, 0)) for size, (before, after) in zip(shape, pairs, strict=True)]
    )
    pairs = [(max(before, 0), max(after, 0)) for before, after in pairs]
    mode = node.get("mode", "constant")
    mode = mode.decode() if isinstance(mode, bytes) else mode
    if mode != "constant":
        return _pad_by_position(x, pairs, mode)
    value = node.constant(2, "the padding value", np.asarray(node.get("value", 0.0)))
    flat = [amount for pair in pairs for amount in pair]
    if not any(flat):
        return x
    wide = x if dtype_of(x).kind == "f" else cast(x, "float32")
    return cast(
        mb.pad(x=wide, pad=flat, mode="constant", constant_val=like(float(value.reshape(())), wide)), dtype_of(x).name
    )


def _pad_by_position(x: Any, pairs: list[tuple[int, int]], mode: str) -> Any:
    wide = x if dtype_of(x).kind == "f" else cast(x, "float32")
    spatial = rank_of(x) >= 3 and not any(before or after for before, after in pairs[:-2])
    if mode in ("reflect", "edge") and spatial:
        flat = [amount for pair in pairs[-2:] for amount in pair]
        return cast(mb.pad(x=wide, pad=flat, mode="reflect" if mode == "reflect" else "replicate"), dtype_of(x).name)
    numpy_mode: Any = mode
    for axis, (before, after) in enumerate(pairs):
        if before or after:
            positions = np.pad(np.arange(shape_of(x)[axis], dtype=np.int32), (before, after), mode=numpy_mode)
            x = mb.gather(x=x, indices=positions, axis=axis)
    return x


@operator("Trilu")
def trilu(node: Node) -> Any:
    """Multiply by a triangular mask, which is known when translating."""
    x = node.tensor(0)
    diagonal = int(node.constant(1, "the diagonal", np.asarray(0)).reshape(()))
    keep = np.triu if node.get("upper", 1) else np.tril
    mask = keep(np.ones(shape_of(x)[-2:], np.int32), diagonal)
    return _numeric(x, lambda value: mb.mul(x=value, y=mask.astype(dtype_of(value))))


@operator("ReverseSequence")
def reverse_sequence(node: Node) -> Any:
    """Use ``reverse_sequence``."""
    return mb.reverse_sequence(
        x=node.tensor(0),
        lengths=node.tensor(1),
        seq_axis=int(node.get("time_axis", 0)),
        batch_axis=int(node.get("batch_axis", 1)),
    )
