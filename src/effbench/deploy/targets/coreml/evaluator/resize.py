"""MIL operations that sample between pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from effbench.deploy.targets.coreml.evaluator.registry import OperationCall, operation
from effbench.deploy.targets.coreml.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


def grid(mode: str, size: int, out: int) -> Tensor:
    """Return the position of each output sample along an axis, in input pixels (float64).

    Source: the formulas in the documentation of MIL's ``resize_bilinear``.
    """
    steps = torch.arange(out, dtype=torch.float64)
    if mode in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS"):
        points = steps * (size - 1) / max(out - 1, 1)
        if out == 1 and mode == "ALIGN_CORNERS":
            points = torch.full_like(steps, (size - 1) / 2)
    elif mode == "DEFAULT":
        points = steps * (size / out)
    elif mode == "OFFSET_CORNERS":
        delta = max(1, size - 1) / out
        points = 0.5 * delta + steps * delta
    elif mode == "UNALIGN_CORNERS":
        points = (steps + 0.5) * (size / out) - 0.5
    else:
        raise ValueError(mode)
    return points.clamp(0, size - 1)


def _interpolate(x: Tensor, axis: int, points: Tensor) -> Tensor:
    low = points.floor().long()
    high = (low + 1).clamp(max=x.shape[axis] - 1)
    shape = [-1 if i == axis % x.ndim else 1 for i in range(x.ndim)]
    weight = (points - low).to(x.dtype).reshape(shape)
    return x.index_select(axis, low) * (1 - weight) + x.index_select(axis, high) * weight


def _bilinear(x: Tensor, mode: str, height: int, width: int) -> Tensor:
    return _interpolate(_interpolate(x, -2, grid(mode, x.shape[-2], height)), -1, grid(mode, x.shape[-1], width))


@operation("resize_bilinear")
def resize_bilinear(call: OperationCall) -> Tensor:
    """Resize to a size, with one of MIL's five sampling modes."""
    height, width = call.integer("target_size_height", 1), call.integer("target_size_width", 1)
    return _bilinear(call.tensor("x"), call.text("sampling_mode", "DEFAULT"), height, width)


@operation("upsample_bilinear")
def upsample_bilinear(call: OperationCall) -> Tensor:
    """Resize by factors, with aligned corners or half-pixel centers."""
    x, aligned = call.tensor("x"), call.flag("align_corners", True)
    height, width = call.outputs[0].shape[-2:]
    if aligned:
        return _bilinear(x, "STRICT_ALIGN_CORNERS", height, width)
    half_pixel = call.flag("half_pixel_centers", True)
    return _bilinear(x, "UNALIGN_CORNERS" if half_pixel else "DEFAULT", height, width)


@operation("upsample_nearest_neighbor", "resize_nearest_neighbor")
def nearest(call: OperationCall) -> Tensor:
    """Resize by taking the pixel at floor(i * in / out)."""
    x = call.raw("x")
    for axis in (-2, -1):
        size, out = int(x.shape[axis]), call.outputs[0].shape[axis]
        # Integer arithmetic, because a product of floats may be just below an integer.
        x = x.index_select(axis, torch.arange(out) * size // out)
    return x


@operation("resize")
def resize(call: OperationCall) -> Tensor:
    """Resize the last two dimensions (the form of iOS 17)."""
    if call.text("interpolation_mode", "LINEAR") != "LINEAR":
        return nearest(call)
    height, width = call.outputs[0].shape[-2:]
    return _bilinear(call.tensor("x"), call.text("sampling_mode", "DEFAULT"), height, width)


@operation("crop")
def crop(call: OperationCall) -> Tensor:
    """Crop the last two dimensions."""
    x = call.raw("x")
    for axis, key in ((-2, "crop_height"), (-1, "crop_width")):
        before, after = call.numbers(key)
        x = x.narrow(axis, before, x.shape[axis] - before - after)
    return x


@operation("resample")
def resample(call: OperationCall) -> Tensor:
    """Sample images at coordinates (x, y)."""
    x, points = call.tensor("x"), call.tensor("coordinates").float()
    aligned, mode = call.flag("align_corners"), call.text("coordinates_mode")
    if mode == "unnormalized":
        size = torch.tensor([x.shape[-1], x.shape[-2]])
        points = 2 * points / (size - 1) - 1 if aligned else (2 * points + 1) / size - 1
    elif mode == "normalized_zero_to_one":
        points = 2 * points - 1
    padding = {"constant": "zeros", "border": "border", "reflection": "reflection"}.get(call.text("padding_mode"))
    if padding is None or (padding == "zeros" and call.number("padding_value") != 0):
        raise call.unsupported(f"padding mode '{call.text('padding_mode')}' with this value")
    sampled: Tensor = torch.nn.functional.grid_sample(x, points, call.text("sampling_mode"), padding, aligned)
    return sampled
