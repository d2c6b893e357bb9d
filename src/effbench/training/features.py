"""Extract feature maps, a pooled vector and logits of any network in one forward pass."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effbench.errors import UsageError


@dataclass(frozen=True)
class Features:
    """The features of one forward pass.

    ``maps`` have shape (B, C, h, w), fine to coarse; ``pooled`` has (B, C), a class token or the mean of the last map;
    ``logits`` has (B, K) or is None.
    """

    maps: tuple[Tensor, ...]
    pooled: Tensor
    logits: Tensor | None


def observe(model: nn.Module, images: Tensor) -> Features:
    """Run a model once and return its features and logits.

    They are what ``forward_features`` returns, which every model of effbench and timm has; for another model they are
    the last activation with positions.

    Raises:
        UsageError: The model has no activation with positions.
    """
    with _recording(model) as recorded:
        output = model(images)
    if not recorded:
        raise UsageError(
            f"A forward pass of {type(model).__name__} has no feature maps.",
            hint="Add a method forward_features that forward calls, and that returns maps (B, C, h, w).",
        )
    maps, pooled = as_maps(recorded[-1], model)
    logits = output[0] if isinstance(output, (tuple, list)) else output
    return Features(maps, pooled, logits if torch.is_tensor(logits) and logits.dim() == 2 else None)


def as_maps(features: Any, model: nn.Module | None = None) -> tuple[tuple[Tensor, ...], Tensor]:
    """Return maps (B, C, h, w) and a pooled vector (B, C) from features in one of the usual forms.

    The forms are a tuple of maps, one map (channels first, or last if that matches ``num_features``), tokens (B, N, C)
    with or without leading class tokens, and the dictionary of DINOv2's models.

    Raises:
        UsageError: They have another form.
    """
    if isinstance(features, dict) and {"x_norm_clstoken", "x_norm_patchtokens"} <= features.keys():
        return (_grid(features["x_norm_patchtokens"]),), features["x_norm_clstoken"]
    if isinstance(features, (tuple, list)) and features and all(torch.is_tensor(x) and x.dim() == 4 for x in features):
        return tuple(features), features[-1].mean(dim=(2, 3))
    if torch.is_tensor(features) and features.dim() == 4:
        channels = getattr(model, "num_features", None)
        if channels == features.shape[-1] != features.shape[1]:
            features = features.permute(0, 3, 1, 2)
        return (features,), features.mean(dim=(2, 3))
    if torch.is_tensor(features) and features.dim() == 3:
        count = features.shape[1]
        squares = [k for k in (0, 1, 2, 5) if math.isqrt(count - k) ** 2 == count - k > 0]
        extra = getattr(model, "num_prefix_tokens", squares[0] if squares else 0)
        patches = features[:, extra:]
        return (_grid(patches),), features[:, 0] if extra else patches.mean(dim=1)
    shape = tuple(features.shape) if torch.is_tensor(features) else type(features).__name__
    raise UsageError(
        f"Features of the form {shape} are not supported.",
        hint="forward_features must return maps (B, C, h, w), tokens (B, N, C), or a tuple of maps.",
    )


def _grid(tokens: Tensor) -> Tensor:
    side = math.isqrt(tokens.shape[1])
    if side * side != tokens.shape[1]:
        raise UsageError(f"{tokens.shape[1]} tokens do not form a square grid; this model needs square images.")
    return tokens.transpose(1, 2).reshape(len(tokens), -1, side, side)


def to_grid(features: Tensor, grid: tuple[int, int]) -> Tensor:
    """Resize maps to another grid of positions: average to a coarser one, interpolate to a finer one."""
    if tuple(features.shape[-2:]) == tuple(grid):
        return features
    if features.shape[-2] >= grid[0] and features.shape[-1] >= grid[1]:
        return F.adaptive_avg_pool2d(features, grid)
    return F.interpolate(features, size=grid, mode="bilinear", align_corners=False)


@contextmanager
def _recording(model: nn.Module) -> Iterator[list[Any]]:
    """Record the result of ``forward_features`` during a pass, or else the last activation that has positions."""
    recorded: list[Any] = []
    original = getattr(model, "forward_features", None)
    if callable(original):

        def record(*arguments: Any, **keywords: Any) -> Any:
            features = original(*arguments, **keywords)
            recorded.append(features)
            return features

        # On the instance and for this pass only: a copy of the model must not call into this one.
        object.__setattr__(model, "forward_features", record)
        try:
            yield recorded
        finally:
            object.__delattr__(model, "forward_features")
        return

    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        if torch.is_tensor(output) and output.dim() == 4 and output.shape[-1] * output.shape[-2] > 1:
            recorded[:] = [output]

    handles = [module.register_forward_hook(hook) for module in model.modules() if module is not model]
    try:
        yield recorded
    finally:
        for handle in handles:
            handle.remove()


def resized(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize images, with antialiasing if they become smaller."""
    if tuple(pixels.shape[-2:]) == tuple(size):
        return pixels
    return F.interpolate(pixels, size=size, mode="bilinear", align_corners=False, antialias=True)
