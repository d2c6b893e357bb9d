"""ONNX operators that slide a window: convolutions and pools."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import numpy as np

from effbench.deploy.targets.coreml.lazy import mb
from effbench.deploy.targets.coreml.translator.normalization import per_channel
from effbench.deploy.targets.coreml.translator.registry import Node, cast, dtype_of, like, operator, rank_of, shape_of

Pads = list[tuple[int, int]]


def _mode(node: Node) -> str:
    mode = node.get("auto_pad", "NOTSET")
    return mode.decode() if isinstance(mode, bytes) else str(mode)


def _per_axis(node: Node, attribute: str, rank: int) -> list[int]:
    return [int(value) for value in node.get(attribute, [1] * rank)]


def _pads(node: Node, kernel: Sequence[int]) -> Pads:
    """Return the padding as (before, after) per spatial dimension, from ``pads`` or ``auto_pad``."""
    sizes, rank = shape_of(node.tensor(0))[2:], len(kernel)
    mode = _mode(node)
    if mode == "NOTSET":
        pads = [int(value) for value in node.get("pads", [0] * 2 * rank)]
        return list(zip(pads[:rank], pads[rank:], strict=True))
    if mode == "VALID":
        return [(0, 0)] * rank
    strides, dilations = _per_axis(node, "strides", rank), _per_axis(node, "dilations", rank)
    padding = []
    for size, k, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        missing = max((math.ceil(size / stride) - 1) * stride + dilation * (k - 1) + 1 - size, 0)
        padding.append((missing // 2, missing - missing // 2))
    return padding if mode == "SAME_UPPER" else [(after, before) for before, after in padding]


def _flat(pads: Pads) -> list[int]:
    return [amount for pair in pads for amount in pair]


@operator("Conv")
def conv(node: Node) -> Any:
    """Use ``conv``; a bias that is computed at run time is added after it."""
    x, weight = node.tensor(0), node.tensor(1)
    rank = rank_of(x) - 2
    bias = node.tensor(2) if node.known(2) else None
    result = mb.conv(
        x=x,
        weight=weight,
        bias=bias,
        strides=_per_axis(node, "strides", rank),
        dilations=_per_axis(node, "dilations", rank),
        groups=int(node.get("group", 1)),
        pad_type="custom",
        pad=_flat(_pads(node, shape_of(weight)[2:])),
    )
    return result if bias is not None or 2 not in node else mb.add(x=result, y=per_channel(node.tensor(2), rank + 2))


def _transpose_pads(node: Node, kernel: Sequence[int]) -> Pads:
    """Return the amounts cropped from the full transposed convolution; negative amounts append zeros."""
    sizes, rank = shape_of(node.tensor(0))[2:], len(kernel)
    strides, dilations = _per_axis(node, "strides", rank), _per_axis(node, "dilations", rank)
    extra = [int(value) for value in node.get("output_padding", [0] * rank)]
    full = [(n - 1) * s + d * (k - 1) + 1 for n, s, d, k in zip(sizes, strides, dilations, kernel, strict=True)]
    mode, output_shape = _mode(node), node.get("output_shape", None)
    if output_shape is None and mode not in ("SAME_UPPER", "SAME_LOWER"):
        return [(before, after - more) for (before, after), more in zip(_pads(node, kernel), extra, strict=True)]
    out_sizes = [n * s for n, s in zip(sizes, strides, strict=True)] if output_shape is None else output_shape[-rank:]
    crops = []
    for length, more, out in zip(full, extra, out_sizes, strict=True):
        total = length + more - int(out)
        small, large = total // 2, total - total // 2
        before, after = (small, large) if mode == "SAME_UPPER" else (large, small)
        crops.append((before, after - more))
    return crops


@operator("ConvTranspose")
def conv_transpose(node: Node) -> Any:
    """Use ``conv_transpose`` with explicit crops; values beyond the full result are zero, then the bias is added."""
    x, weight = node.tensor(0), node.tensor(1)
    rank = rank_of(x) - 2
    crops = _transpose_pads(node, shape_of(weight)[2:])
    result = mb.conv_transpose(
        x=x,
        weight=weight,
        strides=_per_axis(node, "strides", rank),
        dilations=_per_axis(node, "dilations", rank),
        groups=int(node.get("group", 1)),
        pad_type="custom",
        pad=_flat([(max(before, 0), max(after, 0)) for before, after in crops]),
    )
    missing = [(max(-before, 0), max(-after, 0)) for before, after in crops]
    if any(_flat(missing)):
        result = mb.pad(x=result, pad=_flat([(0, 0), (0, 0), *missing]), constant_val=like(0, x))
    return mb.add(x=result, y=per_channel(node.tensor(2), rank + 2)) if 2 in node else result


def _windows(node: Node) -> tuple[list[int], list[int], list[int], Pads, Pads]:
    """Return kernel, strides, dilations, the declared padding, and the padding that makes ceil_mode a floor."""
    kernel = [int(size) for size in node.attributes["kernel_shape"]]
    sizes, rank = shape_of(node.tensor(0))[2:], len(kernel)
    strides, dilations = _per_axis(node, "strides", rank), _per_axis(node, "dilations", rank)
    declared = _pads(node, kernel)
    if not node.get("ceil_mode", 0):
        return kernel, strides, dilations, declared, declared
    extended = []
    for size, k, stride, dilation, (before, after) in zip(sizes, kernel, strides, dilations, declared, strict=True):
        span = size + before + after - dilation * (k - 1) - 1
        out = math.ceil(span / stride) + 1
        # A window that would start in the padding after the input does not count.
        out -= (out - 1) * stride >= size + before
        extended.append((before, max(after, (out - 1) * stride + dilation * (k - 1) + 1 - size - before)))
    return kernel, strides, dilations, declared, extended


def _taps(node: Node, x: Any, fill: float, combine: Callable[[Any, Any], Any]) -> Any:
    """Combine strided slices, one per position in the window, for dilated pools, which MIL lacks."""
    kernel, strides, dilations, _, pads = _windows(node)
    sizes = [size + sum(pair) for size, pair in zip(shape_of(x)[2:], pads, strict=True)]
    x = mb.pad(x=x, pad=_flat([(0, 0), (0, 0), *pads]), constant_val=like(fill, x)) if any(_flat(pads)) else x
    spans = [size - dilation * (k - 1) for size, dilation, k in zip(sizes, dilations, kernel, strict=True)]
    lead = list(shape_of(x)[:2])
    planes = []
    for tap in itertools.product(*map(range, kernel)):
        begin = [position * dilation for position, dilation in zip(tap, dilations, strict=True)]
        end = [first + span for first, span in zip(begin, spans, strict=True)]
        planes.append(mb.slice_by_index(x=x, begin=[0, 0, *begin], end=[*lead, *end], stride=[1, 1, *strides]))
    return reduce(combine, planes)


@operator("MaxPool")
def max_pool(node: Node) -> Any:
    """Use ``max_pool``; dilated windows become maxima of slices.

    Raises:
        ConversionError: The indices of the maxima are used.
    """
    if len(node.outputs) > 1:
        raise node.error("gives the indices of the maxima, which Core ML's max_pool does not")
    x = node.tensor(0)
    kernel, strides, dilations, _, pads = _windows(node)
    if any(dilation != 1 for dilation in dilations):
        lowest = float(np.finfo(dtype_of(x)).min)
        return _taps(node, x, lowest, lambda a, b: mb.maximum(x=a, y=b))
    return mb.max_pool(x=x, kernel_sizes=kernel, strides=strides, pad_type="custom", pad=_flat(pads))


@operator("AveragePool")
def average_pool(node: Node) -> Any:
    """Use ``avg_pool``; padding that only ceil_mode adds is never counted."""
    x = node.tensor(0)
    kernel, strides, dilations, declared, pads = _windows(node)
    counted = bool(node.get("count_include_pad", 0))
    if any(dilation != 1 for dilation in dilations):
        return _dilated_average(node, x, counted)
    if counted and pads != declared:
        x = mb.pad(x=x, pad=_flat([(0, 0), (0, 0), *declared]), constant_val=like(0, x))
        pads = [(0, after - stated) for (_, after), (_, stated) in zip(pads, declared, strict=True)]
        counted = False
    return mb.avg_pool(
        x=x,
        kernel_sizes=kernel,
        strides=strides,
        pad_type="custom",
        pad=_flat(pads),
        exclude_padding_from_average=not counted,
    )


def _dilated_average(node: Node, x: Any, counted: bool) -> Any:
    kernel, strides, dilations, declared, pads = _windows(node)
    sums = _taps(node, x, 0.0, lambda a, b: mb.add(x=a, y=b))
    # The number of elements of each window is known when translating: count them on an array of ones.
    ones = np.pad(np.ones(shape_of(x)[2:]), declared, constant_values=1.0 if counted else 0.0)
    ones = np.pad(ones, [(0, after - stated) for (_, after), (_, stated) in zip(pads, declared, strict=True)])
    spans = [size - dilation * (k - 1) for size, dilation, k in zip(ones.shape, dilations, kernel, strict=True)]
    counts = sum(
        ones[tuple(slice(t * d, t * d + span, s) for t, d, span, s in zip(tap, dilations, spans, strides, strict=True))]
        for tap in itertools.product(*map(range, kernel))
    )
    return mb.real_div(x=sums, y=np.asarray(counts)[None, None].astype(dtype_of(x)))


@operator("LpPool")
def lp_pool(node: Node) -> Any:
    """Return the p-norm of each window, padding being zeros."""
    x, p = node.tensor(0), int(node.get("p", 2))
    kernel, strides, dilations, _, pads = _windows(node)
    powers = mb.mul(x=x, y=x) if p == 2 else mb.pow(x=mb.abs(x=x), y=like(p, x))
    if any(dilation != 1 for dilation in dilations):
        sums = _taps(node, powers, 0.0, lambda a, b: mb.add(x=a, y=b))
    else:
        means = mb.avg_pool(x=powers, kernel_sizes=kernel, strides=strides, pad_type="custom", pad=_flat(pads))
        sums = mb.mul(x=means, y=like(math.prod(kernel), x))
    return mb.sqrt(x=sums) if p == 2 else mb.pow(x=sums, y=like(1 / p, x))


@operator("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def global_pool(node: Node) -> Any:
    """Reduce over space."""
    x = node.tensor(0)
    axes = list(range(2, rank_of(x)))
    if node.op == "GlobalLpPool":
        if node.get("p", 2) != 2:
            raise node.error(f"with p = {node.get('p', 2)}; only 2 is translated")
        return mb.reduce_l2_norm(x=x, axes=axes, keep_dims=True)
    run = mb.reduce_mean if node.op == "GlobalAveragePool" else mb.reduce_max
    return run(x=cast(x, dtype_of(x).name), axes=axes, keep_dims=True)
