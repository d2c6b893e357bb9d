"""Operators of detectors: boxes that suppress each other, and features sampled inside boxes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from effbench.deploy.interpreter.registry import OpCall, operator


def _corners(boxes: Tensor, center_point_box: int) -> Tensor:
    """Return boxes (N, 4) as the smaller and the larger corner."""
    if center_point_box:
        center, half = boxes[:, :2], boxes[:, 2:] / 2
        return torch.cat([center - half, center + half], 1)
    a, b = boxes[:, :2], boxes[:, 2:]
    return torch.cat([torch.minimum(a, b), torch.maximum(a, b)], 1)


def _overlap(box: Tensor, others: Tensor) -> Tensor:
    """Return the intersection over union of one box (4,) with others (N, 4)."""
    low, high = torch.maximum(box[:2], others[:, :2]), torch.minimum(box[2:], others[:, 2:])
    shared = (high - low).clamp(min=0).prod(1)
    union = (box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(1) - shared
    return torch.where(union > 0, shared / union, 0)


@operator("NonMaxSuppression", moves=True)
def non_max_suppression(
    call: OpCall,
    boxes: Tensor,
    scores: Tensor,
    max_output_boxes_per_class: Tensor | None = None,
    iou_threshold: Tensor | None = None,
    score_threshold: Tensor | None = None,
    *,
    center_point_box: int = 0,
) -> Tensor:
    """Return (batch, class, box) of the boxes (B, N, 4) kept by scores (B, C, N), best first; equal scores by index."""
    most = int(max_output_boxes_per_class) if max_output_boxes_per_class is not None else 0
    overlap = float(iou_threshold) if iou_threshold is not None else 0.0
    least = float(score_threshold) if score_threshold is not None else None
    selected = []
    for batch, classes in enumerate(scores):
        corners = _corners(boxes[batch], center_point_box)
        for kind, values in enumerate(classes):
            order = torch.argsort(values, descending=True, stable=True)
            waiting = order if least is None else order[values[order] > least]
            chosen = 0
            while len(waiting) and chosen < most:
                best, waiting = waiting[0], waiting[1:]
                selected.append((batch, kind, int(best)))
                chosen += 1
                waiting = waiting[_overlap(corners[best], corners[waiting]) <= overlap]
    return torch.tensor(selected, dtype=torch.int64).reshape(-1, 3)


def sample_corners(image: Tensor, y: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the four neighbors of points in an image and their bilinear weights.

    Args:
        image: (C, H, W).
        y: Rows of the points, any shape S; inside the image.
        x: Columns, the same shape.

    Returns:
        Values (4, C, *S) and weights (4, *S).
    """
    height, width = image.shape[-2:]
    top, left = y.floor().clamp(max=height - 1).long(), x.floor().clamp(max=width - 1).long()
    bottom, right = (top + 1).clamp(max=height - 1), (left + 1).clamp(max=width - 1)
    y, x = torch.where(top >= height - 1, top.to(y.dtype), y), torch.where(left >= width - 1, left.to(x.dtype), x)
    down, along = y - top, x - left
    values = [image[:, row, column] for row, column in ((top, left), (top, right), (bottom, left), (bottom, right))]
    weights = [(1 - down) * (1 - along), (1 - down) * along, down * (1 - along), down * along]
    return torch.stack(values), torch.stack(weights)


@operator("RoiAlign")
def roi_align(
    call: OpCall,
    x: Tensor,
    rois: Tensor,
    batch_indices: Tensor,
    *,
    coordinate_transformation_mode: str | None = None,
    mode: str = "avg",
    output_height: int = 1,
    output_width: int = 1,
    sampling_ratio: int = 0,
    spatial_scale: float = 1.0,
) -> Tensor:
    """Pool x (N, C, H, W) inside boxes (R, 4) by bilinear samples; returns (R, C, height, width)."""
    # Before opset 16 the mode was not an attribute, and pixels were not shifted.
    transformation = coordinate_transformation_mode or ("half_pixel" if call.opset >= 16 else "output_half_pixel")
    shift = 0.5 if transformation == "half_pixel" else 0.0
    height, width = x.shape[-2:]
    pooled = []
    for roi, index in zip(rois, batch_indices.tolist(), strict=True):
        left, top, right, bottom = (roi * spatial_scale - shift).tolist()
        box_height, box_width = bottom - top, right - left
        if transformation != "half_pixel":
            box_height, box_width = max(box_height, 1.0), max(box_width, 1.0)
        rows = sampling_ratio or max(1, -int(-box_height / output_height // 1))
        columns = sampling_ratio or max(1, -int(-box_width / output_width // 1))
        y = _samples(top, box_height / output_height, output_height, rows, x.dtype)
        z = _samples(left, box_width / output_width, output_width, columns, x.dtype)
        inside = ((y >= -1) & (y <= height))[:, None] & ((z >= -1) & (z <= width))[None]
        grid_y = y.clamp(min=0)[:, None].expand(-1, len(z))
        grid_x = z.clamp(min=0)[None].expand(len(y), -1)
        values, weights = sample_corners(x[index], grid_y, grid_x)
        parts = values * (weights * inside)[:, None]
        shape = (x.shape[1], output_height, rows, output_width, columns)
        if mode == "max":
            # As in ONNX Runtime and the standard's cases: the largest weighted neighbor, not the largest sample.
            pooled.append(parts.amax(0).reshape(shape).amax((2, 4)))
        else:
            pooled.append(call.math.mean(parts.sum(0).reshape(shape), (2, 4)))
    return torch.stack(pooled) if pooled else x.new_zeros((0, x.shape[1], output_height, output_width))


def _samples(start: float, size: float, bins: int, per_bin: int, kind: torch.dtype) -> Tensor:
    """Return the coordinates of the samples of each bin along one dimension."""
    return start + size * (torch.arange(bins * per_bin, dtype=kind) + 0.5) / per_bin


@operator("MaxRoiPool")
def max_roi_pool(
    call: OpCall, x: Tensor, rois: Tensor, *, pooled_shape: Sequence[int], spatial_scale: float = 1.0
) -> Tensor:
    """Return the maxima of bins of boxes; rois (R, 5): the image's index and the corners, both inside the box."""
    height, width = x.shape[-2:]
    results = []
    for roi in rois:
        index = int(roi[0])
        left, top, right, bottom = (int(torch.floor(v * spatial_scale + 0.5)) for v in roi[1:])
        rows = _bins(top, bottom, pooled_shape[0], height)
        columns = _bins(left, right, pooled_shape[1], width)
        cells = [x[index, :, a:b, c:d].flatten(1) for a, b in rows for c, d in columns]
        maxima = [cell.amax(1) if cell.numel() else cell.new_zeros(cell.shape[0]) for cell in cells]
        results.append(torch.stack(maxima, 1).reshape(x.shape[1], *pooled_shape))
    return torch.stack(results)


def _bins(first: int, last: int, count: int, limit: int) -> list[tuple[int, int]]:
    size = max(last - first + 1, 1) / count
    edges = [(int(i * size // 1) + first, -int(-(i + 1) * size // 1) + first) for i in range(count)]
    return [(min(max(a, 0), limit), min(max(b, 0), limit)) for a, b in edges]


@operator("DeformConv")
def deform_conv(
    call: OpCall,
    x: Tensor,
    weight: Tensor,
    offset: Tensor,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    *,
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    offset_group: int = 1,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """Convolve at places that offsets (N, G kH kW 2, oH, oW) move; outside the image lie zeros."""
    count, channels = x.shape[:2]
    rows, columns = weight.shape[2:]
    strides, dilations, pads = list(strides or [1, 1]), list(dilations or [1, 1]), list(pads or [0] * 4)
    out_height, out_width = offset.shape[2:]
    padded = torch.nn.functional.pad(x, (1, 1, 1, 1))  # one pixel of zeros, which far samples are clamped to
    offsets = offset.reshape(count, offset_group, rows * columns, 2, out_height, out_width)
    share = channels // offset_group
    samples = []
    for tap in range(rows * columns):
        base_y = torch.arange(out_height, dtype=x.dtype) * strides[0] - pads[0] + (tap // columns) * dilations[0]
        base_x = torch.arange(out_width, dtype=x.dtype) * strides[1] - pads[1] + (tap % columns) * dilations[1]
        images = []
        for n in range(count):
            parts = []
            for g in range(offset_group):
                y = (base_y[:, None] + offsets[n, g, tap, 0]).clamp(-1, x.shape[2]) + 1
                z = (base_x[None] + offsets[n, g, tap, 1]).clamp(-1, x.shape[3]) + 1
                values, weights = sample_corners(padded[n, g * share : (g + 1) * share], y, z)
                value = (values * weights[:, None]).sum(0)
                if mask is not None:
                    value = value * mask.reshape(count, offset_group, rows * columns, out_height, out_width)[n, g, tap]
                parts.append(value)
            images.append(torch.cat(parts))
        samples.append(torch.stack(images))
    stacked = torch.stack(samples, 2).reshape(count, group, channels // group * rows * columns, -1)
    kernels = weight.reshape(group, weight.shape[0] // group, -1)
    y = call.math.matmul(kernels, stacked).reshape(count, weight.shape[0], out_height, out_width)
    return y if bias is None else y + bias.reshape(-1, 1, 1)
