"""Windows of a map as pictures of a batch, and back; tensors of rank 4 only."""

from __future__ import annotations

from torch import Tensor, nn

from effbench.errors import UsageError

SIDE = 16
"""Side of a window in positions, as iFormer's ``*_faster`` networks have it."""


class Partition(nn.Module):
    """Cut maps into windows that stand beside each other in the batch."""

    def __init__(self, side: int = SIDE) -> None:
        super().__init__()
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        """Return shape (B n, C, side, side) for maps of shape (B, C, H, W), n windows each.

        Raises:
            UsageError: The windows do not fit the map.
        """
        (_, channels, height, width), side = x.shape, self.side
        check_windows(height, width, side)
        rows, columns = height // side, width // side
        # Two exchanges of neighbouring axes instead of one permutation of six axes, which many NPUs refuse.
        x = x.reshape(-1, side, columns, side).transpose(1, 2)
        x = x.reshape(-1, channels, rows * columns, side * side).transpose(1, 2)
        return x.reshape(-1, channels, side, side)


class Join(nn.Module):
    """Put the windows of maps of a known size together again: the inverse of `Partition`."""

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        """Return maps of shape (B, C, height, width)."""
        _, channels, side, _ = x.shape
        rows, columns = height // side, width // side
        x = x.reshape(-1, rows * columns, channels, side * side).transpose(1, 2)
        x = x.reshape(-1, columns, side, side).transpose(1, 2)
        return x.reshape(-1, channels, height, width)


def check_windows(height: int, width: int, side: int) -> None:
    """Refuse a map that windows do not tile.

    Raises:
        UsageError: With the sizes that fit.
    """
    if height % side or width % side:
        raise UsageError(
            f"Windows of {side} x {side} do not tile a map of {height} x {width} positions.",
            hint=f"Both sides of the map must be multiples of {side}.",
        )
