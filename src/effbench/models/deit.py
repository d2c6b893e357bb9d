"""DeiT's isotropic layout on a map: patches of 16 px, then pre-norm blocks of mixer and feed-forward layer.

`deit_*` and `aft_*` share it, so that only the mixer differs. Unlike DeiT, there is no class token: the map is
averaged, as in AFT. Attention, which is independent of positions, keeps DeiT's learned position embeddings.

Source: Touvron et al., arXiv:2012.12877, Table 1; widths, depth and feed-forward of AFT's models are the same.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effbench.models.initialise import Watchers
from effbench.models.layers import ChannelNorm, check_sides
from effbench.models.mixers.aft import resampled
from effbench.models.mixers.softmax import MultiHeadAttention
from effbench.schema import Backbone

PATCH, DEPTH, SIDE = 16, 12, 14
"""Pixels of a patch, number of blocks, and height and width of the map at 224 px."""
WIDTHS = {"t": 192, "s": 384}


class TransformerBlock(nn.Module):
    """``x + mixer(norm(x))``, then ``x + feed_forward(norm(x))``."""

    def __init__(self, mixer: nn.Module, channels: int) -> None:
        super().__init__()
        self.norm1: ChannelNorm = ChannelNorm(channels)
        self.mixer = mixer
        self.norm2: ChannelNorm = ChannelNorm(channels)
        self.expand = nn.Conv2d(channels, 4 * channels, 1)
        self.contract = nn.Conv2d(4 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Mix positions, then channels; shape (B, channels, H, W) in and out."""
        x = x + self.mixer(self.norm1(x))
        return x + self.contract(F.gelu(self.expand(self.norm2(x))))  # type: ignore[no-any-return]

    def fused(self) -> TransformerBlock:
        """Fold gains and biases of the norms into the projections that follow."""
        self.norm1.fold_into(*self.mixer.entrances())  # type: ignore[operator]
        self.norm2.fold_into(self.expand)
        return self


class PositionEmbedding(nn.Module):
    """Learned position embeddings, added to a map; for a map of another size they are resampled."""

    def __init__(self, channels: int, resolution: tuple[int, int]) -> None:
        super().__init__()
        self.resolution = resolution
        self.embedding = nn.Parameter(
            nn.init.uniform_(torch.empty(resolution[0] * resolution[1], channels), -0.02, 0.02)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Add the embeddings; shape (B, channels, H, W) in and out."""
        values = resampled(self.embedding, self.resolution, (x.shape[2], x.shape[3]))
        return x + values.T.reshape(1, *x.shape[1:])

    @torch.no_grad()
    def fit(self, resolution: tuple[int, int]) -> None:
        """Resample the embeddings permanently to a map of this size."""
        values = resampled(self.embedding, self.resolution, resolution).contiguous()
        self.embedding, self.resolution = nn.Parameter(values), resolution

    @torch.no_grad()
    def untrained(self) -> Watchers:
        """Give the embeddings half the standard deviation of the patches."""
        self.embedding.mul_(0.5 * 3**0.5 / 0.02)
        return {}


class IsotropicTransformer(nn.Module):
    """Patches, twelve blocks of one width, and a classifier on the averaged map.

    Args:
        inputs: Channels of the image.
        channels: Width.
        mixer: Builds a mixer from the width.
        classes: Number of classes.
        places: Whether learned position embeddings are added to the patches.
    """

    def __init__(
        self, inputs: int, channels: int, mixer: Callable[[int], nn.Module], classes: int, places: bool = False
    ) -> None:
        super().__init__()
        self.patches = nn.Conv2d(inputs, channels, PATCH, stride=PATCH)
        self.places = PositionEmbedding(channels, (SIDE, SIDE)) if places else nn.Identity()
        self.blocks = nn.ModuleList(TransformerBlock(mixer(channels), channels) for _ in range(DEPTH))
        self.norm = ChannelNorm(channels)
        self.linear = nn.Linear(channels, classes)

    def forward_features(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the maps after blocks 3, 6, 9 and 12; all have stride 16.

        Raises:
            UsageError: Height or width is not a positive multiple of 16 pixels.
        """
        check_sides(x.shape[-2], x.shape[-1], PATCH)
        x = self.places(self.patches(x))
        features = []
        for index, block in enumerate(self.blocks, start=1):
            x = block(x)
            if index % (DEPTH // 4) == 0:
                features.append(x)
        return tuple(features)

    def forward(self, x: Tensor) -> Tensor:
        """Return class scores, shape (B, classes), for images of shape (B, inputs, H, W)."""
        pooled = F.adaptive_avg_pool2d(self.norm(self.forward_features(x)[-1]), 1).flatten(1)
        return self.linear(pooled)  # type: ignore[no-any-return]

    def fused(self) -> IsotropicTransformer:
        """Fold gain and bias of the last norm into the classifier; they commute with the average between."""
        self.norm.fold_into(self.linear)
        return self

    def fit_resolution(self, resolution: tuple[int, int]) -> tuple[str, ...]:
        """Resample the parameters that depend on the map size; return a note if any were."""
        height, width = resolution[0] // PATCH, resolution[1] // PATCH
        bound = [m for m in self.modules() if hasattr(m, "fit") and m.resolution != (height, width)]
        for module in bound:
            module.fit((height, width))  # type: ignore[operator]
        if not bound:
            return ()
        return (f"position factors resampled from {SIDE}x{SIDE} to {height}x{width} positions (bicubic)",)


def _deit(size: str, in_channels: int, classes: int) -> IsotropicTransformer:
    return IsotropicTransformer(in_channels, WIDTHS[size], MultiHeadAttention, classes, places=True)


def deit_t(in_channels: int = 3, classes: int = 1000) -> IsotropicTransformer:
    """Build DeiT-tiny on a map (5.7 M parameters as published, with class token)."""
    return _deit("t", in_channels, classes)


def deit_s(in_channels: int = 3, classes: int = 1000) -> IsotropicTransformer:
    """Build DeiT-small on a map (22.1 M parameters as published, with class token)."""
    return _deit("s", in_channels, classes)


BACKBONES = tuple(
    Backbone(
        name=f"deit_{size}",
        family="deit",
        factory=f"effbench.models.deit:deit_{size}",
        published=f"DeiT-{name}",
        mixer="softmax attention",
        mixer_order="O(N^2)",
        stride=PATCH,
        source="arXiv:2012.12877, Table 1; without class token, the map is averaged",
    )
    for size, name in (("t", "Tiny"), ("s", "Small"))
)
