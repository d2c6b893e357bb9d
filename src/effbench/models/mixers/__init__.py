"""Mixers by name: how positions of a map exchange what they know; listing them needs no torch.

Each is a module of its own on maps (B, C, H, W), in and out, so that it can be measured, broken and replaced alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from effbench.errors import unknown_name
from effbench.registry import import_object

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Mixer:
    """A mixer: its import string, how its cost grows with the number of positions N, and where it comes from.

    ``bound`` mixers hold parameters of one map size and are built for it; the others take any.
    """

    name: str
    factory: str
    order: str
    source: str
    bound: bool = False
    options: dict[str, Any] = field(default_factory=dict)


_HERE = "effbench.models.mixers"
_AFT = "arXiv:2105.14103"
_LAMBDA = "arXiv:2102.08602"

MIXERS = (
    Mixer("rgma", f"{_HERE}.hybrid:rgma", "O(N)", "reconstructed from the abstract of arXiv:2602.05262"),
    Mixer("shma", f"{_HERE}.hybrid:shma", "O(N^2)", "arXiv:2501.15369 and released code"),
    Mixer("shma-window", f"{_HERE}.hybrid:windowed_shma", "O(N)", "released code of arXiv:2501.15369, *_faster"),
    Mixer("softmax", f"{_HERE}.softmax:MultiHeadAttention", "O(N^2)", "arXiv:1706.03762"),
    Mixer("relu-linear", f"{_HERE}.relu_linear:ReLULinearAttention", "O(N)", "arXiv:2205.14756 (EfficientViT)"),
    Mixer("aft-full", f"{_HERE}.aft:AFTFull", "O(N^2)", _AFT, bound=True),
    Mixer("aft-local", f"{_HERE}.aft:AFTLocal", "O(N^2)", _AFT, bound=True),
    Mixer("aft-simple", f"{_HERE}.aft:AFTSimple", "O(N)", _AFT),
    Mixer("aft-conv", f"{_HERE}.aft:AFTConv", "O(N)", _AFT),
    Mixer("lambda", f"{_HERE}.lambdas:LambdaLayer", "O(N^2)", _LAMBDA, bound=True),
    Mixer("lambda-conv", f"{_HERE}.lambdas:LambdaConv", "O(N)", _LAMBDA),
    Mixer("lambda-conv-7", f"{_HERE}.lambdas:LambdaConv", "O(N)", _LAMBDA, options={"kernel": 7}),
    Mixer("local", f"{_HERE}.local:LocalAttention", "O(N)", "arXiv:1906.05909"),
)


def mixers() -> dict[str, Mixer]:
    """Return every mixer by name."""
    return {mixer.name: mixer for mixer in MIXERS}


def get(name: str) -> Mixer:
    """Return a mixer by name.

    Raises:
        UsageError: The name is unknown; the message lists near misses.
    """
    found = mixers()
    if name not in found:
        raise unknown_name(name, found, "mixer")
    return found[name]


def build(name: str, channels: int, resolution: tuple[int, int], **options: Any) -> nn.Module:
    """Build a mixer for maps of some width and size.

    Args:
        name: See `mixers`.
        channels: Channels of the map, in and out.
        resolution: Height and width of the map in positions; only ``bound`` mixers depend on it.
        options: Keywords of that mixer's constructor.
    """
    mixer = get(name)
    bound = {"resolution": resolution} if mixer.bound else {}
    module: nn.Module = import_object(mixer.factory)(channels, **{**mixer.options, **bound, **options})
    return module
