"""ReGLA's blocks in a small network for images of 32 x 32 pixels; no paper has it.

The blocks are those of `effbench.models.regla` (reconstructed from an abstract). The stem halves the resolution once
instead of twice, so that the four maps have strides 2, 4, 8 and 16 and attention has enough positions to mix. For ten
classes::

    effbench distill small_regla:small_regla --data FOLDER --res 32
"""

from __future__ import annotations

from itertools import pairwise

from torch import nn

from effbench import declare
from effbench.models.layers import Classifier, ConvNorm, FeedForward, Network, Residual, position_encoding
from effbench.models.regla import DEFAULT, RGMA, elrf
from effbench.schema import Preprocessing

WIDTHS = (16, 32, 48, 64)


def attention(channels: int, width: int) -> list[nn.Module]:
    """Return one block of attention: position encoding, RGMA, feed-forward."""
    mixer = Residual(RGMA(channels, width, DEFAULT))
    return [position_encoding(channels), mixer, FeedForward(channels, 2 * channels)]


class SmallReGLA(Network):
    """A stride-2 stem, one ELRF pair in the first three stages, attention in the last two."""

    def __init__(self, widths: tuple[int, ...] = WIDTHS, classes: int = 10) -> None:
        nn.Module.__init__(self)
        stem = nn.Sequential(ConvNorm(3, widths[0], 5, stride=2), nn.GELU())
        heads = [stem, *(nn.Sequential(ConvNorm(a, b, 3, stride=2)) for a, b in pairwise(widths))]
        blocks = [elrf(width, 3 * width) for width in widths[:3]] + [[]]
        blocks[2] += attention(widths[2], widths[2] // 2)
        blocks[3] += attention(widths[3], widths[3] // 4)
        self.stages = nn.ModuleList(nn.Sequential(*head, *units) for head, units in zip(heads, blocks, strict=True))
        self.classifier = Classifier(widths[-1], classes)


@declare(preprocessing=Preprocessing(mean=(0.13,) * 3, std=(0.31,) * 3, crop_pct=1.0))
def small_regla() -> nn.Module:
    """Build the network for ten classes."""
    return SmallReGLA()


@declare(preprocessing=Preprocessing(mean=(0.13,) * 3, std=(0.31,) * 3, crop_pct=1.0))
def wider_regla() -> nn.Module:
    """Build a network half as wide again, as a teacher."""
    return SmallReGLA(tuple(width * 3 // 2 for width in WIDTHS))
