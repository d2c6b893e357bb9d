"""Wrap a single mixer or block as a model that is exported and measured like any other.

``effbench.models.probe:NAME_at_SIDE`` is a factory for any name of `effbench.models.parts` (with ``_`` for ``-``), on
maps of SIDE x SIDE positions. A 1x1 convolution expands an image of that size to its channels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from effbench.errors import unknown_name
from effbench.models import mixers
from effbench.models.layers import ConvUnit

# All explicitly, so that their sources become part of an artifact's key.
from effbench.models.mixers import aft, hybrid, lambdas, local, relu_linear, softmax, windows  # noqa: F401
from effbench.models.parts import parts
from effbench.models.regla import elrf

EXPANSION = 4

UNITS: dict[str, Callable[[int, int], list[nn.Module]]] = {
    "conv7": lambda channels, hidden: [ConvUnit(channels, 7, hidden)],
    "elrf": elrf,
}
"""The modules of each block of `effbench.models.parts`."""


class Probe(nn.Module):
    """A 1x1 convolution that expands the channels, the body, and an average over each row of its output.

    The average makes the output small, so that the latency does not include copying a large map to the host.
    """

    def __init__(self, channels: int, body: nn.Module, side: int) -> None:
        super().__init__()
        self.widen = nn.Conv2d(3, channels, 1)
        self.body = body
        self.untrained_side = side

    def forward(self, x: Tensor) -> Tensor:
        """Return shape (B, channels, H, 1) for images of shape (B, 3, H, W)."""
        y: Tensor = self.body(self.widen(x))
        return F.avg_pool2d(y, (1, y.shape[3]))


def __getattr__(name: str) -> Callable[[], nn.Module]:
    part_name, at, side_text = name.rpartition("_at_")
    if not at or not side_text.isdecimal():
        raise AttributeError(name)
    side, part = int(side_text), parts().get(part_name.replace("_", "-"))
    if part is None:
        raise unknown_name(part_name, parts(), "mixer or block")
    # The statistics of weights need few positions, unless the mixer is bound to one map size.
    few = min(side, windows.SIDE)
    if part_name in UNITS:
        units = UNITS[part_name]
        return lambda: Probe(part.channels, nn.Sequential(*units(part.channels, EXPANSION * part.channels)), few)
    few = side if mixers.get(part.name).bound else few
    return lambda: Probe(part.channels, mixers.build(part.name, part.channels, (side, side)), few)
