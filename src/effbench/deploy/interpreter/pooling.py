"""Pooling as a reduction over windows."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from effbench.deploy.interpreter.linear import pad_spatial, spatial_pads
from effbench.deploy.interpreter.registry import OpCall, operator


class Windows:
    """The geometry of one pooling: the padding that completes every window, and a view of the windows."""

    def __init__(
        self,
        sizes: Sequence[int],
        kernel: Sequence[int],
        strides: Sequence[int] | None,
        dilations: Sequence[int] | None,
        pads: Sequence[int] | None,
        auto_pad: str,
        ceil_mode: int,
    ) -> None:
        rank = len(sizes)
        self.kernel = list(kernel)
        self.strides, self.dilations = list(strides or [1] * rank), list(dilations or [1] * rank)
        self.spans = [(k - 1) * d + 1 for k, d in zip(kernel, self.dilations, strict=True)]
        self.pads = spatial_pads(sizes, self.spans, self.strides, pads, auto_pad)
        self.tails = [0] * rank
        for i, (size, (before, after)) in enumerate(zip(sizes, self.pads, strict=True)):
            rest = (size + before + after - self.spans[i]) % self.strides[i]
            outputs = (size + before + after - self.spans[i]) // self.strides[i] + 1
            # A window that would begin in the padding behind the input does not count.
            if ceil_mode and rest and outputs * self.strides[i] < size + before:
                self.tails[i] = self.strides[i] - rest

    def view(self, x: Tensor, value: float, tail: float | None = None) -> Tensor:
        """Return shape (N, C, *outputs, window): padding is filled with ``value``, that of ceil mode with ``tail``."""
        x = pad_spatial(x, self.pads, value)
        x = pad_spatial(x, [(0, tail_size) for tail_size in self.tails], value if tail is None else tail)
        rank = len(self.kernel)
        for i in range(rank):
            x = x.unfold(2 + i, self.spans[i], self.strides[i])[..., :: self.dilations[i]]
        return x.flatten(2 + rank)


@operator("MaxPool")
def max_pool(
    call: OpCall,
    x: Tensor,
    *,
    kernel_shape: Sequence[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    storage_order: int = 0,
    strides: Sequence[int] | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Return the largest value of each window, and its index."""
    geometry = Windows(x.shape[2:], kernel_shape, strides, dilations, pads, auto_pad, ceil_mode)
    lowest = -math.inf if x.is_floating_point() else torch.iinfo(x.dtype).min
    values, offsets = geometry.view(x, lowest).max(-1)
    if call.outputs == 1:
        return values
    places = torch.arange(x.numel()).reshape(x.shape)
    if storage_order:  # column major over the last two dimensions
        plane = x.shape[-1] * x.shape[-2]
        places = places // plane * plane + (places % x.shape[-1]) * x.shape[-2] + (places % plane) // x.shape[-1]
    return values, geometry.view(places, -1).gather(-1, offsets.unsqueeze(-1)).squeeze(-1)


@operator("AveragePool")
def average_pool(
    call: OpCall,
    x: Tensor,
    *,
    kernel_shape: Sequence[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """Return the mean of each window, over its pixels inside the image or with its padding."""
    geometry = Windows(x.shape[2:], kernel_shape, strides, dilations, pads, auto_pad, ceil_mode)
    inside = x.new_ones((1, 1, *x.shape[2:]))
    counts = geometry.view(inside, float(count_include_pad), tail=0.0).sum(-1)
    return call.math.sum(geometry.view(x, 0.0), [-1]) / counts


@operator("LpPool")
def lp_pool(
    call: OpCall,
    x: Tensor,
    *,
    kernel_shape: Sequence[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Sequence[int] | None = None,
    p: int = 2,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """Return the p-norm of each window."""
    geometry = Windows(x.shape[2:], kernel_shape, strides, dilations, pads, auto_pad, ceil_mode)
    powers = call.math.round(geometry.view(x, 0.0).abs() ** p)
    return call.math.sum(powers, [-1]) ** (1 / p)


@operator("GlobalAveragePool")
def global_average_pool(call: OpCall, x: Tensor) -> Tensor:
    """Return the mean of each channel, shape (N, C, 1, ...)."""
    return call.math.mean(x, list(range(2, x.dim())), keepdim=True)


@operator("GlobalMaxPool")
def global_max_pool(call: OpCall, x: Tensor) -> Tensor:
    """Return the largest value of each channel, shape (N, C, 1, ...)."""
    return x.amax(tuple(range(2, x.dim())), keepdim=True)


@operator("GlobalLpPool")
def global_lp_pool(call: OpCall, x: Tensor, *, p: int = 2) -> Tensor:
    """Return the p-norm of each channel, shape (N, C, 1, ...)."""
    powers = call.math.round(x.abs() ** p)
    return call.math.sum(powers, list(range(2, x.dim())), keepdim=True) ** (1 / p)


@operator("MaxUnpool", moves=True)
def max_unpool(
    call: OpCall,
    x: Tensor,
    places: Tensor,
    output_shape: Tensor | None = None,
    *,
    kernel_shape: Sequence[int],
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """Put values back where MaxPool took them; ``places`` count over the whole tensor before the pool."""
    rank = len(kernel_shape)
    pads, strides = pads or [0] * 2 * rank, strides or [1] * rank
    sizes = [
        (n - 1) * stride + kernel - before - after
        for n, stride, kernel, before, after in zip(
            x.shape[2:], strides, kernel_shape, pads[:rank], pads[rank:], strict=True
        )
    ]
    shape = [*x.shape[:2], *sizes]
    y = x.new_zeros(math.prod(shape)).scatter(0, places.reshape(-1), x.reshape(-1)).reshape(shape)
    if output_shape is None:
        return y
    extra = [want - have for want, have in zip(output_shape.tolist(), shape, strict=True)]
    return torch.nn.functional.pad(y, [n for size in reversed(extra) for n in (0, size)])
