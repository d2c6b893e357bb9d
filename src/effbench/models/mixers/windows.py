"""Split a map into windows along the batch dimension, and join them; tensors of rank 4 only."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

SIDE = 16
"""Height and width of a window in positions, as in iFormer's ``*_faster`` networks."""


class Partition(nn.Module):
    """Split maps into windows along the batch dimension."""

    def __init__(self, side: int = SIDE) -> None:
        super().__init__()
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        """Return shape (B n, C, side, side) for maps of shape (B, C, H, W), n windows each.

        A map that windows do not tile is padded with rows and columns of zeros, which attention then includes.

        Source: the padding is that of iFormer's released code, class ``WindowPartion``.
        """
        (_, channels, height, width), side = x.shape, self.side
        below, right = -height % side, -width % side
        if below or right:
            x = F.pad(x, (0, right, 0, below))
        rows, columns = (height + below) // side, (width + right) // side
        # Two transposes of adjacent axes replace one permutation of six axes, which many NPUs reject.
        x = x.reshape(-1, side, columns, side).transpose(1, 2)
        x = x.reshape(-1, channels, rows * columns, side * side).transpose(1, 2)
        return x.reshape(-1, channels, side, side)


class Join(nn.Module):
    """Join the windows of maps of a known size: the inverse of `Partition`."""

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        """Return maps of shape (B, C, height, width)."""
        _, channels, side, _ = x.shape
        rows, columns = -(-height // side), -(-width // side)
        x = x.reshape(-1, rows * columns, channels, side * side).transpose(1, 2)
        x = x.reshape(-1, columns, side, side).transpose(1, 2)
        return x.reshape(-1, channels, rows * side, columns * side)[:, :, :height, :width]


class Windowed(nn.Module):
    """Units that are applied to each window of the map separately."""

    def __init__(self, inside: nn.Module, side: int = SIDE) -> None:
        super().__init__()
        self.partition, self.inside, self.join = Partition(side), inside, Join()

    def forward(self, x: Tensor) -> Tensor:
        """Mix positions of each window; shape (B, C, H, W) in and out."""
        return self.join(self.inside(self.partition(x)), x.shape[2], x.shape[3])  # type: ignore[no-any-return]
