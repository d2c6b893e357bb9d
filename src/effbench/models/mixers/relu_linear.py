"""ReLU linear attention over several scales, in EfficientViT's form."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effbench.errors import UsageError
from effbench.models.initialise import Watchers
from effbench.models.layers import ConvNorm

EPSILON = 1e-3
"""Added to the normaliser, per unit of sqrt(N), as in RGMA; smaller values vanish in half precision."""


class ReLULinearHeads(nn.Module):
    """Linear attention of several heads on ``relu(q)`` and ``relu(k)``; no parameters."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return ``(v k^T) q / (q . sum_j k_j + eps)``.

        Args:
            query: Shape (B, heads, d, N).
            key: Shape (B, heads, d, N).
            value: Shape (B, heads, d, N).

        Returns:
            Shape (B, heads, d, N).

        Source: Cai et al., arXiv:2205.14756, equation 2. The keys are summed before the product and divided by sqrt(N),
        so that the sums stay in the range of half precision.
        """
        positions = query.shape[-1]
        q = F.relu(query)
        k = F.relu(key * positions**-0.5).transpose(-1, -2)
        normaliser = k.sum(dim=-2, keepdim=True) @ q
        attended: Tensor = (value @ k) @ q / (normaliser + EPSILON * positions**0.5)
        return attended


class ReLULinearAttention(nn.Module):
    """EfficientViT's multi-scale linear attention: queries, keys and values, also aggregated by depthwise convolutions.

    Args:
        channels: Channels in and out.
        head_width: Channels per head.
        scales: Kernels of the depthwise convolutions; each adds the same number of heads.

    Source: arXiv:2205.14756, Figure 3, and class ``LiteMLA`` of the released code.
    """

    def __init__(self, channels: int, head_width: int = 16, scales: tuple[int, ...] = (5,)) -> None:
        super().__init__()
        if channels % head_width:
            raise UsageError(f"head_width={head_width} does not divide {channels} channels.")
        self.width, heads = head_width, channels // head_width
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.aggregate = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(3 * channels, 3 * channels, kernel, padding=kernel // 2, groups=3 * channels, bias=False),
                nn.Conv2d(3 * channels, 3 * channels, 1, groups=3 * heads, bias=False),
            )
            for kernel in scales
        )
        self.attention = ReLULinearHeads()
        self.project = ConvNorm(channels * (1 + len(scales)), channels)

    def forward(self, x: Tensor) -> Tensor:
        """Mix positions; shape (B, channels, H, W) in and out."""
        qkv = self.qkv(x)
        scales = torch.cat([qkv, *(branch(qkv) for branch in self.aggregate)], dim=1)
        heads, positions = scales.shape[1] // (3 * self.width), x.shape[2] * x.shape[3]
        packed = scales.reshape(-1, heads, 3 * self.width, positions)
        query, key, value = torch.split(packed, self.width, dim=2)
        attended = self.attention(query, key, value).reshape(-1, heads * self.width, x.shape[2], x.shape[3])
        return self.project(attended)  # type: ignore[no-any-return]

    def untrained(self) -> Watchers:
        """Change nothing: ReLU keeps half of the queries active, and BatchNorm follows."""
        return {}
