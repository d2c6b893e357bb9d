"""Features of any network: one pass that gives its maps, a pooled vector and its logits, whatever it returns itself."""

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
    """What one pass gives.

    ``maps`` are shaped (B, C, h, w), fine to coarse; ``pooled`` is (B, C), a class token or the mean of the last map;
    ``logits`` is (B, K) or None.
    """

    maps: tuple[Tensor, ...]
    pooled: Tensor
    logits: Tensor | None


def observe(model: nn.Module, images: Tensor) -> Features:
    """Run a model once and return its features and logits.

    A model with ``forward_features`` (every one of effbench's, and timm's) says itself what its features are; of any
    other the last activation with positions is taken.

    Raises:
        UsageError: The model has no activation that could be a feature.
    """
    with _recording(model) as seen:
        output = model(images)
    if not seen:
        raise UsageError(
            f"No features were seen in a pass of {type(model).__name__}.",
            hint="Give it a method forward_features that its forward calls, and that returns maps (B, C, h, w).",
        )
    maps, pooled = as_maps(seen[-1], model)
    logits = output[0] if isinstance(output, (tuple, list)) else output
    return Features(maps, pooled, logits if torch.is_tensor(logits) and logits.dim() == 2 else None)


def as_maps(found: Any, model: nn.Module | None = None) -> tuple[tuple[Tensor, ...], Tensor]:
    """Return maps (B, C, h, w) and a pooled vector (B, C) from features in any of the usual forms.

    These are a tuple of maps, one map (channels first or, where the model says so, last), tokens (B, N, C) with or
    without class tokens in front, or the dictionary that DINOv2's models return.

    Raises:
        UsageError: They have another form.
    """
    if isinstance(found, dict) and {"x_norm_clstoken", "x_norm_patchtokens"} <= found.keys():
        return (_grid(found["x_norm_patchtokens"]),), found["x_norm_clstoken"]
    if isinstance(found, (tuple, list)) and found and all(torch.is_tensor(x) and x.dim() == 4 for x in found):
        return tuple(found), found[-1].mean(dim=(2, 3))
    if torch.is_tensor(found) and found.dim() == 4:
        channels = getattr(model, "num_features", None)
        if channels == found.shape[-1] != found.shape[1]:
            found = found.permute(0, 3, 1, 2)
        return (found,), found.mean(dim=(2, 3))
    if torch.is_tensor(found) and found.dim() == 3:
        count = found.shape[1]
        squares = [k for k in (0, 1, 2, 5) if math.isqrt(count - k) ** 2 == count - k > 0]
        extra = getattr(model, "num_prefix_tokens", squares[0] if squares else 0)
        patches = found[:, extra:]
        return (_grid(patches),), found[:, 0] if extra else patches.mean(dim=1)
    shape = tuple(found.shape) if torch.is_tensor(found) else type(found).__name__
    raise UsageError(
        f"Features of the form {shape} are none that effbench knows.",
        hint="forward_features returns maps (B, C, h, w), tokens (B, N, C), or a tuple of maps.",
    )


def _grid(tokens: Tensor) -> Tensor:
    side = math.isqrt(tokens.shape[1])
    if side * side != tokens.shape[1]:
        raise UsageError(f"{tokens.shape[1]} tokens are no square of positions; give such a model square images.")
    return tokens.transpose(1, 2).reshape(len(tokens), -1, side, side)


def to_grid(features: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return maps at another number of positions: averaged where there are more, interpolated where there are fewer."""
    if tuple(features.shape[-2:]) == tuple(grid):
        return features
    if features.shape[-2] >= grid[0] and features.shape[-1] >= grid[1]:
        return F.adaptive_avg_pool2d(features, grid)
    return F.interpolate(features, size=grid, mode="bilinear", align_corners=False)


@contextmanager
def _recording(model: nn.Module) -> Iterator[list[Any]]:
    """Collect what ``forward_features`` returns during a pass, or else each activation that has positions."""
    seen: list[Any] = []
    own = getattr(model, "forward_features", None)
    if callable(own):

        def record(*arguments: Any, **named: Any) -> Any:
            found = own(*arguments, **named)
            seen.append(found)
            return found

        # On the instance and only for this pass: a copy of the model must not call into this one.
        object.__setattr__(model, "forward_features", record)
        try:
            yield seen
        finally:
            object.__delattr__(model, "forward_features")
        return

    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        if torch.is_tensor(output) and output.dim() == 4 and output.shape[-1] * output.shape[-2] > 1:
            seen[:] = [output]

    handles = [module.register_forward_hook(hook) for module in model.modules() if module is not model]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def resized(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Return images at another size, smoothed where it is smaller."""
    if tuple(pixels.shape[-2:]) == tuple(size):
        return pixels
    return F.interpolate(pixels, size=size, mode="bilinear", align_corners=False, antialias=True)
