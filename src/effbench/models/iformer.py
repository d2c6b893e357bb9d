"""iFormer: a hybrid of 7x7 convolution units and single-head modulation attention (SHMA).

Source: Zheng, "iFormer: Integrating ConvNet and Transformer for Mobile Application", ICLR 2025, arXiv:2501.15369,
Tables 3 and 15, and the authors' released code, which decides where the two differ.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from effbench.models.initialise import SCENES_ALONE, Watchers
from effbench.models.layers import ConvNorm, ConvUnit, FeedForward, Network, Residual, position_encoding
from effbench.models.mixers.windows import Windowed
from effbench.schema import Backbone


class SoftmaxAttention(nn.Module):
    """Single-head softmax attention over positions; no parameters."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return, per position, the mean of the values weighted by ``softmax(q . k / sqrt(d))``.

        Args:
            query: Shape (B, d, H, W).
            key: Shape (B, d, H, W).
            value: Shape (B, C, H, W).

        Returns:
            Shape (B, C, H, W), inside the range of the values.
        """
        positions = query.shape[-2] * query.shape[-1]
        scale = query.shape[1] ** -0.5
        q, k, v = (x.reshape(-1, x.shape[1], positions) for x in (query * scale, key, value))
        weights = torch.softmax(q.transpose(-1, -2) @ k, dim=-1)
        return (v @ weights.transpose(-1, -2)).reshape(value.shape)


class SHMA(nn.Module):
    """Single-head modulation attention: ``Wo(attention(q, k, sigmoid(v)) * sigmoid(g))``.

    The paper's equation 3 applies the sigmoid after attention; the released code and this module apply it before. The
    code splits one convolution into value and gate; here they are two, which gives the same sums without copies.

    Source: arXiv:2501.15369, equations 1 to 3; class ``SHMA`` of the released code.

    Args:
        channels: Channels in and out.
        width: Channels of queries and keys.
        sharpness: Gain of untrained queries and keys.
    """

    def __init__(self, channels: int, width: int, sharpness: float = 1.1) -> None:
        super().__init__()
        self.sharpness = sharpness
        self.query = ConvNorm(channels, width)
        self.key = ConvNorm(channels, width)
        self.value = ConvNorm(channels, channels)
        self.gate = ConvNorm(channels, channels)
        self.attention = SoftmaxAttention()
        self.project = ConvNorm(channels, channels)

    def untrained(self) -> Watchers:
        """Sharpen attention and narrow the gate's range, so that attention has a large effect on the output."""
        for norm in (self.query.norm, self.key.norm):
            setattr(norm, SCENES_ALONE, True)
            nn.init.constant_(norm.weight, self.sharpness)
        nn.init.constant_(self.value.norm.weight, 3.0)
        nn.init.constant_(self.gate.norm.weight, 0.5)
        return {}

    def forward(self, x: Tensor) -> Tensor:
        """Mix positions; shape (B, channels, H, W) in and out."""
        attended = self.attention(self.query(x), self.key(x), torch.sigmoid(self.value(x)))
        return self.project(attended * torch.sigmoid(self.gate(x)))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Size:
    """One column of iFormer's Table 15.

    ``depths`` counts units of stage 1, stage 2, stage 3 before, in and after attention, and stage 4; expansions are
    those of the convolution units and of the feed-forward layer after attention. Queries and keys have half (stage 3)
    or a quarter (stage 4) of the channels.
    """

    widths: tuple[int, int, int, int]
    depths: tuple[int, int, int, int, int, int]
    expansion: int
    attention_expansion: int


SIZES = {
    "t": Size((32, 64, 128, 256), (2, 2, 6, 3, 1, 2), 3, 2),
    "s": Size((32, 64, 176, 320), (2, 2, 9, 3, 1, 2), 4, 3),
    "m": Size((48, 96, 192, 384), (2, 2, 9, 4, 1, 2), 4, 3),
    "l": Size((48, 96, 256, 384), (2, 2, 8, 8, 1, 2), 4, 3),
    "l2": Size((64, 128, 256, 512), (3, 3, 12, 11, 1, 3), 4, 3),
}
# The released graph of L2 for 512 px is narrower than L2 and one attention unit deeper.
FASTER = {"m": (SIZES["m"], 4), "l": (SIZES["l"], 7), "l2": (Size((48, 128, 256, 448), (3, 3, 12, 12, 1, 3), 4, 3), 11)}
"""Sizes of the ``*_faster`` networks, and the number of windowed attention units of stage 3."""


def hybrid(
    size: Size,
    convolution: Callable[[int, int], list[nn.Module]],
    mixer: Callable[[int, int], nn.Module],
    in_channels: int = 3,
    classes: int = 1000,
    windowed: int = 0,
    gain: float = 1.0,
) -> Network:
    """Build a network with iFormer's stages.

    Args:
        size: Widths and depths.
        convolution: Builds the units of one convolution block from channels and hidden channels.
        mixer: Builds a mixer from channels and the width of its queries and keys.
        in_channels: Channels of the image.
        classes: Number of classes.
        windowed: Number of attention units of stage 3, from the first, in windows of 16 x 16 positions.
        gain: Largest scale of a mixer's output relative to the residual stream, untrained.
    """

    def convs(channels: int, count: int) -> list[nn.Module]:
        return [unit for _ in range(count) for unit in convolution(channels, size.expansion * channels)]

    def attentions(channels: int, width: int, count: int) -> list[nn.Module]:
        units: list[nn.Module] = []
        # Many consecutive mixers would amplify rounding errors in an untrained network.
        share = min(gain, 2 * count**-0.5)
        for _ in range(count):
            units += [position_encoding(channels), Residual(mixer(channels, width), share)]
            units.append(FeedForward(channels, size.attention_expansion * channels))
        return units

    width1, width2, width3, width4 = size.widths
    depth1, depth2, before, middle, after, depth4 = size.depths
    blocks = [  # in this order, in which the factories draw weights
        convs(width1, depth1),
        convs(width2, depth2),
        [
            *convs(width3, before),
            *in_windows(attentions(width3, width3 // 2, middle), windowed),
            *convs(width3, after),
        ],
        attentions(width4, width4 // 4, depth4),
    ]
    return Network(in_channels, size.widths, blocks, classes)


def in_windows(units: list[nn.Module], count: int) -> list[nn.Module]:
    """Wrap attention units (encoding, mixer, feed-forward, ...) in windows, from the first mixer to the last one."""
    if not count:
        return units
    last = 3 * count - 1
    return [units[0], Windowed(nn.Sequential(*units[1:last])), *units[last:]]


def _iformer(size: Size, in_channels: int, classes: int, windowed: int = 0) -> Network:
    def convolution(channels: int, hidden: int) -> list[nn.Module]:
        return [ConvUnit(channels, 7, hidden)]

    sharpness, gain = _untrained(size.depths[3], bool(windowed))
    return hybrid(size, convolution, partial(SHMA, sharpness=sharpness), in_channels, classes, windowed, gain)


def _untrained(mixers: int, windowed: bool) -> tuple[float, float]:
    """Return sharpness and gain of untrained attention for a number of consecutive mixers.

    With these values mixers change the outputs by a tenth and more, and rounding errors are amplified the least: to
    1e-3 of the spread in single precision for more than eight mixers, and further in windows.
    """
    if mixers > 8:
        return (0.7, 1.0) if windowed else (0.9, 1.0)
    if mixers == 4:
        return 1.7, 0.25
    return (1.65 if mixers <= 3 else 1.2), 0.3


def iformer_t(in_channels: int = 3, classes: int = 1000) -> Network:
    """Build iFormer-T (2.9 M parameters, 0.53 GMACs at 224 px as published)."""
    return _iformer(SIZES["t"], in_channels, classes)


def iformer_s(in_channels: int = 3, classes: int = 1000) -> Network:
    """Build iFormer-S (6.5 M parameters, 1.09 GMACs at 224 px as published)."""
    return _iformer(SIZES["s"], in_channels, classes)


def iformer_m(in_channels: int = 3, classes: int = 1000) -> Network:
    """Build iFormer-M (8.9 M parameters, 1.64 GMACs at 224 px as published)."""
    return _iformer(SIZES["m"], in_channels, classes)


def iformer_l(in_channels: int = 3, classes: int = 1000) -> Network:
    """Build iFormer-L (14.7 M parameters as published; 2.63 GMACs published, 2.83 counted, also in released code)."""
    return _iformer(SIZES["l"], in_channels, classes)


def iformer_l2(in_channels: int = 3, classes: int = 1000) -> Network:
    """Build iFormer-L2 (24.5 M parameters, 4.50 GMACs at 224 px as published)."""
    return _iformer(SIZES["l2"], in_channels, classes)


def iformer_m_faster(in_channels: int = 3, classes: int = 1000) -> Network:
    """Build iFormer-M with the attention of stage 3 in windows."""
    return _iformer(FASTER["m"][0], in_channels, classes, FASTER["m"][1])


def iformer_l_faster(in_channels: int = 3, classes: int = 1000) -> Network:
    """Build iFormer-L with seven of the eight attention units of stage 3 in windows."""
    return _iformer(FASTER["l"][0], in_channels, classes, FASTER["l"][1])


def iformer_l2_faster(in_channels: int = 3, classes: int = 1000) -> Network:
    """Build the released 512 px graph named after L2; its widths are not those of L2."""
    return _iformer(FASTER["l2"][0], in_channels, classes, FASTER["l2"][1])


BACKBONES = (
    *(
        Backbone(
            name=f"iformer_{size}",
            family="iformer",
            factory=f"effbench.models.iformer:iformer_{size}",
            published=f"iFormer-{size.upper()}",
            mixer="SHMA",
            mixer_order="O(N^2)",
            source="arXiv:2501.15369 (ICLR 2025), Table 15 and released code",
        )
        for size in SIZES
    ),
    *(
        Backbone(
            name=f"iformer_{size}_faster",
            family="iformer",
            factory=f"effbench.models.iformer:iformer_{size}_faster",
            mixer="SHMA in windows",
            mixer_order="O(N^2), stage 4",
            source="released code of arXiv:2501.15369, there for latency at 512 px only: no accuracy belongs to it",
        )
        for size in FASTER
    ),
)
