"""Project a student's features to those of each teacher, with small networks that are discarded after training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from effbench.training.features import Features, observe, to_grid
from effbench.training.losses import MatchedFeatures

EXPANSION = 4
"""Of the projector of the last stage; those of other stages are as wide as the stage. Source: UNIC's released code."""


@dataclass(frozen=True)
class Widths:
    """Channels of a teacher's pooled and spatial features; None for features that it lacks."""

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
    """The projectors of one teacher and kind of feature: one per stage, their outputs summed.

    Source: UNIC's ladder of projectors over the blocks of a ViT. Here each stage of a convolutional network is a block;
    its map is averaged to the positions of the last stage.
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
    """A backbone and the projectors to its teachers; one pass computes all inputs of the losses."""

    def __init__(self, backbone: nn.Module, widths: tuple[int, ...], teachers: Mapping[str, Widths]) -> None:
        """Store the backbone and build projectors from the channels of its stages to those of each teacher."""
        super().__init__()
        self.backbone = backbone
        # Lists, not dictionaries: the name of a teacher may hold a dot, that of a module must not.
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
        projected = {}
        for name, vector, positions in zip(self.names, self.pooled, self.spatial, strict=True):
            pooled_features = vector(pooled).flatten(1) if isinstance(vector, Ladder) else None
            spatial_features = positions(maps) if isinstance(positions, Ladder) else None
            projected[name] = MatchedFeatures(pooled_features, spatial_features)
        return projected, features.logits


def _ladder(widths: tuple[int, ...], outputs: int | None) -> nn.Module:
    return nn.Identity() if outputs is None else Ladder(widths, outputs)


def grid_of(features: Features) -> tuple[int, int]:
    """Return the grid of the last map, to which teachers' features are resized."""
    return (features.maps[-1].shape[-2], features.maps[-1].shape[-1])
