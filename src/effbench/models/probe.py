"""A mixer or a block alone, as a model that is exported and measured like any other.

``effbench.models.probe:NAME_at_SIDE`` is a factory for any name of `effbench.models.parts` (with ``_`` for ``-``), on
maps of SIDE x SIDE positions. A 1x1 convolution in front gives an image of that size its channels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from effbench.errors import unknown_name
from effbench.models import mixers
from effbench.models.layers import ConvUnit

# All by name, so that an artifact's key knows the sources it is made from.
from effbench.models.mixers import aft, hybrid, lambdas, local, relu_linear, softmax, windows  # noqa: F401
from effbench.models.parts import parts
from effbench.models.regla import elrf

EXPANSION = 4

UNITS: dict[str, Callable[[int, int], list[nn.Module]]] = {
    "conv7": lambda channels, hidden: [ConvUnit(channels, 7, hidden)],
    "elrf": elrf,
}
"""What the blocks of `effbench.models.parts` are made of."""


class Probe(nn.Module):
    """An image's channels widened by a 1x1 convolution, the body, and the body's map cut to a few numbers.

    The body's output leaves as means over rows, so that copying a large map out of a runtime is not what is timed.
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
    what, at, side_text = name.rpartition("_at_")
    if not at or not side_text.isdecimal():
        raise AttributeError(name)
    side, part = int(side_text), parts().get(what.replace("_", "-"))
    if part is None:
        raise unknown_name(what, parts(), "mixer or block")
    # The statistics of weights need few positions; only what is bound to a map size needs its own.
    few = min(side, windows.SIDE)
    if what in UNITS:
        units = UNITS[what]
        return lambda: Probe(part.channels, nn.Sequential(*units(part.channels, EXPANSION * part.channels)), few)
    few = side if mixers.get(part.name).bound else few
    return lambda: Probe(part.channels, mixers.build(part.name, part.channels, (side, side)), few)
