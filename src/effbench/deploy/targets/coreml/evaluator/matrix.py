"""MIL operations that multiply and accumulate: matrix products, convolutions, attention."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from effbench.deploy.targets.coreml.evaluator.reduce import exponentials
from effbench.deploy.targets.coreml.evaluator.registry import OperationCall, narrow, operation
from effbench.deploy.targets.coreml.evaluator.sums import convolve, product, total
from effbench.deploy.targets.coreml.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


@operation("matmul")
def matmul(call: OperationCall) -> Tensor:
    """Multiply matrices, each transposed if its flag is set."""
    x, y = call.tensor("x"), call.tensor("y")
    x = x.transpose(-1, -2) if call.flag("transpose_x") else x
    y = y.transpose(-1, -2) if call.flag("transpose_y") else y
    return product(x, y, call.half)


@operation("linear")
def linear(call: OperationCall) -> Tensor:
    """Multiply by a weight of shape (out, in) and add a bias."""
    result = product(call.tensor("x"), call.tensor("weight").T, call.half)
    return _with_bias(call, result, axis=-1)


def _with_bias(call: OperationCall, result: Tensor, axis: int) -> Tensor:
    if "bias" not in call:
        return result
    # A half-precision accumulator is rounded before the bias is added.
    shape = [-1 if i == axis % result.ndim else 1 for i in range(result.ndim)]
    return result + call.tensor("bias").reshape(shape)


@operation("einsum")
def einsum(call: OperationCall) -> Tensor:
    """Contract two tensors; the labels become one batched matrix product."""
    a, b = call.tensors("values")
    left, right, out = call.text("equation").replace("->", ",").replace(" ", "").split(",")
    summed = [label for label in left if label in right and label not in out]
    batch = [label for label in left if label in right and label in out]
    single = [[label for label in labels if label not in other] for labels, other in ((left, right), (right, left))]
    if not call.half or any(label not in out for labels in single for label in labels):
        return torch.einsum(call.text("equation"), a, b)
    sizes = {**dict(zip(left, a.shape, strict=True)), **dict(zip(right, b.shape, strict=True))}

    def count(labels: Sequence[str]) -> int:
        return math.prod(sizes[label] for label in labels)

    x = a.permute([left.index(label) for label in (*batch, *single[0], *summed)])
    y = b.permute([right.index(label) for label in (*batch, *summed, *single[1])])
    x = x.reshape(count(batch), count(single[0]), count(summed))
    y = y.reshape(count(batch), count(summed), count(single[1]))
    labels = [*batch, *single[0], *single[1]]
    result = product(x, y, half=True).reshape([sizes[label] for label in labels])
    return result.permute([labels.index(label) for label in out])


@operation("scaled_dot_product_attention")
def scaled_dot_product_attention(call: OperationCall) -> Tensor:
    """Return softmax(Q K^T / sqrt(E) + mask) V; a Boolean mask excludes the positions where it is false."""
    query, key, value = call.tensor("query"), call.tensor("key"), call.tensor("value")
    scores = product(query, key.transpose(-1, -2), call.half) / math.sqrt(query.shape[-1])
    if "attn_mask" in call:
        mask = call.tensor("attn_mask")
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    if not call.half:
        return torch.matmul(torch.softmax(scores, -1), value)
    weights = exponentials(narrow(scores), -1, half=True)
    return product(narrow(weights / total(weights, [-1], half=True)), value, half=True)


def padding(call: OperationCall, sizes: Sequence[int], kernel: Sequence[int]) -> list[tuple[int, int]]:
    """Return (before, after) per spatial dimension, from the kind of padding or the stated amounts.

    Args:
        call: Its ``pad_type``, ``pad``, ``strides`` and ``dilations`` are read.
        sizes: The input's spatial sizes.
        kernel: The window's sizes.
    """
    kind, rank = call.text("pad_type", "valid"), len(sizes)
    if kind == "valid":
        return [(0, 0)] * rank
    if kind == "custom":
        amounts = call.numbers("pad", [0] * 2 * rank)
        return list(zip(amounts[::2], amounts[1::2], strict=True))
    if kind not in ("same", "same_lower"):
        raise call.unsupported(f"padding of kind '{kind}'")
    strides, dilations = call.numbers("strides", [1] * rank), call.numbers("dilations", [1] * rank)
    amounts_per_axis = []
    for size, k, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        missing = max((math.ceil(size / stride) - 1) * stride + dilation * (k - 1) + 1 - size, 0)
        small, large = missing // 2, missing - missing // 2
        amounts_per_axis.append((small, large) if kind == "same" else (large, small))
    return amounts_per_axis


def pad(x: Tensor, amounts: Sequence[tuple[int, int]], value: float = 0.0) -> Tensor:
    """Pad the last dimensions by a constant."""
    flat = [amount for pair in reversed(amounts) for amount in pair]
    return torch.nn.functional.pad(x, flat, value=value) if any(flat) else x


@operation("conv")
def conv(call: OperationCall) -> Tensor:
    """Convolve over 1, 2 or 3 spatial dimensions."""
    x, weight = call.tensor("x"), call.tensor("weight")
    rank = x.ndim - 2
    x = pad(x, padding(call, x.shape[2:], weight.shape[2:]))
    strides, dilations = call.numbers("strides", [1] * rank), call.numbers("dilations", [1] * rank)
    result = convolve(x, weight, strides, dilations, call.integer("groups", 1), call.half)
    return _with_bias(call, result, axis=1)


@operation("conv_transpose")
def conv_transpose(call: OperationCall) -> Tensor:
    """Convolve transposed: insert zeros by the strides, then convolve with the flipped kernel."""
    x, weight = call.tensor("x"), call.tensor("weight")
    rank, groups = x.ndim - 2, call.integer("groups", 1)
    strides, dilations = call.numbers("strides", [1] * rank), call.numbers("dilations", [1] * rank)
    kernel = [dilation * (size - 1) + 1 for dilation, size in zip(dilations, weight.shape[2:], strict=True)]
    spread = x.new_zeros(*x.shape[:2], *[(n - 1) * s + 1 for n, s in zip(x.shape[2:], strides, strict=True)])
    strided: Any = (..., *(slice(None, None, s) for s in strides))
    spread[strided] = x
    full = [size + k - 1 for size, k in zip(spread.shape[2:], kernel, strict=True)]
    grouped = weight.reshape(groups, -1, *weight.shape[1:]).transpose(1, 2)
    flipped = grouped.reshape(-1, weight.shape[0] // groups, *weight.shape[2:]).flip(list(range(2, 2 + rank)))
    spread = pad(spread, [(k - 1, k - 1) for k in kernel])
    result = convolve(spread, flipped, [1] * rank, dilations, groups, call.half)
    for axis, (first, size) in enumerate(_crops(call, full), start=2):
        result = pad(result.movedim(axis, -1), [(0, max(first + size - full[axis - 2], 0))]).movedim(-1, axis)
        result = result.narrow(axis, first, size)
    return _with_bias(call, result, axis=1)


def _crops(call: OperationCall, full: Sequence[int]) -> list[tuple[int, int]]:
    """Return the start of the output in the full transposed convolution, and its size, per dimension."""
    sizes = list(call.outputs[0].shape[2:])
    if call.text("pad_type", "valid") == "custom":
        return list(zip(call.numbers("pad", [0] * 2 * len(full))[::2], sizes, strict=True))
    if call.text("pad_type", "valid") == "valid":
        return [(0, size) for size in sizes]
    return [((length - size) // 2, size) for length, size in zip(full, sizes, strict=True)]
