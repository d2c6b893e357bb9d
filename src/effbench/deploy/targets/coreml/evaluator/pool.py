"""MIL operations that pool over windows."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from effbench.deploy.targets.coreml.evaluator.matrix import pad, padding
from effbench.deploy.targets.coreml.evaluator.registry import OperationCall, operation
from effbench.deploy.targets.coreml.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


def _windows(call: OperationCall, x: Tensor, fill: float) -> Iterator[Tensor]:
    """Yield, for each position in the window, the input values at that position for all outputs."""
    kernel, sizes = call.numbers("kernel_sizes"), call.outputs[0].shape[2:]
    strides = call.numbers("strides", [1] * len(kernel))
    amounts = []
    declared = padding(call, x.shape[2:], kernel)
    for (before, after), size, k, stride, out in zip(declared, x.shape[2:], kernel, strides, sizes, strict=True):
        # With ceil_mode the last window may extend beyond the padding.
        amounts.append((before, max(after, (out - 1) * stride + k - size - before)))
    x = pad(x, amounts, fill)
    for tap in itertools.product(*map(range, kernel)):
        axes = zip(tap, sizes, strides, strict=True)
        window: Any = (..., *(slice(t, t + (out - 1) * s + 1, s) for t, out, s in axes))
        yield x[window]


@operation("max_pool")
def max_pool(call: OperationCall) -> Tensor:
    """Return the largest value of each window; padding is never the maximum."""
    taps = _windows(call, call.tensor("x"), -torch.inf)
    result = next(taps)
    for tap in taps:
        result = torch.maximum(result, tap)
    return result


@operation("avg_pool")
def avg_pool(call: OperationCall) -> Tensor:
    """Return the mean of each window, with or without the padding in the count."""
    x = call.tensor("x")
    sums = _sum(call, x)
    if call.flag("exclude_padding_from_average"):
        return sums / _sum(call, torch.ones_like(x[:1, :1]))
    kernel = call.numbers("kernel_sizes")
    # Elements beyond the declared padding, in windows that ceil_mode adds, are never counted.
    declared = pad(torch.ones_like(x[:1, :1]), padding(call, x.shape[2:], kernel), 1.0)
    shape = [size + sum(pair) for size, pair in zip(x.shape[2:], padding(call, x.shape[2:], kernel), strict=True)]
    inner = OperationCall(call.kind, call.name, {**call.arguments, "pad_type": ("valid",)}, call.outputs, half=False)
    return sums / _sum(inner, declared.reshape(1, 1, *shape))


def _sum(call: OperationCall, x: Tensor) -> Tensor:
    taps = _windows(call, x, 0.0)
    result = next(taps).clone()
    result = result.half() if call.half else result
    for tap in taps:
        result += tap.to(result.dtype)
    return result.float()


@operation("l2_pool")
def l2_pool(call: OperationCall) -> Tensor:
    """Return the root of the sum of squares of each window."""
    x = call.tensor("x")
    return _sum(call, x * x).sqrt()
