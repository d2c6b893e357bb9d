"""The mixers of ReGLA and iFormer at the widths of their third stages, with one signature."""

from __future__ import annotations

from torch import Tensor, nn

from effbench.models.iformer import SHMA
from effbench.models.mixers.windows import SIDE, Join, Partition
from effbench.models.regla import DEFAULT, RGMA


def rgma(channels: int, width: int | None = None) -> RGMA:
    """Build RGMA with queries and keys of half the channels, as in stage 3."""
    return RGMA(channels, width or channels // 2, DEFAULT)


def shma(channels: int, width: int | None = None) -> SHMA:
    """Build SHMA with queries and keys of half the channels, as in stage 3."""
    return SHMA(channels, width or channels // 2)


class Windowed(nn.Module):
    """A mixer that works in each window of the map alone."""

    def __init__(self, mixer: nn.Module, side: int = SIDE) -> None:
        super().__init__()
        self.partition, self.mixer, self.join = Partition(side), mixer, Join()

    def forward(self, x: Tensor) -> Tensor:
        """Mix positions of each window; shape (B, C, H, W) in and out, sides multiples of the window's."""
        return self.join(self.mixer(self.partition(x)), x.shape[2], x.shape[3])  # type: ignore[no-any-return]


def windowed_shma(channels: int, width: int | None = None, side: int = SIDE) -> Windowed:
    """Build SHMA in windows of 16 x 16 positions."""
    return Windowed(shma(channels, width), side)
