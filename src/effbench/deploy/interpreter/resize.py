"""Resampling of images. Every mode of Resize is separable, so the axes are resampled one by one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from effbench.deploy.interpreter.registry import OpCall, operator
from effbench.deploy.interpreter.shape import ints


@dataclass(frozen=True)
class Sampling:
    """The attributes of Resize that define the coordinates and the weights of samples."""

    mode: str
    coordinates: str
    nearest: str
    cubic: float
    exclude_outside: bool
    antialias: bool
    extrapolation: float


def positions(mode: str, out: int, size: int, scale: float, region: tuple[float, float]) -> Tensor:
    """Return the input coordinate, in pixels, of each output pixel along one axis (float64)."""
    x = torch.arange(out, dtype=torch.float64)
    if mode == "align_corners":
        return x * ((size - 1) / (scale * size - 1)) if out > 1 else torch.zeros(1, dtype=torch.float64)
    if mode == "asymmetric":
        return x / scale
    if mode == "tf_crop_and_resize":
        start, end = region
        if out == 1:
            return torch.full((1,), 0.5 * (start + end) * (size - 1), dtype=torch.float64)
        return start * (size - 1) + x * (end - start) * (size - 1) / (out - 1)
    if mode == "pytorch_half_pixel" and out == 1:
        return torch.full((1,), -0.5, dtype=torch.float64)
    if mode == "tf_half_pixel_for_nn":
        return (x + 0.5) / scale
    center = 0.0
    if mode == "half_pixel_symmetric":
        center = size / 2 * (1 - out / (scale * size))
    return center + (x + 0.5) / scale - 0.5


def nearest_index(coordinates: Tensor, rounding: str) -> Tensor:
    """Round coordinates to pixels."""
    if rounding == "floor":
        return coordinates.floor().long()
    if rounding == "ceil":
        return coordinates.ceil().long()
    half = coordinates - coordinates.floor() == 0.5
    up = (coordinates + 0.5).floor()
    return torch.where(half & (rounding == "round_prefer_floor"), coordinates.floor(), up).long()


def _kernel(distance: Tensor, sampling: Sampling) -> Tensor:
    d = distance.abs()
    if sampling.mode == "linear":
        return (1 - d).clamp(min=0)
    a = sampling.cubic
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return torch.where(d <= 1, near, torch.where(d < 2, far, torch.zeros_like(d)))


def axis_weights(coordinates: Tensor, size: int, scale: float, sampling: Sampling) -> Tensor:
    """Return the weight of each input pixel for each output pixel, shape (out, size), float64."""
    shrink = min(scale, 1.0) if sampling.antialias else 1.0
    reach = math.ceil((1 if sampling.mode == "linear" else 2) / shrink)
    taps = coordinates.floor().unsqueeze(1) + torch.arange(1 - reach, reach + 1, dtype=torch.float64)
    weights = _kernel((taps - coordinates.unsqueeze(1)) * shrink, sampling)
    if sampling.exclude_outside:
        weights = weights * ((taps >= 0) & (taps < size))
    if sampling.antialias or sampling.exclude_outside:
        weights = weights / weights.sum(1, keepdim=True)
    matrix = torch.zeros(len(coordinates), size, dtype=torch.float64)
    return matrix.scatter_add_(1, taps.long().clamp(0, size - 1), weights)


def resize_axis(
    x: Tensor, axis: int, out: int, scale: float, region: tuple[float, float], sampling: Sampling
) -> Tensor:
    """Resample one axis."""
    size = x.shape[axis]
    coordinates = positions(sampling.coordinates, out, size, scale, region)
    if sampling.mode == "nearest":
        y = x.index_select(axis, nearest_index(coordinates, sampling.nearest).clamp(0, size - 1))
    else:
        work = x if x.is_floating_point() else x.double()
        matrix = axis_weights(coordinates, size, scale, sampling).to(work.dtype)
        y = torch.matmul(work.movedim(axis, -1), matrix.T).movedim(-1, axis)
    if sampling.coordinates == "tf_crop_and_resize":
        shape = [1] * x.dim()
        shape[axis] = out
        outside = ((coordinates < 0) | (coordinates > size - 1)).reshape(shape)
        y = torch.where(outside, torch.tensor(sampling.extrapolation, dtype=y.dtype), y)
    return y if x.is_floating_point() else y.round().to(x.dtype)


def _scales(sizes: Sequence[int], new_sizes: Sequence[int], policy: str) -> tuple[list[float], list[int]]:
    scales = [new / old for new, old in zip(new_sizes, sizes, strict=True)]
    if policy == "stretch":
        return scales, list(new_sizes)
    scale = min(scales) if policy == "not_larger" else max(scales)
    return [scale] * len(sizes), [math.floor(scale * n + 0.5) for n in sizes]


@operator("Resize", since=11)
def resize(
    call: OpCall,
    x: Tensor,
    roi: Tensor | None = None,
    scales: Tensor | None = None,
    sizes: Tensor | None = None,
    *,
    antialias: int = 0,
    axes: Sequence[int] | None = None,
    coordinate_transformation_mode: str = "half_pixel",
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    extrapolation_value: float = 0.0,
    keep_aspect_ratio_policy: str = "stretch",
    mode: str = "nearest",
    nearest_mode: str = "round_prefer_floor",
) -> Tensor:
    """Resample to sizes, or by factors."""
    chosen = [a % x.dim() for a in axes] if axes is not None else list(range(x.dim()))
    lengths = [x.shape[a] for a in chosen]
    if sizes is not None and sizes.numel():
        factors, out = _scales(lengths, ints(sizes), keep_aspect_ratio_policy)
    else:
        assert scales is not None  # the standard requires one of the two
        factors = [float(s) for s in scales]
        out = [math.floor(n * s) for n, s in zip(lengths, factors, strict=True)]
    crop = coordinate_transformation_mode == "tf_crop_and_resize" and roi is not None
    regions = [float(r) for r in roi] if crop and roi is not None else [0.0] * len(chosen) + [1.0] * len(chosen)
    sampling = Sampling(
        mode,
        coordinate_transformation_mode,
        nearest_mode,
        cubic_coeff_a,
        bool(exclude_outside),
        bool(antialias),
        extrapolation_value,
    )
    for i, axis in enumerate(chosen):
        if factors[i] != 1 or crop:
            x = resize_axis(x, axis, out[i], factors[i], (regions[i], regions[i + len(chosen)]), sampling)
    return x


@operator("Upsample", "Resize")
def upsample(
    call: OpCall, x: Tensor, factors: Tensor | None = None, *, mode: str = "nearest", scales: Sequence[float] = ()
) -> Tensor:
    """Resample by factors, from the top left corner (Upsample, and Resize before opset 11)."""
    factors = factors if factors is not None else torch.tensor(scales)
    result: Tensor = resize(
        call, x, None, factors, coordinate_transformation_mode="asymmetric", mode=mode, nearest_mode="floor"
    )
    return result


@operator("GridSample")
def grid_sample(
    call: OpCall,
    x: Tensor,
    grid: Tensor,
    *,
    align_corners: int = 0,
    mode: str = "linear",
    padding_mode: str = "zeros",
) -> Tensor:
    """Sample at the coordinates of a grid."""
    kind = {"linear": "bilinear", "cubic": "bicubic"}.get(mode, mode)
    return F.grid_sample(x, grid.to(x.dtype), kind, padding_mode, bool(align_corners))


@operator("AffineGrid")
def affine_grid(call: OpCall, theta: Tensor, size: Tensor, *, align_corners: int = 0) -> Tensor:
    """Return the sampling grid of affine maps."""
    return F.affine_grid(theta, ints(size), bool(align_corners))
