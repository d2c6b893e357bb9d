"""Synthetic images to verify and to measure with: scenes as different as photographs, and extremes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from effbench.data.scenes import KINDS, scene

NATURAL = len(KINDS)
"""Images with the statistics of photographs; the spread is taken over these."""


def reference_images(count: int, channels: int, resolution: tuple[int, int], seed: int = 0) -> npt.NDArray[np.uint8]:
    """Return test images, shape (count, C, H, W), uint8.

    The first `NATURAL` are scenes, one per kind and each with its own seed (`effbench.data.scenes`); then black, white,
    and noise of full contrast; further ones are scenes again.
    """
    extremes = {
        NATURAL: np.zeros((channels, *resolution), np.uint8),
        NATURAL + 1: np.full((channels, *resolution), 255, np.uint8),
        NATURAL + 2: np.random.default_rng(seed).integers(0, 256, (channels, *resolution), dtype=np.uint8),
    }
    images = [
        extremes[index] if index in extremes else scene(channels, resolution, seed + index, KINDS[index % NATURAL])
        for index in range(count)
    ]
    return np.stack(images)


def natural(channels: int, resolution: tuple[int, int], seed: int) -> npt.NDArray[np.uint8]:
    """Return an image of the most common kind of scene, shape (C, H, W), uint8."""
    return scene(channels, resolution, seed, KINDS[0])
