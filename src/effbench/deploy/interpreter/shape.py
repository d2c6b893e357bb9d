"""Operators that make, convert and rearrange tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from effbench.deploy.interpreter.registry import OpCall, operator
from effbench.deploy.interpreter.types import torch_type


def ints(values: Tensor | Sequence[int] | None) -> list[int]:
    """Return Python integers; None gives an empty list, a scalar one integer."""
    values = values.reshape(-1) if isinstance(values, Tensor) else values
    return [] if values is None else [int(v) for v in values]


@operator("Constant", moves=True)
def constant(
    call: OpCall,
    *,
    value: Tensor | None = None,
    value_float: float | None = None,
    value_floats: Sequence[float] | None = None,
    value_int: int | None = None,
    value_ints: Sequence[int] | None = None,
) -> Tensor:
    """Return the value that an attribute holds."""
    if value is not None:
        return value
    numbers = value_float if value_float is not None else value_floats
    if numbers is not None:
        return torch.tensor(numbers, dtype=torch.float32)
    return torch.tensor(value_int if value_int is not None else value_ints, dtype=torch.int64)


@operator("ConstantOfShape", moves=True)
def constant_of_shape(call: OpCall, shape: Tensor, *, value: Tensor | None = None) -> Tensor:
    """Return a tensor filled with one value, by default zero."""
    value = torch.zeros(1) if value is None else value
    return torch.full(ints(shape), value.reshape(()).item(), dtype=call.float_type(value.dtype))


@operator("Shape", moves=True)
def shape(call: OpCall, x: Tensor, *, start: int = 0, end: int | None = None) -> Tensor:
    """Return the lengths of the dimensions."""
    return torch.tensor(list(x.shape)[start:end], dtype=torch.int64)


@operator("Size", moves=True)
def size(call: OpCall, x: Tensor) -> Tensor:
    """Return the number of elements."""
    return torch.tensor(x.numel(), dtype=torch.int64)


@operator("Range")
def arange(call: OpCall, start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    """Return evenly spaced numbers."""
    return torch.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype)


@operator("Cast", moves=True)
def cast(call: OpCall, x: Tensor, *, to: int, saturate: int = 1, round_mode: str = "up") -> Tensor:
    """Convert to another type."""
    return x.to(call.float_type(torch_type(to)))


@operator("CastLike", moves=True)
def cast_like(call: OpCall, x: Tensor, like: Tensor, *, saturate: int = 1, round_mode: str = "up") -> Tensor:
    """Convert to the type of another tensor."""
    return x.to(like.dtype)


@operator("Reshape", moves=True)
def reshape(
    call: OpCall, x: Tensor, sizes: Tensor | None = None, *, shape: Sequence[int] = (), allowzero: int = 0
) -> Tensor:
    """Return a tensor of another shape; 0 keeps a dimension unless ``allowzero``, -1 is inferred."""
    lengths = ints(sizes if sizes is not None else shape)
    return x.reshape([x.shape[i] if n == 0 and not allowzero else n for i, n in enumerate(lengths)])


@operator("Flatten", moves=True)
def flatten(call: OpCall, x: Tensor, *, axis: int = 1) -> Tensor:
    """Return a matrix: dimensions before the axis, dimensions from it on."""
    axis = axis + x.dim() if axis < 0 else axis
    rows = 1
    for n in x.shape[:axis]:
        rows *= n
    return x.reshape(rows, x.numel() // rows if rows else 0)


@operator("Squeeze", moves=True)
def squeeze(call: OpCall, x: Tensor, dims: Tensor | None = None, *, axes: Sequence[int] | None = None) -> Tensor:
    """Remove dimensions of length one."""
    chosen = ints(dims if dims is not None else axes)
    return x.squeeze(tuple(chosen)) if chosen else x.squeeze()


@operator("Unsqueeze", moves=True)
def unsqueeze(call: OpCall, x: Tensor, dims: Tensor | None = None, *, axes: Sequence[int] | None = None) -> Tensor:
    """Insert dimensions of length one."""
    chosen = ints(dims if dims is not None else axes)
    for axis in sorted(a % (x.dim() + len(chosen)) for a in chosen):
        x = x.unsqueeze(axis)
    return x


@operator("Transpose", moves=True)
def transpose(call: OpCall, x: Tensor, *, perm: Sequence[int] | None = None) -> Tensor:
    """Permute the dimensions; by default reverse them."""
    return x.permute(tuple(perm) if perm is not None else tuple(reversed(range(x.dim()))))


@operator("Concat", moves=True)
def concat(call: OpCall, *tensors: Tensor, axis: int = 1) -> Tensor:
    """Join tensors along an axis."""
    return torch.cat(tensors, axis)


@operator("Split", moves=True)
def split(
    call: OpCall,
    x: Tensor,
    sizes: Tensor | None = None,
    *,
    axis: int = 0,
    num_outputs: int | None = None,
    split: Sequence[int] | None = None,
) -> tuple[Tensor, ...]:
    """Split a tensor into parts of some lengths, or of equal length but for a shorter last one."""
    lengths = ints(sizes if sizes is not None else split)
    if not lengths:
        count, total = num_outputs or call.outputs, x.shape[axis]
        each = -(-total // count)
        lengths = [each] * (count - 1) + [total - each * (count - 1)]
    return torch.split(x, lengths, axis)


@operator("Slice", moves=True)
def slice_(
    call: OpCall,
    x: Tensor,
    begins: Tensor | None = None,
    stops: Tensor | None = None,
    dims: Tensor | None = None,
    steps: Tensor | None = None,
    *,
    starts: Sequence[int] | None = None,
    ends: Sequence[int] | None = None,
    axes: Sequence[int] | None = None,
) -> Tensor:
    """Cut out a part; negative steps run backward."""
    first, last = ints(begins if begins is not None else starts), ints(stops if stops is not None else ends)
    chosen = ints(dims if dims is not None else axes) or list(range(len(first)))
    strides = ints(steps) or [1] * len(first)
    for start, stop, axis, step in zip(first, last, chosen, strides, strict=True):
        places = range(*slice(start, stop if step > 0 or stop >= -x.shape[axis] else None, step).indices(x.shape[axis]))
        if step == 1:
            x = x.narrow(axis, places.start, len(places)) if len(places) else x.narrow(axis, 0, 0)
        else:
            x = x.index_select(axis, torch.tensor(list(places), dtype=torch.int64))
    return x


@operator("Expand", moves=True)
def expand(call: OpCall, x: Tensor, sizes: Tensor) -> Tensor:
    """Repeat dimensions of length one, by numpy's rules in both directions."""
    return x.expand(torch.broadcast_shapes(x.shape, tuple(ints(sizes))))  # type: ignore[no-untyped-call]


@operator("Tile", moves=True)
def tile(call: OpCall, x: Tensor, repeats: Tensor) -> Tensor:
    """Repeat a tensor along each dimension."""
    return x.repeat(ints(repeats))


@operator("Pad", moves=True)
def pad(
    call: OpCall,
    x: Tensor,
    amounts: Tensor | None = None,
    fill: Tensor | None = None,
    dims: Tensor | None = None,
    *,
    mode: str = "constant",
    pads: Sequence[int] | None = None,
    value: float = 0.0,
) -> Tensor:
    """Pad (or, with negative amounts, cut) dimensions."""
    numbers = ints(amounts if amounts is not None else pads)
    chosen = [a % x.dim() for a in ints(dims)] if dims is not None else list(range(x.dim()))
    pairs = [(0, 0)] * x.dim()
    for i, axis in enumerate(chosen):
        pairs[axis] = (numbers[i], numbers[i + len(chosen)])
    if mode == "constant":
        value = value if fill is None else fill.reshape(()).item()
        return F.pad(x, [n for pair in reversed(pairs) for n in pair], value=value)
    for axis, (before, after) in enumerate(pairs):
        if before or after:
            x = x.index_select(axis, _border(x.shape[axis], before, after, mode))
    return x


def _border(length: int, before: int, after: int, mode: str) -> Tensor:
    places = torch.arange(-before, length + after)
    if mode == "edge":
        return places.clamp(0, length - 1)
    if mode == "wrap":
        return places % length
    period = max(2 * (length - 1), 1)  # reflect: the border itself is not repeated
    places = places % period
    return torch.where(places >= length, period - places, places)


@operator("DepthToSpace", moves=True)
def depth_to_space(call: OpCall, x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    """Move blocks of channels to pixels."""
    n, c, h, w = x.shape
    rest = c // blocksize**2
    if mode == "DCR":
        parts = x.reshape(n, blocksize, blocksize, rest, h, w).permute(0, 3, 4, 1, 5, 2)
    else:
        parts = x.reshape(n, rest, blocksize, blocksize, h, w).permute(0, 1, 4, 2, 5, 3)
    return parts.reshape(n, rest, h * blocksize, w * blocksize)


@operator("SpaceToDepth", moves=True)
def space_to_depth(call: OpCall, x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    """Move blocks of pixels to channels."""
    n, c, h, w = x.shape
    parts = x.reshape(n, c, h // blocksize, blocksize, w // blocksize, blocksize)
    order = (0, 3, 5, 1, 2, 4) if mode == "DCR" else (0, 1, 3, 5, 2, 4)
    return parts.permute(order).reshape(n, c * blocksize**2, h // blocksize, w // blocksize)
