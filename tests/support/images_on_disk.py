"""Small encoded images for tests, whose pixels encode their class and number."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image


def encoded(label: int, number: int = 0, size: tuple[int, int] = (40, 30), kind: str = "PNG") -> bytes:
    """Return an image of a size (width, height) whose red is 20 times its label and whose green is its number."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[..., 0] = 20 * label
    pixels[..., 1] = number
    pixels[..., 2] = np.arange(size[0], dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def per_class(root: Path, names: list[str], each: int = 2) -> Path:
    """Write a folder per class."""
    for label, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for number in range(each):
            (root / name / f"{number:03d}.png").write_bytes(encoded(label, number))
    return root
