"""Token mixers by name; listing them needs no torch.

Each is a separate module on maps (B, C, H, W), in and out, so that it can be measured and replaced alone.
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
    """A mixer: its import string, its cost in the number of positions N, and its source.

    A ``bound`` mixer has parameters for one map size and is built for it; the others take any.
    """

    name: str
    factory: str
    order: str
    source: str
    bound: bool = False
    options: dict[str, Any] = field(default_factory=dict)


_PACKAGE = "effbench.models.mixers"
_AFT = "arXiv:2105.14103"
_LAMBDA = "arXiv:2102.08602"

MIXERS = (
    Mixer("rgma", f"{_PACKAGE}.hybrid:rgma", "O(N)", "reconstructed from the abstract of arXiv:2602.05262"),
    Mixer("shma", f"{_PACKAGE}.hybrid:shma", "O(N^2)", "arXiv:2501.15369 and released code"),
    Mixer("shma-window", f"{_PACKAGE}.hybrid:windowed_shma", "O(N)", "released code of arXiv:2501.15369, *_faster"),
    Mixer("softmax", f"{_PACKAGE}.softmax:MultiHeadAttention", "O(N^2)", "arXiv:1706.03762"),
    Mixer("relu-linear", f"{_PACKAGE}.relu_linear:ReLULinearAttention", "O(N)", "arXiv:2205.14756 (EfficientViT)"),
    Mixer("aft-full", f"{_PACKAGE}.aft:AFTFull", "O(N^2)", _AFT, bound=True),
    Mixer("aft-local", f"{_PACKAGE}.aft:AFTLocal", "O(N^2)", _AFT, bound=True),
    Mixer("aft-simple", f"{_PACKAGE}.aft:AFTSimple", "O(N)", _AFT),
    Mixer("aft-conv", f"{_PACKAGE}.aft:AFTConv", "O(N)", _AFT),
    Mixer("lambda", f"{_PACKAGE}.lambdas:LambdaLayer", "O(N^2)", _LAMBDA, bound=True),
    Mixer("lambda-conv", f"{_PACKAGE}.lambdas:LambdaConv", "O(N)", _LAMBDA),
    Mixer("lambda-conv-7", f"{_PACKAGE}.lambdas:LambdaConv", "O(N)", _LAMBDA, options={"kernel": 7}),
    Mixer("local", f"{_PACKAGE}.local:LocalAttention", "O(N)", "arXiv:1906.05909"),
)


def mixers() -> dict[str, Mixer]:
    """Return every mixer by name."""
    return {mixer.name: mixer for mixer in MIXERS}


def get(name: str) -> Mixer:
    """Return a mixer by name.

    Raises:
        UsageError: The name is unknown; the message lists near misses.
    """
    registered = mixers()
    if name not in registered:
        raise unknown_name(name, registered, "mixer")
    return registered[name]


def build(name: str, channels: int, resolution: tuple[int, int], **options: Any) -> nn.Module:
    """Build a mixer for maps of a width and a size.

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
