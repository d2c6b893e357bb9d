"""Synthetic images that differ as photographs do: in contrast, color, spectrum, direction of edges and occlusion.

Images of one kind give a network nearly the same pooled features, and a check that divides errors by the spread
between images then divides by almost nothing. Six kinds of scene cover what photographs span instead.

Source: amplitude spectra fall as f**-0.8 to f**-1.5 between photographs, f**-1.2 on average (Tolhurst, Tadmor and Chao
1992, 135 scenes); spectra of built scenes are stretched along the cardinal directions (Torralba and Oliva 2003); scenes
are surfaces that hide each other, their sizes a power law ("dead leaves": Lee, Mumford and Huang 2001).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Kind:
    """What one kind of scene is like.

    Attributes:
        slope: The amplitude spectrum falls as f to the power of minus that.
        brightness: Mean of the pixels, 0 to 255.
        contrast: Standard deviation of the pixels' luminance, 0 to 255.
        saturation: Standard deviation of color differences over that of luminance.
        cast: A color that the whole scene shares, in pixel values of red, green and blue.
        cardinal: How much of the energy of edges lies along rows and columns, 0 (none more) to 1.
        surfaces: How many surfaces hide each other.
        texture: Share of luminance that is texture of a surface instead of its own shade, 0 to 1.
    """

    slope: float
    brightness: float
    contrast: float
    saturation: float
    cast: tuple[float, float, float]
    cardinal: float
    surfaces: int
    texture: float


KINDS = (
    Kind(1.2, 112, 55, 0.5, (22, 2, -24), 0.2, 120, 0.4),  # objects in warm light
    Kind(0.8, 84, 56, 0.3, (-6, 18, -12), 0.0, 400, 0.8),  # foliage: green, fine, rich in contrast
    Kind(1.4, 160, 27, 0.1, (-5, 0, 5), 0.1, 30, 0.5),  # haze: bright, soft, nearly grey
    Kind(1.0, 150, 76, 0.2, (-7, 0, 7), 1.0, 160, 0.2),  # buildings: hard edges along rows and columns
    Kind(1.3, 55, 34, 0.6, (-8, -2, 10), 0.1, 60, 0.5),  # night: dark
    Kind(1.5, 126, 52, 0.8, (46, -34, -12), 0.0, 40, 0.3),  # a flower: few surfaces, vivid
)


def scene(channels: int, resolution: tuple[int, int], seed: int, kind: Kind) -> npt.NDArray[np.uint8]:
    """Return an image of a kind, shape (C, H, W), uint8; a seed is the same scene at every resolution, roughly."""
    rng = np.random.default_rng([seed, 20])
    tint = _tints(rng, kind.surfaces + 1, channels)
    shade = rng.standard_normal(kind.surfaces)
    surface = _leaves(rng, resolution, kind)
    texture = _stretched(rng.standard_normal(resolution), kind.slope, kind.cardinal)
    luminance = (1 - kind.texture) * _unit(shade[surface]) + kind.texture * _unit(texture)
    luminance = _unit(_with_slope(luminance, kind.slope))
    color = _tinted(tint[surface].transpose(2, 0, 1)) * kind.saturation * kind.contrast
    cast = (np.resize(kind.cast, channels) - np.resize(kind.cast, channels).mean() + 6 * tint[-1])[:, None, None]
    brightness = kind.brightness * rng.uniform(0.9, 1.1)
    pixels = brightness + cast + kind.contrast * rng.uniform(0.9, 1.1) * luminance + color
    image: npt.NDArray[np.uint8] = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
    return image


def _tints(rng: np.random.Generator, count: int, channels: int) -> Array:
    """Return differences of channels from their common mean, shape (count, channels), deviation about 1."""
    found = rng.standard_normal((count, channels))
    return np.asarray((found - found.mean(axis=1, keepdims=True)) * np.sqrt(channels / max(channels - 1, 1)))


def _tinted(tints: Array) -> Array:
    """Return a map of color differences, shape (C, H, W), without a cast and with deviation 1."""
    differences = tints - tints.mean(axis=(1, 2), keepdims=True)
    return np.asarray(differences / (differences.std() + 1e-12))


def _leaves(rng: np.random.Generator, resolution: tuple[int, int], kind: Kind) -> npt.NDArray[np.intp]:
    """Return which surface is seen at each pixel: rectangles and ellipses, the nearest painted last.

    Areas are a power law with as much area in small surfaces as in large ones (density of sizes r**-3).
    """
    rows, columns = resolution
    count = kind.surfaces
    size = 1 / np.sqrt(rng.uniform(1 / 0.7**2, 1 / 0.03**2, count))
    size[0] = 4.0  # what lies behind all of them
    place = rng.uniform(0, 1, (count, 2)) * (rows, columns)
    stretch = np.exp(rng.uniform(-0.7, 0.7, count))
    straight = rng.uniform(0, 1, count) < kind.cardinal
    angle = np.where(straight, 0.0, rng.uniform(0, np.pi, count))
    found = np.zeros(resolution, np.intp)
    for index in range(count):
        radius = size[index] * min(rows, columns) / 2
        reach = radius * max(stretch[index], 1 / stretch[index]) * 1.5 + 1
        top, left = (int(max(0, place[index, axis] - reach)) for axis in (0, 1))
        bottom, right = (int(place[index, axis] + reach) + 1 for axis in (0, 1))
        y, x = np.ogrid[top : min(bottom, rows), left : min(right, columns)]
        y, x = y - place[index, 0], x - place[index, 1]
        cos, sin = np.cos(angle[index]), np.sin(angle[index])
        along = np.abs(cos * x + sin * y) / (radius * stretch[index])
        across = np.abs(cos * y - sin * x) * stretch[index] / radius
        inside = np.maximum(along, across) < 1 if straight[index] else along**2 + across**2 < 1
        found[top:bottom, left:right][inside] = index
    return found


def _frequencies(resolution: tuple[int, int]) -> tuple[Array, Array, Array]:
    """Return rows', columns' and radial frequency in cycles per image, for a real transform; never zero."""
    rows, columns = resolution
    y, x = np.fft.fftfreq(rows)[:, None] * rows, np.fft.rfftfreq(columns)[None, :] * columns
    return np.asarray(y), np.asarray(x), np.asarray(np.maximum(np.hypot(y, x), 1))


def _stretched(noise: Array, slope: float, cardinal: float) -> Array:
    """Return noise with a spectrum of a slope, more of it along the cardinal directions."""
    y, x, radius = _frequencies((noise.shape[0], noise.shape[1]))
    direction = np.cos(4 * np.arctan2(y, x))
    amplitude = radius**-slope * np.exp(cardinal * (direction - 1))
    return np.asarray(np.fft.irfft2(np.fft.rfft2(noise) * amplitude, s=noise.shape))


def _with_slope(image: Array, slope: float) -> Array:
    """Return an image with the slope of its amplitude spectrum changed; phases, and so edges, stay where they are."""
    shape = (image.shape[0], image.shape[1])
    _, _, radius = _frequencies(shape)
    spectrum = np.fft.rfft2(image)
    log_radius, log_amplitude = np.log(radius), np.log(np.abs(spectrum) + 1e-9)
    inner = (radius >= 2) & (radius <= min(shape) / 3)
    # Rings hold ever more points: weights make every octave count the same.
    own = -np.polyfit(log_radius[inner], log_amplitude[inner], 1, w=1 / radius[inner])[0]
    return np.asarray(np.fft.irfft2(spectrum * radius ** (own - slope), s=shape))


def _unit(values: Array) -> Array:
    return np.asarray((values - values.mean()) / (values.std() + 1e-12))
