"""The mixers of ReGLA and iFormer at the widths of their third stages, with one signature."""

from __future__ import annotations

from effbench.models.iformer import SHMA
from effbench.models.mixers.windows import SIDE, Windowed
from effbench.models.regla import DEFAULT, RGMA


def rgma(channels: int, width: int | None = None) -> RGMA:
    """Build RGMA with queries and keys of half the channels, as in stage 3."""
    return RGMA(channels, width or channels // 2, DEFAULT)


def shma(channels: int, width: int | None = None) -> SHMA:
    """Build SHMA with queries and keys of half the channels, as in stage 3."""
    return SHMA(channels, width or channels // 2)


def windowed_shma(channels: int, width: int | None = None, side: int = SIDE) -> Windowed:
    """Build SHMA in windows of 16 x 16 positions."""
    return Windowed(shma(channels, width), side)
