"""ONNX operators that sample between pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from effbench.deploy.targets.coreml.lazy import mb
from effbench.deploy.targets.coreml.translator.registry import Node, cast, dtype_of, like, operator, rank_of, shape_of

IOS16 = 7
"""The specification version from which ``resize_bilinear`` supports half-pixel centers."""
NATIVE = {
    "half_pixel": "UNALIGN_CORNERS",
    "pytorch_half_pixel": "UNALIGN_CORNERS",
    "align_corners": "STRICT_ALIGN_CORNERS",
}
"""ONNX's coordinate transformation -> the sampling mode of ``resize_bilinear``."""
NATIVE_NEAREST = (("asymmetric", "floor"), ("half_pixel", "round_prefer_floor"))
"""Coordinate transformations and roundings that ``upsample_nearest_neighbor`` computes, for integral scales."""
Floats = npt.NDArray[np.float64]


def _text(node: Node, attribute: str, default: str) -> str:
    value = node.get(attribute, default)
    return value.decode() if isinstance(value, bytes) else str(value)


@operator("Resize", "Upsample")
def resize(node: Node) -> Any:
    """Use MIL's operation if it computes the same, else gathers (nearest) or one matrix product per axis."""
    x = node.tensor(0)
    axes, sizes, scales = _extent(node, shape_of(x))
    mode = _text(node, "mode", "nearest")
    old = [shape_of(x)[axis] for axis in axes]
    changed = [i for i in range(len(axes)) if sizes[i] != old[i] or scales[i] != 1.0 or _cropped(node)]
    native = _native(
        node, x, mode, [axes[i] for i in changed], [sizes[i] for i in changed], [scales[i] for i in changed]
    )
    if native is not None:
        return native
    for i in changed:
        axis, out, scale = axes[i], sizes[i], scales[i]
        points = _points(node, shape_of(x)[axis], out, scale, i, len(axes))
        if mode == "nearest":
            x = mb.gather(x=x, indices=_nearest(node, points, shape_of(x)[axis]), axis=axis)
        else:
            weights = _weights(node, mode, points, shape_of(x)[axis], scale)
            fill = (
                _outside(points, shape_of(x)[axis]) * node.get("extrapolation_value", 0.0) if _cropped(node) else None
            )
            x = _interpolate(x, axis, weights, fill)
    return x if changed else mb.identity(x=x)


def _coordinates(node: Node) -> str:
    return _text(node, "coordinate_transformation_mode", "half_pixel" if node.opset >= 11 else "asymmetric")


def _rounding(node: Node) -> str:
    return _text(node, "nearest_mode", "round_prefer_floor" if node.opset >= 11 else "floor")


def _cropped(node: Node) -> bool:
    return _text(node, "coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize"


def _extent(node: Node, shape: tuple[int, ...]) -> tuple[list[int], list[int], list[float]]:
    """Return the axes, their new sizes and their scales, from the node's sizes or scales."""
    rank = len(shape)
    axes = [int(axis) % rank for axis in node.get("axes", range(rank))]
    scales_index = 1 if node.op == "Upsample" or node.opset < 11 else 2
    old_sizes = [shape[axis] for axis in axes]
    new_sizes = node.constant(3, "the sizes") if scales_index == 2 else None
    if new_sizes is None or new_sizes.size == 0:
        scales = node.constant(scales_index, "the scales", np.asarray(node.get("scales", [])))
        scales = [float(scale) for scale in scales]
        return axes, [int(np.floor(size * scale)) for size, scale in zip(old_sizes, scales, strict=True)], scales
    sizes = [int(size) for size in new_sizes]
    policy = _text(node, "keep_aspect_ratio_policy", "stretch")
    ratios = [new / old for new, old in zip(sizes, old_sizes, strict=True)]
    if policy != "stretch":
        scale = min(ratios) if policy == "not_larger" else max(ratios)
        return axes, [int(np.floor(scale * old + 0.5)) for old in old_sizes], [scale] * len(axes)
    return axes, sizes, ratios


def _native(node: Node, x: Any, mode: str, axes: list[int], sizes: list[int], scales: list[float]) -> Any:
    """Return MIL's resizing operation if it computes exactly this, else None."""
    rank = rank_of(x)
    if rank not in (3, 4) or not axes or not set(axes) <= {rank - 2, rank - 1} or dtype_of(x).kind != "f":
        return None
    if node.get("antialias", 0):
        return None
    coordinates = _coordinates(node)
    extents = dict(zip(axes, zip(sizes, scales, strict=True), strict=True))
    (height, scale_y), (width, scale_x) = (extents.get(axis, (shape_of(x)[axis], 1.0)) for axis in (rank - 2, rank - 1))
    exact = height == scale_y * shape_of(x)[-2] and width == scale_x * shape_of(x)[-1]
    if mode == "nearest":
        integral = scale_y == int(scale_y) and scale_x == int(scale_x)
        if integral and (coordinates, _rounding(node)) in NATIVE_NEAREST:
            return mb.upsample_nearest_neighbor(x=x, scale_factor_height=int(scale_y), scale_factor_width=int(scale_x))
        return None
    supported = coordinates in NATIVE and (coordinates == "align_corners" or (node.target >= IOS16 and exact))
    if mode != "linear" or not supported or (coordinates != "half_pixel" and 1 in (height, width)):
        return None
    return mb.resize_bilinear(
        x=x, target_size_height=height, target_size_width=width, sampling_mode=NATIVE[coordinates]
    )


def _points(node: Node, size: int, out: int, scale: float, index: int, count: int) -> Floats:
    """Return the position of each output sample along an axis, in input pixels.

    Source: the formulas of ``coordinate_transformation_mode`` in the ONNX operator specification.
    """
    steps = np.arange(out, dtype=np.float64)
    coordinates = _coordinates(node)
    length = scale * size
    if coordinates == "align_corners":
        return steps * (size - 1) / (length - 1) if length != 1 else np.zeros_like(steps)
    if coordinates == "asymmetric":
        return steps / scale
    if coordinates == "tf_half_pixel_for_nn":
        return (steps + 0.5) / scale
    if coordinates == "tf_crop_and_resize":
        roi = node.constant(1, "the region of interest")
        start, end = float(roi[index]), float(roi[index + count])
        if out == 1:
            return np.full_like(steps, 0.5 * (start + end) * (size - 1))
        return start * (size - 1) + steps * (end - start) * (size - 1) / (out - 1)
    if coordinates == "pytorch_half_pixel" and length <= 1:
        return np.full_like(steps, 0.0)
    points: Floats = (steps + 0.5) / scale - 0.5
    if coordinates == "half_pixel_symmetric":
        # If the output length was rounded, the image stays centered.
        points += size / 2 * (1 - out / length)
    return points


def _nearest(node: Node, points: Floats, size: int) -> npt.NDArray[np.int32]:
    rounded = {
        "round_prefer_floor": lambda: np.ceil(points - 0.5),
        "round_prefer_ceil": lambda: np.floor(points + 0.5),
        "floor": lambda: np.floor(points),
        "ceil": lambda: np.ceil(points),
    }[_rounding(node)]()
    return np.clip(rounded, 0, size - 1).astype(np.int32)


def _cubic(distance: Floats, a: float) -> Floats:
    d = np.abs(distance)
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    weights: Floats = np.where(d <= 1, near, np.where(d < 2, far, 0.0))
    return weights


def _weights(node: Node, mode: str, points: Floats, size: int, scale: float) -> Floats:
    """Return the matrix, shape (out, in), whose rows are the interpolation weights of one axis."""
    shrink = min(scale, 1.0) if node.get("antialias", 0) else 1.0
    support = int(np.ceil((2 if mode == "cubic" else 1) / shrink)) + 1
    base = np.floor(points).astype(int)
    matrix = np.zeros((len(points), size))
    for offset in range(-support, support + 1):
        taps = base + offset
        distance = (points - taps) * shrink
        near = np.maximum(0.0, 1 - np.abs(distance))
        weight = _cubic(distance, node.get("cubic_coeff_a", -0.75)) if mode == "cubic" else near
        if node.get("exclude_outside", 0):
            weight = np.where((taps >= 0) & (taps < size), weight, 0.0)
        np.add.at(matrix, (np.arange(len(points)), np.clip(taps, 0, size - 1)), weight)
    matrix /= matrix.sum(axis=1, keepdims=True)
    if _cropped(node):
        matrix[_outside(points, size)] = 0.0
    return matrix


def _outside(points: Floats, size: int) -> npt.NDArray[np.bool_]:
    return (points < 0) | (points > size - 1)


def _interpolate(x: Any, axis: int, matrix: Floats, fill: Floats | None) -> Any:
    rank, dtype = rank_of(x), dtype_of(x)
    x = x if dtype.kind == "f" else cast(x, "float32")
    perm = [i for i in range(rank) if i != axis] + [axis]
    moved = x if axis == rank - 1 else mb.transpose(x=x, perm=perm)
    bias = None if fill is None else fill.astype(dtype_of(x))
    result = mb.linear(x=moved, weight=matrix.astype(dtype_of(x)), bias=bias)
    back = result if axis == rank - 1 else mb.transpose(x=result, perm=list(np.argsort(perm)))
    return cast(back, dtype.name)


@operator("GridSample")
def grid_sample(node: Node) -> Any:
    """Use ``resample``.

    Raises:
        ConversionError: The input is a volume, or sampling is cubic.
    """
    x, grid = node.tensor(0), node.tensor(1)
    mode = {"linear": "bilinear"}.get(_text(node, "mode", "bilinear"), _text(node, "mode", "bilinear"))
    if rank_of(x) != 4 or mode not in ("bilinear", "nearest"):
        raise node.error(f"samples {rank_of(x) - 2} dimensions by '{mode}'; Core ML has images, bilinear and nearest")
    padding = {"zeros": "constant"}.get(_text(node, "padding_mode", "zeros"), _text(node, "padding_mode", "zeros"))
    return mb.resample(
        x=x,
        coordinates=grid,
        sampling_mode=mode,
        padding_mode=padding,
        padding_value=like(0, x),
        coordinates_mode="normalized_minus_one_to_one",
        align_corners=bool(node.get("align_corners", 0)),
    )
