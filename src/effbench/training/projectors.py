"""From a student's features to each teacher's: small networks that learn beside it and are thrown away afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from effbench.training.features import Features, observe, to_grid
from effbench.training.losses import MatchedFeatures

EXPANSION = 4
"""Of the last stage's projector; the other stages' are as wide as the stage. Source: UNIC's released code."""


@dataclass(frozen=True)
class Widths:
    """Channels of a teacher's pooled and spatial features; None where it has no such features."""

    pooled: int | None
    spatial: int | None


class Projector(nn.Module):
    """A two-layer perceptron at every position, written as 1x1 convolutions."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(inputs, hidden, 1), nn.GELU(), nn.Conv2d(hidden, outputs, 1))
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Project (B, inputs, h, w) to (B, outputs, h, w)."""
        return self.layers(x)  # type: ignore[no-any-return]


class Ladder(nn.Module):
    """The projectors of one teacher and kind of feature: one a stage, their outputs summed.

    Source: UNIC's ladder of projectors over the blocks of a ViT; a stage of a convolutional network takes the place of
    a block, brought to the positions of the last stage by averaging.
    """

    def __init__(self, widths: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        last = len(widths) - 1
        self.stages = nn.ModuleList(
            Projector(width, EXPANSION * width if index == last else width, outputs)
            for index, width in enumerate(widths)
        )

    def forward(self, maps: tuple[Tensor, ...]) -> Tensor:
        """Sum the projections of the maps, all at one size."""
        return torch.stack([stage(x) for stage, x in zip(self.stages, maps, strict=True)]).sum(dim=0)


class Student(nn.Module):
    """A backbone and the projectors to its teachers; one pass gives all that the losses need."""

    def __init__(self, backbone: nn.Module, widths: tuple[int, ...], teachers: Mapping[str, Widths]) -> None:
        """Take the backbone, the channels of its stages, and the channels of each teacher's features."""
        super().__init__()
        self.backbone = backbone
        # A module's name must not hold a dot, and a teacher's may: projectors are kept by position.
        self.names = tuple(teachers)
        self.pooled = nn.ModuleList(_ladder(widths, item.pooled) for item in teachers.values())
        self.spatial = nn.ModuleList(_ladder(widths, item.spatial) for item in teachers.values())

    def forward(self, images: Tensor) -> tuple[dict[str, MatchedFeatures], Tensor | None]:
        """Return the projected features for every teacher, and the logits."""
        features = observe(self.backbone, images)
        if not self.names:
            return {}, features.logits
        maps = tuple(to_grid(x, grid_of(features)) for x in features.maps)
        pooled = tuple(x.mean(dim=(2, 3), keepdim=True) for x in features.maps[:-1])
        pooled = (*pooled, features.pooled[:, :, None, None])
        found = {}
        for name, vector, positions in zip(self.names, self.pooled, self.spatial, strict=True):
            one = vector(pooled).flatten(1) if isinstance(vector, Ladder) else None
            many = positions(maps) if isinstance(positions, Ladder) else None
            found[name] = MatchedFeatures(one, many)
        return found, features.logits


def _ladder(widths: tuple[int, ...], outputs: int | None) -> nn.Module:
    return nn.Identity() if outputs is None else Ladder(widths, outputs)


def grid_of(features: Features) -> tuple[int, int]:
    """Return the positions of the last map, to which teachers' features are brought."""
    return (features.maps[-1].shape[-2], features.maps[-1].shape[-1])
