"""Convolutions and matrix products."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from effbench.deploy.interpreter.registry import OpCall, operator

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def same_pads(size: int, window: int, stride: int, upper: bool) -> tuple[int, int]:
    """Return the padding before and after that keeps ceil(size / stride) outputs."""
    total = max((math.ceil(size / stride) - 1) * stride + window - size, 0)
    return (total // 2, total - total // 2) if upper else (total - total // 2, total // 2)


def spatial_pads(
    sizes: Sequence[int],
    windows: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int] | None,
    auto_pad: str,
) -> list[tuple[int, int]]:
    """Return (before, after) for each spatial dimension; ``windows`` include dilation."""
    rank = len(sizes)
    if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        return [same_pads(n, w, s, auto_pad == "SAME_UPPER") for n, w, s in zip(sizes, windows, strides, strict=True)]
    if auto_pad == "VALID" or not pads:
        return [(0, 0)] * rank
    return list(zip(pads[:rank], pads[rank:], strict=True))


def pad_spatial(x: Tensor, pads: Sequence[tuple[int, int]], value: float = 0.0) -> Tensor:
    """Pad the last dimensions with a constant."""
    if not any(any(pair) for pair in pads):
        return x
    return F.pad(x, [n for pair in reversed(pads) for n in pair], value=value)


@operator("Conv")
def conv(
    call: OpCall,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """Convolve; shapes (N, C, ...) and (M, C / group, ...)."""
    rank = x.dim() - 2
    kernel = weight.shape[2:]
    strides, dilations = list(strides or [1] * rank), list(dilations or [1] * rank)
    windows = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    x = pad_spatial(x, spatial_pads(x.shape[2:], windows, strides, pads, auto_pad))
    step = max(1, call.math.chunk // math.prod(kernel))
    if not call.math.rounds or weight.shape[1] <= step:
        y = call.math.round(_CONV[rank](x, weight, None, strides, 0, dilations, group))
    else:
        grouped = x.reshape(x.shape[0], group, -1, *x.shape[2:])
        y = x.new_zeros(())
        for start in range(0, weight.shape[1], step):
            part = grouped[:, :, start : start + step].flatten(1, 2)
            products = _CONV[rank](part, weight[:, start : start + step], None, strides, 0, dilations, group)
            y = call.math.round(y + call.math.round(products))
    return y if bias is None else y + bias.reshape(-1, *[1] * rank)


def _transposed_pads(
    sizes: Sequence[int],
    full: Sequence[int],
    strides: Sequence[int],
    extra: Sequence[int],
    pads: Sequence[int] | None,
    output_shape: Sequence[int] | None,
    auto_pad: str,
) -> list[tuple[int, int]]:
    if output_shape is None and auto_pad not in ("SAME_UPPER", "SAME_LOWER"):
        return spatial_pads(sizes, full, strides, pads, auto_pad)
    lengths = output_shape[-len(sizes) :] if output_shape else [n * s for n, s in zip(sizes, strides, strict=True)]
    totals = [f + e - n for f, e, n in zip(full, extra, lengths, strict=True)]
    # A result longer than the full one is padded at its end.
    halves = [(t // 2, t - t // 2) if t > 0 else (0, t) for t in totals]
    return halves if auto_pad == "SAME_UPPER" else [(b, a) if b > 0 else (a, b) for a, b in halves]


@operator("ConvTranspose")
def conv_transpose(
    call: OpCall,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    output_padding: Sequence[int] | None = None,
    output_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """Convolve transposed; shapes (N, C, ...) and (C, M / group, ...)."""
    rank = x.dim() - 2
    kernel = weight.shape[2:]
    strides, dilations = list(strides or [1] * rank), list(dilations or [1] * rank)
    extra = list(output_padding or [0] * rank)
    step = max(1, call.math.chunk // math.prod(kernel))
    per_group = weight.shape[0] // group
    step = step if call.math.rounds else per_group
    inputs = x.reshape(x.shape[0], group, per_group, *x.shape[2:])
    weights = weight.reshape(group, per_group, *weight.shape[1:])
    y = x.new_zeros(())
    for start in range(0, per_group, step):
        part = inputs[:, :, start : start + step].flatten(1, 2)
        rows = weights[:, start : start + step].flatten(0, 1)
        products = _TRANSPOSED[rank](part, rows, None, strides, 0, 0, group, dilations)
        y = call.math.round(y + call.math.round(products))
    # The full result is cropped, or padded with zeros for output padding, to the size that the attributes give.
    full = list(y.shape[2:])
    cuts = _transposed_pads(x.shape[2:], full, strides, extra, pads, output_shape, auto_pad)
    y = pad_spatial(y, [(-before, e - after) for (before, after), e in zip(cuts, extra, strict=True)])
    return y if bias is None else y + bias.reshape(-1, *[1] * rank)


@operator("MatMul")
def matmul(call: OpCall, a: Tensor, b: Tensor) -> Tensor:
    """Multiply matrices."""
    return call.math.matmul(a, b)


@operator("Gemm")
def gemm(
    call: OpCall,
    a: Tensor,
    b: Tensor,
    c: Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
    broadcast: int = 1,
) -> Tensor:
    """Return alpha A B + beta C."""
    product = call.math.matmul(a.mT if transA else a, b.mT if transB else b)
    product = product if alpha == 1 else call.math.round(alpha * product).to(a.dtype)
    return product if c is None else (product + (c if beta == 1 else beta * c)).to(a.dtype)


@operator("Einsum")
def einsum(call: OpCall, *tensors: Tensor, equation: str) -> Tensor:
    """Sum products over named indices."""
    equation = equation.replace(" ", "")
    if not call.math.rounds or len(tensors) > 2 or "." in equation:
        return torch.einsum(equation, *tensors)
    inputs, _, output = equation.partition("->")
    terms = inputs.split(",")
    if not output or any(len(set(term)) < len(term) for term in terms):
        return torch.einsum(equation, *tensors)
    # Every index becomes a dimension; the summed ones go through the rounding sum in slices of one chunk.
    summed = "".join(dict.fromkeys(i for term in terms for i in term if i not in output))
    return _chunked_einsum(call, terms, output, summed, tensors)


def _chunked_einsum(call: OpCall, terms: list[str], output: str, summed: str, tensors: Sequence[Tensor]) -> Tensor:
    sizes = {i: n for term, t in zip(terms, tensors, strict=True) for i, n in zip(term, t.shape, strict=True)}
    if not summed:
        return torch.einsum(f"{','.join(terms)}->{output}", *tensors)
    long = max(summed, key=lambda index: sizes[index])
    total = tensors[0].new_zeros(())
    for start in range(0, sizes[long], call.math.chunk):
        size = min(call.math.chunk, sizes[long] - start)
        parts = [
            t.narrow(term.index(long), start, size) if long in term else t
            for term, t in zip(terms, tensors, strict=True)
        ]
        total = call.math.round(total + call.math.round(torch.einsum(f"{','.join(terms)}->{output}", *parts)))
    return total


@operator("MatMulInteger")
def matmul_integer(
    call: OpCall, a: Tensor, b: Tensor, a_zero: Tensor | None = None, b_zero: Tensor | None = None
) -> Tensor:
    """Multiply matrices of small integers into int32."""
    left, right = a.to(torch.int32), b.to(torch.int32)
    if a_zero is not None:
        zero = a_zero.to(torch.int32)
        left = left - (zero.unsqueeze(-1) if zero.dim() else zero)
    if b_zero is not None:
        right = right - b_zero.to(torch.int32)
    return torch.matmul(left, right)


@operator("ConvInteger")
def conv_integer(
    call: OpCall,
    x: Tensor,
    weight: Tensor,
    x_zero: Tensor | None = None,
    w_zero: Tensor | None = None,
    **attributes: object,
) -> Tensor:
    """Convolve small integers into int32; float64 holds every such sum exactly."""
    centered = x.double() - (0 if x_zero is None else x_zero.double())
    zero = 0 if w_zero is None else w_zero.double().reshape(-1, *[1] * (weight.dim() - 1))
    result: Tensor = conv(call, centered, weight.double() - zero, **attributes).to(torch.int32)
    return result


@operator("Det")
def det(call: OpCall, x: Tensor) -> Tensor:
    """Return the determinants of square matrices."""
    determinants: Tensor = torch.linalg.det(x)
    return determinants


@operator("Col2Im")
def col2im(
    call: OpCall,
    x: Tensor,
    image_shape: Tensor,
    block_shape: Tensor,
    *,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """Add up overlapping blocks; x (N, C * block, L), the result (N, C, *image_shape)."""
    image, block = image_shape.tolist(), block_shape.tolist()
    rank = len(image)
    strides, dilations, pads = strides or [1] * rank, dilations or [1] * rank, pads or [0] * 2 * rank
    sizes = [n + pads[i] + pads[rank + i] for i, n in enumerate(image)]
    # Where each element of each block goes, as an index into the padded image.
    places = torch.zeros((), dtype=torch.int64)
    starts = torch.zeros((), dtype=torch.int64)
    for size, window, stride, dilation in zip(sizes, block, strides, dilations, strict=True):
        count = (size - (window - 1) * dilation - 1) // stride + 1
        places = (places.unsqueeze(-1) * size + torch.arange(window) * dilation).reshape(*places.shape, window)
        starts = (starts.unsqueeze(-1) * size + torch.arange(count) * stride).reshape(*starts.shape, count)
    index = (places.reshape(-1, 1) + starts.reshape(1, -1)).reshape(-1)
    columns = x.reshape(x.shape[0], -1, len(index))
    total = x.new_zeros((*columns.shape[:2], math.prod(sizes))).index_add(2, index, columns)
    padded = total.reshape(*columns.shape[:2], *sizes)
    for i, n in enumerate(image):
        padded = padded.narrow(2 + i, pads[i], n)
    return padded
