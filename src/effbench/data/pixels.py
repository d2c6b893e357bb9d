"""Turn an encoded image into the input of a model: decode, resize, crop and normalize, alike for every target."""

from __future__ import annotations

import io
import math
import struct
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from effbench.errors import DataError, MissingDependencyError, UsageError
from effbench.schema import Preprocessing

if TYPE_CHECKING:
    from PIL.Image import Image

MODES = {1: "L", 3: "RGB", 4: "RGBA"}

FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
"""Pillow tries no other decoder, under any file name: that of EPS starts Ghostscript, and others open files."""
MOST_PIXELS = 80_000_000
"""Several times a photograph, decoded about 0.3 GB; below the number at which Pillow warns of a bomb."""
UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, OverflowError, TypeError, struct.error)
"""What Pillow's decoders raise for damaged files."""


def decode(content: bytes, name: str, channels: int = 3) -> Image:
    """Decode an image, apply its EXIF orientation, and convert it to the color mode for a number of channels.

    Raises:
        DataError: It cannot be read as an image, or no color mode has that many channels.
        MissingDependencyError: Pillow is not installed.
    """
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ImportError as error:
        raise MissingDependencyError("Reading images", "pillow", "eval") from error
    if channels not in MODES:
        raise DataError(f"A model with {channels} input channels takes no images.")
    try:
        opened = Image.open(io.BytesIO(content), formats=FORMATS)
        with opened:
            if opened.width * opened.height > MOST_PIXELS:  # read from the header: nothing is decoded yet
                text = f"{name} has {opened.width} x {opened.height} pixels; the limit is {MOST_PIXELS:,}."
                raise DataError(text, hint="Scale it down.")
            # In place, and converted only if the mode differs: each saves a copy of the image.
            ImageOps.exif_transpose(opened, in_place=True)
            opened.load()
            return opened if opened.mode == MODES[channels] else opened.convert(MODES[channels])
    except UnidentifiedImageError:
        raise DataError(f"{name} cannot be read as an image in {', '.join(FORMATS[:-1])} or {FORMATS[-1]}.") from None
    except (*UNREADABLE, Image.DecompressionBombError) as error:
        raise DataError(f"{name} cannot be read as an image: {error}") from error


def cut(
    image: Image, resolution: tuple[int, int], preprocessing: Preprocessing, channels: int = 3
) -> npt.NDArray[np.uint8]:
    """Resize and center-crop an image; return its pixels, shape (C, H, W), uint8.

    Raises:
        UsageError: The interpolation is unknown.
    """
    array = np.asarray(_fit(image, resolution, preprocessing), np.uint8).reshape(*resolution, channels)
    if preprocessing.channel_order == "BGR":
        array = array[..., ::-1]
    return np.ascontiguousarray(array.transpose(2, 0, 1))


def _fit(image: Image, resolution: tuple[int, int], preprocessing: Preprocessing) -> Image:
    """Resize so that the crop covers ``crop_pct`` of the tighter dimension, then crop the center.

    Sizes are rounded as in torchvision's Resize and CenterCrop and timm's crop_pct, which models were trained with.
    """
    from PIL import Image

    methods = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
    methods |= {"nearest": Image.Resampling.NEAREST, "lanczos": Image.Resampling.LANCZOS}
    if preprocessing.interpolation not in methods:
        raise UsageError(f"Interpolation '{preprocessing.interpolation}' is none of {', '.join(methods)}.")
    height, width = resolution
    tall, wide = (math.floor(side / preprocessing.crop_pct) for side in resolution)
    if image.width * tall >= image.height * wide:
        size = (max(width, tall * image.width // image.height), tall)
    else:
        size = (wide, max(height, wide * image.height // image.width))
    if size[0] * size[1] > MOST_PIXELS:
        raise DataError(
            f"An image of {image.width} x {image.height} pixels is too narrow for a crop of {width} x {height}."
        )
    scaled = image.resize(size, methods[preprocessing.interpolation])
    left, top = round((size[0] - width) / 2), round((size[1] - height) / 2)
    return scaled.crop((left, top, left + width, top + height))


def normalize(images: npt.NDArray[np.uint8], preprocessing: Preprocessing, dtype: str = "float32") -> npt.NDArray[Any]:
    """Return images, shape (N, C, H, W), scaled and normalized for the model."""
    mean, std = (
        np.resize(np.asarray(value, np.float32), images.shape[1]).reshape(-1, 1, 1)
        for value in (preprocessing.mean, preprocessing.std)
    )
    scaled = (images.astype(np.float32) * np.float32(preprocessing.scale) - mean) / std
    return np.ascontiguousarray(scaled.astype(dtype))


def affine(preprocessing: Preprocessing, channels: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return slope and offset per channel of the normalization of pixels in [0, 1]: input = pixel * slope + offset."""
    mean, std = (np.resize(np.asarray(v, np.float64), channels) for v in (preprocessing.mean, preprocessing.std))
    return 255 * preprocessing.scale / std, -mean / std


def read(
    content: bytes, name: str, resolution: tuple[int, int], preprocessing: Preprocessing, channels: int = 3
) -> npt.NDArray[np.uint8]:
    """Decode, resize and crop an encoded image, shape (C, H, W), uint8; errors as in `decode` and `cut`."""
    return cut(decode(content, name, channels), resolution, preprocessing, channels)
