"""Attention Free Transformer: ``sigmoid(Q) * sum_j exp(K_j + w_tj) V_j / sum_j exp(K_j + w_tj)``, all element-wise.

A common factor of numerator and denominator cancels. Therefore the maxima of K and of w are subtracted before ``exp``
and the sums are divided by sqrt(N), so that all values stay in the range of half precision.

Source: Zhai et al., "An Attention Free Transformer", arXiv:2105.14103.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effbench.errors import UsageError
from effbench.models.initialise import Watchers

SMALLEST = 2.0**-14
"""Smallest normal number in half precision, to which smaller denominators are clamped."""

SELECTIVE = 2.0
"""Gain of untrained keys: a few positions have most of the weight, so that keys have an effect on the output."""


def _pointwise(inputs: int, outputs: int, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 1, bias=bias)


def key_weights(key: Tensor) -> Tensor:
    """Return ``exp(K - max K) / sqrt(N)``; the maximum over positions, per image and channel. Shape as the key's."""
    positions = key.shape[2] * key.shape[3]
    weights: Tensor = torch.exp(key - key.amax(dim=(2, 3), keepdim=True)) * positions**-0.5
    return weights


class _AFT(nn.Module):
    """The common part of all variants: the projections and the gate."""

    def __init__(self, channels: int, keys: int | None = None) -> None:
        super().__init__()
        self.query = _pointwise(channels, channels)
        self.key = _pointwise(channels, keys or channels)
        self.value = _pointwise(channels, channels)
        self.project = _pointwise(channels, channels, bias=True)

    def entrances(self) -> tuple[nn.Conv2d, ...]:
        """Return the layers that read the input, into which a preceding norm is folded."""
        return self.query, self.key, self.value

    def attend(self, key: Tensor, value: Tensor) -> Tensor:
        """Return the weighted means of the values, of a shape that broadcasts to (B, channels, H, W)."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Mix positions; shape (B, channels, H, W) in and out."""
        attended = self.attend(self.key(x), self.value(x))
        return self.project(torch.sigmoid(self.query(x)) * attended)  # type: ignore[no-any-return]

    @torch.no_grad()
    def untrained(self) -> Watchers:
        """Make the keys selective, and scale the means, which vary little, to the residual stream."""
        self.key.weight.mul_(SELECTIVE)
        self.project.weight.mul_(3)
        return {}


class AFTSimple(_AFT):
    """AFT without position biases: one mean of the values for the whole map, weighted per channel.

    Args:
        channels: Channels in and out.
        causal: A position attends to itself and to earlier positions, row by row.
    """

    def __init__(self, channels: int, causal: bool = False) -> None:
        super().__init__(channels)
        self.causal = causal

    def attend(self, key: Tensor, value: Tensor) -> Tensor:
        """Return shape (B, channels, 1, 1), or that of the value where causal."""
        if self.causal:
            return prefix_means(key.flatten(2), value.flatten(2)).reshape(value.shape)
        weights = key_weights(key)
        return (weights * value).sum(dim=(2, 3), keepdim=True) / weights.sum(dim=(2, 3), keepdim=True)


def prefix_means(key: Tensor, value: Tensor) -> Tensor:
    """Return, at each position, the mean of the values up to it, weighted by ``exp(K)``; shapes (B, C, N).

    A sum of twice the length is computed from two halves, each relative to its own maximum: O(N log N), and later keys
    have no influence, not even on rounding.
    """
    top, numerator, denominator = key, value, torch.ones_like(key)
    length = 1
    while length < key.shape[-1]:
        before, upper = top[..., :-length], top[..., length:]
        merged = torch.maximum(before, upper)
        left, right = torch.exp(before - merged), torch.exp(upper - merged)
        numerator = _append(numerator, length, left * numerator[..., :-length] + right * numerator[..., length:])
        denominator = _append(
            denominator, length, left * denominator[..., :-length] + right * denominator[..., length:]
        )
        top = _append(top, length, merged)
        length *= 2
    return numerator / denominator


def _append(old: Tensor, length: int, new: Tensor) -> Tensor:
    return torch.cat([old[..., :length], new], dim=-1)


class AFTFull(_AFT):
    """AFT with a learned bias for every pair of positions, factorised: ``w = rows columns^T``.

    Args:
        channels: Channels in and out.
        resolution: Height and width of the map of the factors; for another map they are resampled.
        factors: Rank of the bias; 128 in the paper's ImageNet models.
        causal: A position attends to itself and to earlier positions, row by row.
        window: Biases of pairs that are further apart, in rows or columns, are 0; None for no window.
    """

    def __init__(
        self,
        channels: int,
        resolution: tuple[int, int] = (14, 14),
        factors: int = 128,
        causal: bool = False,
        window: int | None = None,
    ) -> None:
        super().__init__(channels)
        self.resolution, self.causal, self.window = resolution, causal, window
        positions = resolution[0] * resolution[1]
        self.rows = nn.Parameter(nn.init.uniform_(torch.empty(positions, factors), -0.05, 0.05))
        self.columns = nn.Parameter(nn.init.uniform_(torch.empty(positions, factors), -0.05, 0.05))

    def bias(self, resolution: tuple[int, int]) -> Tensor:
        """Return the position bias w, shape (N, N), for a map of this size."""
        rows, columns = (resampled(x, self.resolution, resolution) for x in (self.rows, self.columns))
        bias = rows @ columns.T
        if self.window is None:
            return bias
        return bias * within(resolution, self.window).to(bias)

    @torch.no_grad()
    def fit(self, resolution: tuple[int, int]) -> None:
        """Resample the factors permanently to a map of this size."""
        for name in ("rows", "columns"):
            values = resampled(getattr(self, name), self.resolution, resolution)
            setattr(self, name, nn.Parameter(values.contiguous(), requires_grad=getattr(self, name).requires_grad))
        self.resolution = resolution

    def attend(self, key: Tensor, value: Tensor) -> Tensor:
        """Return the means, shape (B, channels, H, W)."""
        bias = self.bias((key.shape[2], key.shape[3]))
        if self.causal:
            return causal_means(key.flatten(2), value.flatten(2), bias).reshape(value.shape)
        pairs = torch.exp(bias - bias.amax(dim=1, keepdim=True)).T
        weights = key_weights(key)
        # One product for numerator and denominator reads the biases once.
        rows = torch.cat([weights * value, weights], dim=1).flatten(2) @ pairs
        numerator, denominator = torch.split(rows, value.shape[1], dim=1)
        means: Tensor = numerator / denominator.clamp_min(SMALLEST)
        return means.reshape(value.shape)

    @torch.no_grad()
    def untrained(self) -> Watchers:
        """Give the biases a deviation of two, so that positions matter as much as keys."""
        deviation = 2.0**0.5 / self.rows.shape[1] ** 0.25
        for values in (self.rows, self.columns):
            values.mul_(deviation / 0.05 * 3**0.5)
        return super().untrained()


class AFTLocal(AFTFull):
    """AFT-full whose biases are 0 outside a window; positions outside keep the weights of AFT-simple, not 0."""

    def __init__(
        self,
        channels: int,
        window: int = 4,
        resolution: tuple[int, int] = (14, 14),
        factors: int = 128,
        causal: bool = False,
    ) -> None:
        super().__init__(channels, resolution, factors, causal, window)


def resampled(values: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Return values of positions, shape (N, d), resampled from one map size to another (bicubic)."""
    if old == new:
        return values
    image = values.T.reshape(1, values.shape[1], *old)
    return F.interpolate(image, size=new, mode="bicubic", align_corners=False).reshape(values.shape[1], -1).T


def within(resolution: tuple[int, int], window: int) -> Tensor:
    """Return a mask of the pairs less than a window apart in rows and in columns, shape (N, N)."""
    height, width = resolution
    rows = torch.arange(height).repeat_interleave(width)
    columns = torch.arange(width).repeat(height)
    near: Tensor = (rows[:, None] - rows).abs().maximum((columns[:, None] - columns).abs()) < window
    return near


def causal_means(key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    """Return causal means, one row of the bias at a time: O(N C) memory, exact maxima; shapes (B, C, N)."""
    means = [
        (torch.softmax(key[..., : t + 1] + bias[t, : t + 1], dim=-1) * value[..., : t + 1]).sum(dim=-1)
        for t in range(key.shape[-1])
    ]
    return torch.stack(means, dim=-1)


class AFTConv(_AFT):
    """AFT with translation-invariant position biases: depthwise convolutions and global sums, for any map.

    Args:
        channels: Channels in and out.
        heads: Channels of the key and filters, each shared by channels / heads channels; None for all channels.
        kernel: Height and width of the filters; odd.

    Source: arXiv:2105.14103, section 3.3; the filters are reparameterised as ``gain (w - mean) / std + bias`` with gain
    and bias 0 at the start, where AFT-conv is AFT-simple.
    """

    def __init__(self, channels: int, heads: int | None = None, kernel: int = 11) -> None:
        heads = heads or channels
        if channels % heads or kernel % 2 == 0:
            raise UsageError(f"heads={heads} must divide {channels} channels, and kernel={kernel} must be odd.")
        super().__init__(channels, heads)
        self.position = nn.Parameter(nn.init.uniform_(torch.empty(heads, 1, kernel, kernel), -1, 1))
        self.gain = nn.Parameter(torch.zeros(heads, 1, 1, 1))
        self.bias = nn.Parameter(torch.zeros(heads, 1, 1, 1))

    def filters(self) -> tuple[Tensor, Tensor]:
        """Return ``exp(w) - 1`` and 1, both times ``exp(-max(w, 0))``; shapes (heads, 1, k, k) and (heads, 1, 1)."""
        deviation, mean = torch.std_mean(self.position, dim=(2, 3), keepdim=True)
        weights = self.gain * (self.position - mean) / deviation + self.bias
        top = weights.amax(dim=(2, 3), keepdim=True).clamp_min(0)
        return torch.exp(weights - top) - torch.exp(-top), torch.exp(-top)[:, 0]

    def attend(self, key: Tensor, value: Tensor) -> Tensor:
        """Return the means, shape (B, channels, H, W)."""
        return conv_means(key, value, *self.filters())

    @torch.no_grad()
    def untrained(self) -> Watchers:
        """Give most weight to a few positions of each filter, and more to all of them than to positions outside."""
        self.gain.fill_(2.0)
        self.bias.fill_(1.0)
        return super().untrained()

    def fused(self) -> nn.Module:
        """Return the layer with its filters computed."""
        return DeployedAFTConv(self)


def conv_means(key: Tensor, value: Tensor, filters: Tensor, scale: Tensor) -> Tensor:
    """Return ``(f * eV + s sum eV) / (f * e + s sum e)`` with e the weights of the keys; ``*`` is a convolution."""
    heads, shared = key.shape[1], value.shape[1] // key.shape[1]
    weights = key_weights(key)
    denominator = _filtered(weights, filters, scale).clamp_min(SMALLEST)
    if shared > 1:
        # Repeat a head's weights for its channels by a convolution with ones, which needs no layout operator.
        ones = torch.ones(value.shape[1], 1, 1, 1, dtype=key.dtype, device=key.device)
        weights, denominator = (F.conv2d(x, ones, groups=heads) for x in (weights, denominator))
        filters, scale = filters.repeat_interleave(shared, dim=0), scale.repeat_interleave(shared, dim=0)
    return _filtered(weights * value, filters, scale) / denominator


def _filtered(x: Tensor, filters: Tensor, scale: Tensor) -> Tensor:
    local = F.conv2d(x, filters, padding=filters.shape[-1] // 2, groups=x.shape[1])
    return local + scale * x.sum(dim=(2, 3), keepdim=True)


class DeployedAFTConv(_AFT):
    """`AFTConv` for export: its filters are constants of the convolution of the denominator."""

    scale: Tensor

    def __init__(self, layer: AFTConv) -> None:
        nn.Module.__init__(self)
        self.query, self.key, self.value, self.project = layer.query, layer.key, layer.value, layer.project
        with torch.no_grad():
            filters, scale = layer.filters()
        heads, _, kernel, _ = filters.shape
        self.near = nn.Conv2d(heads, heads, kernel, padding=kernel // 2, groups=heads, bias=False)
        self.near.weight = nn.Parameter(filters, requires_grad=False)
        self.scale = nn.Parameter(scale, requires_grad=False)

    def attend(self, key: Tensor, value: Tensor) -> Tensor:
        """Return the means, shape (B, channels, H, W)."""
        return conv_means(key, value, self.near.weight, self.scale)
