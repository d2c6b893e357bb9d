"""Pictures made here, to verify and to measure with: natural-image statistics, and extremes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

NATURAL = 6
"""Pictures with natural-image statistics; the spread is taken over these."""


def pictures(count: int, channels: int, resolution: tuple[int, int], seed: int = 0) -> npt.NDArray[np.uint8]:
    """Return test pictures, shape (count, C, H, W), uint8.

    The first `NATURAL` have natural-image statistics (an amplitude spectrum of 1/f, correlated colors; Field 1987),
    each from a seed of its own; then black, white, and noise of full contrast; further ones are natural again.
    """
    found = [natural(channels, resolution, seed + index) for index in range(count)]
    extremes = (
        np.zeros((channels, *resolution), np.uint8),
        np.full((channels, *resolution), 255, np.uint8),
        np.random.default_rng(seed).integers(0, 256, (channels, *resolution), dtype=np.uint8),
    )
    for index, picture in enumerate(extremes, start=NATURAL):
        if index < count:
            found[index] = picture
    return np.stack(found)


def natural(channels: int, resolution: tuple[int, int], seed: int) -> npt.NDArray[np.uint8]:
    """Return a picture with natural-image statistics, shape (C, H, W), uint8."""
    rng = np.random.default_rng([seed, 20])
    frequency = np.hypot(*np.meshgrid(*(np.fft.fftfreq(side) * side for side in resolution), indexing="ij"))
    amplitude = 1 / np.maximum(frequency, 1)
    planes = np.fft.ifft2(np.fft.fft2(rng.standard_normal((channels, *resolution))) * amplitude).real
    planes /= planes.std(axis=(1, 2), keepdims=True) + 1e-12
    shared = planes[:1] * 0.8 + planes * 0.6
    brightness = rng.uniform(80, 170, (channels, 1, 1))
    contrast = rng.uniform(25, 60)
    picture: npt.NDArray[np.uint8] = np.clip(np.rint(brightness + contrast * shared), 0, 255).astype(np.uint8)
    return picture
