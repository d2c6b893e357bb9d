"""Softmax multi-head attention over the positions of a map."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from effbench.errors import UsageError
from effbench.models.initialise import Watchers

HEAD_WIDTH = 64
"""Channels per head by default, as in DeiT."""


class SoftmaxHeads(nn.Module):
    """Scaled dot-product attention of several heads; no parameters."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return, per head and position, the mean of the values weighted by ``softmax(q . k / sqrt(d))``.

        Args:
            query: Shape (B, heads, d, N).
            key: Shape (B, heads, d, N).
            value: Shape (B, heads, d, N).

        Returns:
            Shape (B, heads, d, N).

        Source: Vaswani et al., arXiv:1706.03762, equation 1.
        """
        scores = (query * query.shape[2] ** -0.5).transpose(-1, -2) @ key
        return value @ torch.softmax(scores, dim=-1).transpose(-1, -2)


class MultiHeadAttention(nn.Module):
    """``Wo(softmax(q k / sqrt(d)) v)`` on a map, with the projections as 1x1 convolutions.

    Args:
        channels: Channels in and out.
        heads: Number of heads; None for one per 64 channels.
    """

    def __init__(self, channels: int, heads: int | None = None) -> None:
        super().__init__()
        self.heads = heads or max(1, channels // HEAD_WIDTH)
        if channels % self.heads:
            raise UsageError(f"heads={self.heads} does not divide {channels} channels.")
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.attention = SoftmaxHeads()
        self.project = nn.Conv2d(channels, channels, 1)

    def entrances(self) -> tuple[nn.Conv2d, ...]:
        """Return the layers that read the input, into which a preceding norm is folded."""
        return (self.qkv,)

    @torch.no_grad()
    def untrained(self) -> Watchers:
        """Sharpen attention, so that it has a large effect on the output."""
        queries_and_keys = self.qkv.weight[: 2 * self.project.in_channels]
        queries_and_keys.mul_(SHARPNESS)
        return {}

    def forward(self, x: Tensor) -> Tensor:
        """Mix positions; shape (B, channels, H, W) in and out."""
        # One reshape for all three; the heads of q come first, then those of k and of v.
        width, positions = x.shape[1] // self.heads, x.shape[2] * x.shape[3]
        heads = self.qkv(x).reshape(-1, 3 * self.heads, width, positions)
        query, key, value = torch.split(heads, self.heads, dim=1)
        return self.project(self.attention(query, key, value).reshape(x.shape))  # type: ignore[no-any-return]


SHARPNESS = 1.5
"""Gain of untrained queries and keys, which gives scores a standard deviation of about two."""
