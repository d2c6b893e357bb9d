"""Local self-attention: every position attends to a square around it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effbench.errors import UsageError
from effbench.models.initialise import Watchers

FAR = -30.0
"""Score of positions beyond the border: exp(-30) is negligible, and the score is finite in half precision."""


class LocalAttention(nn.Module):
    """Softmax attention over a k x k neighbourhood, with a learned embedding per offset added to the keys.

    One product per offset, on shifted maps, replaces a gather of all neighbourhoods.

    Args:
        channels: Channels in and out.
        heads: Number of heads.
        kernel: Height and width of the neighbourhood; odd.

    Source: Ramachandran et al., "Stand-Alone Self-Attention in Vision Models", arXiv:1906.05909, section 3.
    """

    def __init__(self, channels: int, heads: int = 8, kernel: int = 7) -> None:
        super().__init__()
        if channels % heads or kernel % 2 == 0:
            raise UsageError(f"heads={heads} must divide {channels} channels, and kernel={kernel} must be odd.")
        self.heads, self.kernel = heads, kernel
        self.query = nn.Conv2d(channels, channels, 1, bias=False)
        self.key = nn.Conv2d(channels, channels, 1, bias=False)
        self.value = nn.Conv2d(channels, channels, 1, bias=False)
        self.offsets = nn.Parameter(nn.init.normal_(torch.empty(kernel * kernel, channels, 1, 1), std=0.5))

    def forward(self, x: Tensor) -> Tensor:
        """Mix positions; shape (B, channels, H, W) in and out."""
        channels, height, width = x.shape[1:]
        query = self.query(x) * (channels // self.heads) ** -0.5
        # Convolutions with ones sum over the channels of a head, and repeat a head's weight for its channels.
        total = torch.ones(self.heads, channels // self.heads, 1, 1, dtype=x.dtype, device=x.device)
        spread = torch.ones(channels, 1, 1, 1, dtype=x.dtype, device=x.device)
        keys, values = (self._shifted(y, height, width) for y in (self.key(x), self.value(x)))
        inside = self._shifted(torch.ones_like(x[:1, :1]), height, width)
        scores = [
            F.conv2d(query * (key + offset), total, groups=self.heads) * mask + (1 - mask) * FAR
            for key, offset, mask in zip(keys, self.offsets, inside, strict=True)
        ]
        top = scores[0]
        for score in scores[1:]:
            top = torch.maximum(top, score)
        weights = [torch.exp(score - top) for score in scores]
        mixed, sums = torch.zeros_like(query), torch.zeros_like(top)
        for weight, value in zip(weights, values, strict=True):
            mixed = mixed + F.conv2d(weight, spread, groups=self.heads) * value
            sums = sums + weight
        return mixed / F.conv2d(sums, spread, groups=self.heads)

    def _shifted(self, x: Tensor, height: int, width: int) -> list[Tensor]:
        """Return the map shifted by each offset of the neighbourhood, with zeros beyond the border."""
        kernel = self.kernel
        padded = F.pad(x, [kernel // 2] * 4)
        return [padded[..., i : i + height, j : j + width] for i in range(kernel) for j in range(kernel)]

    @torch.no_grad()
    def untrained(self) -> Watchers:
        """Sharpen attention, so that it has a large effect on the output."""
        for layer in (self.query, self.key):
            layer.weight.mul_(1.5)
        return {}
