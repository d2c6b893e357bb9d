"""Decoding, resizing and cropping compared with timm's transforms."""

from __future__ import annotations

import io

import numpy as np
import pytest
from images_on_disk import encoded
from PIL import Image

from effbench.data import pixels
from effbench.errors import DataError, UsageError
from effbench.models.torchvision_operators import import_timm_data
from effbench.schema import Preprocessing


def photograph(width: int, height: int) -> Image.Image:
    rng = np.random.default_rng(1)
    small = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.target("timm")
@pytest.mark.parametrize(("width", "height"), [(500, 375), (375, 500), (256, 256), (224, 224), (640, 200)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_preprocessing_agrees_with_timm(width: int, height: int, interpolation: str):
    create_transform = import_timm_data().create_transform

    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    expected = create_transform(
        (3, 224, 224), interpolation=interpolation, mean=mean, std=std, crop_pct=0.875, crop_mode="center"
    )(photograph(width, height))
    preprocessing = Preprocessing(mean, std, interpolation=interpolation, crop_pct=0.875)
    stream = io.BytesIO()
    photograph(width, height).save(stream, "PNG")
    image = pixels.read(stream.getvalue(), "x.png", (224, 224), preprocessing)
    values = pixels.normalize(image[None], preprocessing)[0]
    assert np.abs(values - expected.numpy()).max() < 1e-6


def test_orientation_and_color_mode_are_applied():
    image = photograph(40, 30)
    exif = image.getexif()
    exif[0x0112] = 6  # rotated by 90 degrees
    stream = io.BytesIO()
    image.save(stream, "PNG", exif=exif)
    assert (30, 40) == pixels.decode(stream.getvalue(), "x").size
    gray = io.BytesIO()
    image.convert("L").save(gray, "PNG")
    assert (3, 8, 8) == pixels.read(gray.getvalue(), "x", (8, 8), Preprocessing()).shape
    assert (1, 8, 8) == pixels.read(gray.getvalue(), "x", (8, 8), Preprocessing(), channels=1).shape


def test_bgr_swaps_the_channels():
    content = encoded(3, 7)
    rgb, bgr = (pixels.read(content, "x", (8, 8), Preprocessing(channel_order=order)) for order in ("RGB", "BGR"))
    assert np.array_equal(rgb[::-1], bgr)
    assert (60, 7) == (rgb[0].max(), rgb[1].max())


@pytest.mark.parametrize("content", [b"", b"not an image", encoded(1)[:60]])
def test_a_broken_image_is_named(content: bytes):
    with pytest.raises(DataError, match=r"cat/1\.png cannot be read as an image"):
        pixels.decode(content, "cat/1.png")


def test_unknown_interpolation_and_channels_are_errors():
    with pytest.raises(UsageError, match="Interpolation 'area' is none of"):
        pixels.read(encoded(1), "x", (8, 8), Preprocessing(interpolation="area"))
    with pytest.raises(DataError, match="5 input channels"):
        pixels.decode(encoded(1), "x", channels=5)
