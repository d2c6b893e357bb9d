"""Write ``index.json``, the list of backbones with their counts, from the code: ``python -m effbench.models.index``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from effbench.codec import to_json
from effbench.models import INDEX
from effbench.models.build import load_factory
from effbench.models.layers import fuse
from effbench.registry import in_package
from effbench.schema import Backbone


def counts(backbone: Backbone) -> dict[str, int]:
    """Count a backbone as it is deployed: folded, batch 1.

    MACs are those of convolutions and matrix products. The receptive field is that of the convolutions alone, at the
    last feature map; a global mixer sees the whole picture besides.
    """
    with torch.device("meta"):
        model = fuse(load_factory(backbone.factory)())
    sides = {side: macs(model, side, backbone.in_channels) for side in (224, 512)}
    return {
        "params": sum(parameter.numel() for parameter in model.parameters()),
        **{f"macs_{side}": count for side, count in sides.items()},
        "receptive_field_px": receptive_field(model),
    }


def macs(model: nn.Module, side: int, channels: int = 3) -> int:
    """Return the multiply-accumulates of one square picture; a model on the meta device is enough."""
    device = next(model.parameters()).device
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.empty(1, channels, side, side, device=device))
    return int(counter.get_total_flops()) // 2


def receptive_field(model: nn.Module) -> int:
    """Return the side in pixels that one cell of the last map sees through convolutions, in the order they run."""
    field, jump = 1, 1
    for conv in (module for module in model.modules() if isinstance(module, nn.Conv2d)):
        field += (conv.kernel_size[0] - 1) * conv.dilation[0] * jump
        jump *= conv.stride[0]
    return field


def entries() -> Iterator[Backbone]:
    """Yield every backbone of this package with its counts."""
    for family in in_package("effbench.models", "BACKBONES"):
        yield from (replace(backbone, counts=counts(backbone)) for backbone in family)


def text() -> str:
    """Return what the index file holds."""
    return json.dumps([to_json(backbone) for backbone in entries()], indent=1) + "\n"


if __name__ == "__main__":
    INDEX.write_text(text())
