"""MIL operations that move elements without arithmetic: reshape, concatenate, slice, pad."""

from __future__ import annotations

from typing import TYPE_CHECKING

from effbench.deploy.targets.coreml.evaluator.registry import OperationCall, operation
from effbench.deploy.targets.coreml.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


@operation("reshape")
def reshape(call: OperationCall) -> Tensor:
    """Change the shape; 0 keeps a dimension, -1 is inferred."""
    x, sizes = call.raw("x"), call.numbers("shape")
    return x.reshape([x.shape[i] if size == 0 else size for i, size in enumerate(sizes)])


@operation("flatten2d")
def flatten2d(call: OperationCall) -> Tensor:
    """Merge the dimensions before an axis, and those from it on."""
    x = call.raw("x")
    axis = call.integer("axis", 1) % x.ndim
    return x.reshape(int(torch.tensor(x.shape[:axis]).prod()), -1)


@operation("expand_dims")
def expand_dims(call: OperationCall) -> Tensor:
    """Insert dimensions of size 1 at positions of the result."""
    x, axes = call.raw("x"), call.numbers("axes")
    for axis in sorted(axis % (x.ndim + len(axes)) for axis in axes):
        x = x.unsqueeze(axis)
    return x


@operation("squeeze")
def squeeze(call: OperationCall) -> Tensor:
    """Remove dimensions of size 1."""
    x = call.raw("x")
    return x.squeeze(tuple(call.numbers("axes"))) if "axes" in call else x.squeeze()


@operation("transpose")
def transpose(call: OperationCall) -> Tensor:
    """Reorder the dimensions."""
    return call.raw("x").permute(call.numbers("perm"))


@operation("concat")
def concat(call: OperationCall) -> Tensor:
    """Concatenate along an axis, interleaved if the flag is set."""
    values, axis = list(call.arguments["values"]), call.integer("axis")
    if not call.flag("interleave"):
        return torch.cat(values, axis)
    axis %= values[0].ndim
    return torch.stack(values, axis + 1).flatten(axis, axis + 1)


@operation("stack")
def stack(call: OperationCall) -> Tensor:
    """Stack along a new axis."""
    return torch.stack(list(call.arguments["values"]), call.integer("axis"))


@operation("split")
def split(call: OperationCall) -> list[Tensor]:
    """Split along an axis into stated or equal sizes."""
    x, axis = call.raw("x"), call.integer("axis")
    count = call.integer("num_splits", 1)
    sizes = call.numbers("split_sizes") or [x.shape[axis] // count] * count
    return list(torch.split(x, sizes, axis))


@operation("tile")
def tile(call: OperationCall) -> Tensor:
    """Repeat along each axis."""
    return call.raw("x").repeat(call.numbers("reps"))


@operation("shape")
def shape(call: OperationCall) -> Tensor:
    """Return the shape as integers."""
    return torch.tensor(call.raw("x").shape, dtype=torch.int32)


@operation("reverse")
def reverse(call: OperationCall) -> Tensor:
    """Reverse along axes, by default all of them."""
    x = call.raw("x")
    return x.flip(call.numbers("axes", list(range(x.ndim))))


@operation("fill")
def fill(call: OperationCall) -> Tensor:
    """Return a tensor of one value."""
    return call.raw("value").expand(call.numbers("shape")).clone()


@operation("range_1d")
def range_1d(call: OperationCall) -> Tensor:
    """Count from start below end."""
    return torch.arange(call.number("start"), call.number("end"), call.number("step"))


def _flag_list(call: OperationCall, key: str, rank: int) -> list[bool]:
    return [bool(value) for value in call.numbers(key, [0] * rank)]


@operation("slice_by_index")
def slice_by_index(call: OperationCall) -> Tensor:
    """Slice with begin, end and stride; a begin or end mask selects the edge, a squeeze mask drops the dimension."""
    x = call.raw("x")
    begin, end = call.numbers("begin"), call.numbers("end")
    stride = call.numbers("stride", [1] * x.ndim)
    masks = [_flag_list(call, key, x.ndim) for key in ("begin_mask", "end_mask", "squeeze_mask")]
    dropped = []
    for axis, (first, last, step, no_begin, no_end, drop) in enumerate(zip(begin, end, stride, *masks, strict=True)):
        if drop:
            x = x.narrow(axis, first % x.shape[axis], 1)
            dropped.append(axis)
            continue
        window = slice(None if no_begin else first, None if no_end else last, step)
        positions = range(*window.indices(x.shape[axis]))
        x = x.index_select(axis, torch.tensor(list(positions), dtype=torch.int64))
    return x.squeeze(tuple(dropped)) if dropped else x


@operation("slice_by_size")
def slice_by_size(call: OperationCall) -> Tensor:
    """Slice by sizes; a size of -1 extends to the end."""
    x = call.raw("x")
    for axis, (begin, size) in enumerate(zip(call.numbers("begin"), call.numbers("size"), strict=True)):
        x = x.narrow(axis, begin, x.shape[axis] - begin if size == -1 else size)
    return x


@operation("pad")
def pad(call: OperationCall) -> Tensor:
    """Pad the last dimensions by a constant, by reflection or by replication."""
    x, amounts = call.raw("x"), call.numbers("pad")
    mode = call.text("mode", "constant")
    first = x.ndim - len(amounts) // 2
    for axis, (before, after) in enumerate(zip(amounts[::2], amounts[1::2], strict=True), start=first):
        size = x.shape[axis]
        index = torch.arange(-before, size + after)
        if mode == "constant":
            inside = x.index_select(axis, index.clamp(0, size - 1))
            outside = ((index < 0) | (index >= size)).reshape([-1 if i == axis else 1 for i in range(x.ndim)])
            value = torch.tensor(call.number("constant_val"), dtype=x.dtype)
            x = torch.where(outside, value, inside)
        elif mode == "reflect":
            x = x.index_select(axis, (size - 1) - ((size - 1) - index.abs()).abs())
        elif mode == "replicate":
            x = x.index_select(axis, index.clamp(0, size - 1))
        else:
            raise call.unsupported(f"padding mode '{mode}'")
    return x


@operation("sliding_windows")
def sliding_windows(call: OperationCall) -> Tensor:
    """Return windows along an axis as a new axis after it."""
    x = call.raw("x")
    axis = call.integer("axis") % x.ndim
    return x.unfold(axis, call.integer("size"), call.integer("stride", 1)).movedim(-1, axis + 1)


@operation("pixel_shuffle")
def pixel_shuffle(call: OperationCall) -> Tensor:
    """Move channels to space, channels first."""
    return torch.nn.functional.pixel_shuffle(call.raw("x"), call.integer("upscale_factor"))


@operation("pixel_unshuffle")
def pixel_unshuffle(call: OperationCall) -> Tensor:
    """Move space to channels, channels first."""
    return torch.nn.functional.pixel_unshuffle(call.raw("x"), call.integer("downscale_factor"))


@operation("depth_to_space")
def depth_to_space(call: OperationCall) -> Tensor:
    """Move channels to space with the block first, as TensorFlow does."""
    x, size = call.raw("x"), call.integer("block_size")
    b, c, h, w = x.shape
    blocks = x.reshape(b, size, size, c // size**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return blocks.reshape(b, c // size**2, h * size, w * size)


@operation("space_to_depth")
def space_to_depth(call: OperationCall) -> Tensor:
    """Move space to channels with the block first, as TensorFlow does."""
    x, size = call.raw("x"), call.integer("block_size")
    b, c, h, w = x.shape
    blocks = x.reshape(b, c, h // size, size, w // size, size).permute(0, 3, 5, 1, 2, 4)
    return blocks.reshape(b, c * size**2, h // size, w // size)


@operation("band_part")
def band_part(call: OperationCall) -> Tensor:
    """Keep the diagonals from ``lower`` below to ``upper`` above; -1 keeps all."""
    x, lower, upper = call.raw("x"), call.integer("lower", -1), call.integer("upper", -1)
    offset = torch.arange(x.shape[-1]) - torch.arange(x.shape[-2]).unsqueeze(1)
    keep = ((offset >= -lower) | (lower < 0)) & ((offset <= upper) | (upper < 0))
    return torch.where(keep, x, torch.zeros_like(x))
