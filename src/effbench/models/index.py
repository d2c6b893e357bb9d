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
from effbench.models.build import fit_resolution, load_factory
from effbench.models.layers import fuse
from effbench.registry import constants_in
from effbench.schema import Backbone


def counts(backbone: Backbone) -> dict[str, int]:
    """Count parameters, MACs and the receptive field of a backbone as deployed: folded, batch 1.

    MACs are those of convolutions and matrix products. The receptive field is that of the convolutions alone, at the
    last feature map; a global mixer sees the entire image.
    """
    with torch.device("meta"):
        model = fuse(load_factory(backbone.factory)())
    params = sum(parameter.numel() for parameter in model.parameters())
    macs_by_px = {}
    for px in (224, 512):
        fit_resolution(model, (px, px))
        macs_by_px[px] = macs(model, px, backbone.in_channels)
    return {
        "params": params,
        **{f"macs_{px}": count for px, count in macs_by_px.items()},
        "receptive_field_px": receptive_field(model),
    }


def stages(backbone: Backbone) -> tuple[tuple[int, int], ...]:
    """Return channels and stride of each map that ``forward_features`` returns."""
    px = 224
    with torch.device("meta"), torch.no_grad():
        model = load_factory(backbone.factory)()
        fit_resolution(model, (px, px))
        maps = model.forward_features(torch.empty(1, backbone.in_channels, px, px))
    return tuple((features.shape[1], px // features.shape[2]) for features in maps)


def macs(model: nn.Module, px: int, channels: int = 3) -> int:
    """Return the MACs of one square image; the model may be on the meta device."""
    device = next(model.parameters()).device
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.empty(1, channels, px, px, device=device))
    return int(counter.get_total_flops()) // 2


def receptive_field(model: nn.Module) -> int:
    """Return the receptive field of the last map in pixels, through convolutions and pools in the order of execution.

    A module named ``shortcut`` is parallel to a longer path and is not counted.
    """
    field, jump = 1, 1
    for name, module in model.named_modules():
        if isinstance(module, (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)) and "shortcut" not in name:
            kernel, stride, dilation = (_side(getattr(module, key, 1)) for key in ("kernel_size", "stride", "dilation"))
            field += (kernel - 1) * dilation * jump
            jump *= stride
    return field


def _side(value: int | tuple[int, ...]) -> int:
    return value if isinstance(value, int) else value[0]


def entries() -> Iterator[Backbone]:
    """Yield every backbone of this package with its counts."""
    for family in constants_in("effbench.models", "BACKBONES"):
        yield from (replace(item, counts=counts(item), stages=stages(item)) for item in family)


def text() -> str:
    """Return the content of the index file."""
    return json.dumps([to_json(backbone) for backbone in entries()], indent=1) + "\n"


if __name__ == "__main__":
    INDEX.write_text(text())
