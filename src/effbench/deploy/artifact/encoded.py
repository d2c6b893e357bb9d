"""One encoded image from its bytes to the outputs, by a path that shares no code with the deployed one.

The reference path starts from the pixels before they are encoded, resizes them with its own arithmetic, and normalizes
in double precision. The decoder and the preprocessing on the device have to produce the same tensor.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from effbench import reading
from effbench.deploy.artifact import kinds
from effbench.deploy.artifact.synthetic import natural
from effbench.errors import UsageError
from effbench.schema import InputSpec, Preprocessing

Array = npt.NDArray[Any]
Run = Callable[[Mapping[str, Array]], Mapping[str, Array]]

COLOR_TYPES = {1: 0, 3: 2, 4: 6}
"""PNG's color types: gray, RGB, RGBA."""
EXAMPLE_SEED = 1000
"""Seed of the encoded image; no other image has it."""
MAX_LEVEL_ERROR = 0.5
"""Largest mean error over an image, in levels of 255. Some versions of Pillow resize rows first, others columns, and
round between the two, so that some pixels differ by one or two levels."""
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")
FIXED_POINT = 1 << 22
"""Pillow rounds resampling weights to multiples of its inverse; so does this module."""


@dataclass(frozen=True)
class Example:
    """The bytes of an image file, the input tensor of the reference path, shape (C, H, W), and the expected outputs.

    Outputs are by name, shape (1, ...).
    """

    content: bytes
    tensor: npt.NDArray[np.float32]
    outputs: Mapping[str, Array]


def make_example(
    run: Run,
    inputs: Sequence[InputSpec],
    batch: int,
    preprocessing: Preprocessing,
    pixels: npt.NDArray[np.uint8] | None = None,
) -> Example | None:
    """Return an encoded image with the reference's outputs for it.

    None for a model that takes something other than one image in fractions, or if no image has that many channels.

    Args:
        run: The reference.
        inputs: Its inputs.
        batch: Batch size of the reference.
        preprocessing: The model's declaration.
        pixels: The image to encode, shape (H, W, C); None takes a synthetic one.
    """
    spec, fractions = inputs[0], np.issubdtype(np.dtype(inputs[0].dtype), np.floating)
    if len(inputs) > 1 or spec.role != "image" or spec.sampled or spec.layout != "NCHW" or not fractions:
        return None
    channels, height, width = (side or 0 for side in spec.shape[1:])
    if channels not in COLOR_TYPES:
        return None
    if pixels is None:
        # Larger than any crop, with another aspect ratio and an odd height and width.
        larger = (height * 10 // 7 | 1, width * 17 // 9 | 1)
        pixels = natural(channels, larger, EXAMPLE_SEED).transpose(1, 2, 0)
    pixels = np.array(pixels, order="C")
    if channels == 4:
        pixels[..., 3] = 255  # Pillow scales colors by their opacity
    tensor = preprocess(pixels, (height, width), preprocessing)
    feed = np.repeat(tensor[None], batch, axis=0).astype(spec.dtype)
    first = {
        name: kinds.images_first([np.asarray(value)], [batch])[0][:1] for name, value in run({spec.name: feed}).items()
    }
    outputs = {name: np.array(value, _stored(value)) for name, value in first.items()}
    return Example(png(pixels), tensor, outputs)


def _stored(value: Array) -> Any:
    return np.float32 if np.issubdtype(value.dtype, np.floating) else value.dtype


def png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Return pixels, shape (H, W, C), as a PNG file."""
    height, width, channels = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 8, COLOR_TYPES[channels], 0, 0, 0)
    rows = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, -1)], axis=1)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 1)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )


def preprocess(
    pixels: npt.NDArray[np.uint8], resolution: tuple[int, int], preprocessing: Preprocessing
) -> npt.NDArray[np.float32]:
    """Resize, crop and normalize pixels, shape (H, W, C), as declared; returns the input tensor, shape (C, H, W).

    Raises:
        UsageError: The interpolation is unknown.
    """
    if preprocessing.interpolation not in INTERPOLATIONS:
        raise UsageError(f"Interpolation '{preprocessing.interpolation}' is none of {', '.join(INTERPOLATIONS)}.")
    image = pixels
    # The resized height and width are at least resolution / crop_pct. Columns are resized first, and rounded.
    resized = [math.floor(size / preprocessing.crop_pct) for size in resolution]
    factor = max(Fraction(new, old) for new, old in zip(resized, pixels.shape, strict=False))
    for axis in (1, 0):
        old, new = pixels.shape[axis], resolution[axis]
        size = max(new, math.floor(old * factor))
        start = round((size - new) / 2)
        image = resize_axis(image, size, axis, preprocessing.interpolation)
        image = np.take(image, range(start, start + new), axis)
    if preprocessing.channel_order == "BGR":
        image = image[..., ::-1]
    mean, std = (np.resize(np.asarray(value), image.shape[2]) for value in (preprocessing.mean, preprocessing.std))
    tensor = (image * preprocessing.scale - mean) / std
    return np.ascontiguousarray(tensor.transpose(2, 0, 1).astype(np.float32))


def resize_axis(pixels: npt.NDArray[np.uint8], size: int, axis: int, interpolation: str) -> npt.NDArray[np.uint8]:
    """Resize pixels along one axis."""
    weights = _weights(pixels.shape[axis], size, interpolation)
    summed: Array = np.moveaxis(np.tensordot(weights, pixels.astype(np.float64), (1, axis)), 0, axis)
    return np.clip(np.floor(summed + 0.5), 0, 255).astype(np.uint8)


def _weights(old: int, new: int, interpolation: str) -> npt.NDArray[np.float64]:
    """Return the resampling weight of each of ``old`` pixels in each of ``new`` ones, shape (new, old).

    Source: Pillow's documentation of filters ("Resampling filters"); bicubic is Keys 1981 with a = -0.5.
    """
    scale = old / new
    centers = (np.arange(new) + 0.5)[:, None] * scale
    if interpolation == "nearest":
        return np.asarray(np.floor(centers) == np.arange(old), np.float64)
    filters = {"bilinear": (1.0, _triangle), "bicubic": (2.0, _cubic), "lanczos": (3.0, _lanczos)}
    support, kernel = filters[interpolation]
    stretch = max(scale, 1.0)
    first = np.maximum(np.floor(centers - support * stretch + 0.5), 0)
    last = np.minimum(np.floor(centers + support * stretch + 0.5), old)
    index = np.arange(old)
    weights = np.where((index >= first) & (index < last), kernel((index + 0.5 - centers) / stretch), 0)
    return np.asarray(np.rint(weights / weights.sum(axis=1, keepdims=True) * FIXED_POINT) / FIXED_POINT)


def _triangle(x: Array) -> Array:
    return np.asarray(np.maximum(1 - np.abs(x), 0))


def _cubic(x: Array) -> Array:
    x = np.abs(x)
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def _lanczos(x: Array) -> Array:
    return np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0)


def level_error(actual: Array, expected: Array) -> float:
    """Return the mean difference of two input tensors in levels: 255ths of the range of the expected one."""
    span = float(expected.max() - expected.min()) or 1.0
    return float(np.abs(actual.astype(np.float64) - expected).mean() * 255 / span)


def arrays(example: Example) -> dict[str, Array]:
    """Return an example as the arrays that the file of expected outputs stores."""
    outputs = {f"encoded_output:{name}": value for name, value in example.outputs.items()}
    return {"encoded": np.frombuffer(example.content, np.uint8), "encoded_tensor": example.tensor, **outputs}


def load(path: Path) -> Example | None:
    """Return the example of a file of expected outputs; None if the model takes no images."""
    data = reading.arrays(path)
    if "encoded" not in data or "encoded_tensor" not in data:
        return None
    prefix = "encoded_output:"
    outputs = {name.removeprefix(prefix): data[name] for name in data if name.startswith(prefix)}
    return Example(data["encoded"].tobytes(), data["encoded_tensor"], outputs)
