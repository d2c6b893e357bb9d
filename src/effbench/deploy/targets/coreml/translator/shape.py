"""ONNX operators that change shapes, concatenate and split."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from effbench.deploy.targets.coreml.lazy import mb
from effbench.deploy.targets.coreml.translator.elementwise import expand as broadcast_to
from effbench.deploy.targets.coreml.translator.registry import Node, dtype_of, operator, rank_of, shape_of, through


def reshape_to(x: Any, shape: list[int]) -> Any:
    """Reshape a variable to known sizes; without an operation if it has them."""
    return x if list(shape_of(x)) == shape else mb.reshape(x=x, shape=[int(size) for size in shape])


@operator("Reshape")
def reshape(node: Node) -> Any:
    """Use ``reshape`` with sizes that are resolved when translating."""
    x = node.tensor(0)
    sizes = node.integers(1, "shape") or []
    old = shape_of(x)
    if not node.get("allowzero", 0):
        sizes = [old[axis] if size == 0 else size for axis, size in enumerate(sizes)]
    if -1 in sizes:
        known = math.prod(size for size in sizes if size != -1)
        sizes = [math.prod(old) // known if size == -1 else size for size in sizes]
    return reshape_to(x, sizes) if sizes else mb.squeeze(x=x)


@operator("Flatten")
def flatten(node: Node) -> Any:
    """Merge the dimensions before an axis, and those from it on."""
    x, axis = node.tensor(0), node.get("axis", 1)
    shape = shape_of(x)
    axis = axis + len(shape) if axis < 0 else axis
    return reshape_to(x, [math.prod(shape[:axis]), math.prod(shape[axis:])])


@operator("Squeeze")
def squeeze(node: Node) -> Any:
    """Use ``squeeze``."""
    x, axes = node.tensor(0), node.integers(1, "axes")
    shape = shape_of(x)
    axes = [axis for axis, size in enumerate(shape) if size == 1] if axes is None else axes
    return mb.squeeze(x=x, axes=[axis % len(shape) for axis in axes]) if axes else x


@operator("Unsqueeze")
def unsqueeze(node: Node) -> Any:
    """Use ``expand_dims``."""
    x, axes = node.tensor(0), node.integers(1, "axes") or []
    rank = rank_of(x) + len(axes)
    return mb.expand_dims(x=x, axes=sorted(axis % rank for axis in axes))


@operator("Transpose")
def transpose(node: Node) -> Any:
    """Use ``transpose``; the default reverses all dimensions."""
    x = node.tensor(0)
    perm = list(node.get("perm", range(rank_of(x))[::-1]))
    return x if perm == sorted(perm) else mb.transpose(x=x, perm=perm)


@operator("Expand")
def expand(node: Node) -> Any:
    """Repeat to the broadcast shape."""
    x, sizes = node.tensor(0), node.integers(1, "shape") or []
    return broadcast_to(x, np.broadcast_shapes(shape_of(x), tuple(sizes)))


@operator("Tile")
def tile(node: Node) -> Any:
    """Use ``tile``."""
    x, reps = node.tensor(0), node.integers(1, "repeats") or []
    if dtype_of(x) == np.bool_:
        return through(x, "int32", lambda y: mb.tile(x=y, reps=reps))
    return mb.tile(x=x, reps=reps)


@operator("Concat")
def concat(node: Node) -> Any:
    """Use ``concat``."""
    values = [node.tensor(i) for i in range(len(node.inputs))]
    return values[0] if len(values) == 1 else mb.concat(values=values, axis=int(node.attributes["axis"]))


@operator("Split")
def split(node: Node) -> Any:
    """Use ``split``; without stated sizes the last part may be smaller."""
    x = node.tensor(0)
    axis = node.get("axis", 0) % rank_of(x)
    sizes = node.integers(1, "split")
    if sizes is None:
        total, parts = shape_of(x)[axis], len(node.outputs)
        each = math.ceil(total / parts)
        sizes = [each] * (parts - 1) + [total - each * (parts - 1)]
    if len(sizes) == 1:
        return mb.identity(x=x)
    parts = mb.split(x=x, split_sizes=sizes, axis=axis)
    return list(parts)


@operator("DepthToSpace")
def depth_to_space(node: Node) -> Any:
    """Use ``depth_to_space`` for the block-first order, ``pixel_shuffle`` for the channel-first one."""
    x, size, mode = node.tensor(0), int(node.attributes["blocksize"]), node.get("mode", "DCR")
    mode = mode.decode() if isinstance(mode, bytes) else mode
    return mb.depth_to_space(x=x, block_size=size) if mode == "DCR" else mb.pixel_shuffle(x=x, upscale_factor=size)


@operator("SpaceToDepth")
def space_to_depth(node: Node) -> Any:
    """Use ``space_to_depth`` for the block-first order, ``pixel_unshuffle`` for the channel-first one."""
    x, size, mode = node.tensor(0), int(node.attributes["blocksize"]), node.get("mode", "DCR")
    mode = mode.decode() if isinstance(mode, bytes) else mode
    if mode == "DCR":
        return mb.space_to_depth(x=x, block_size=size)
    return mb.pixel_unshuffle(x=x, downscale_factor=np.uint32(size))


@operator("Identity")
def identity(node: Node) -> Any:
    """Return the input."""
    return node.tensor(0)


@operator("Dropout")
def dropout(node: Node) -> Any:
    """Return the input, and a mask of ones if the node outputs one.

    Raises:
        ConversionError: The node is in training mode.
    """
    if 2 in node and bool(node.constant(2, "training mode")):
        raise node.error("is in training mode; export the model in eval mode")
    x = node.tensor(0)
    return [x, np.ones(shape_of(x), np.bool_)][: len(node.outputs)]
