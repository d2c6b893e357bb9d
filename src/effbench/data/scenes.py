"""Generate synthetic images that vary as photographs do: contrast, color, spectrum, edge direction and occlusion.

Images of a single kind give nearly equal pooled features, so that a check that divides errors by the spread between
images divides by almost zero. Six kinds of scene cover the range of photographs.

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
    """The parameters of one kind of scene.

    Attributes:
        slope: The amplitude spectrum falls as f**-slope.
        brightness: Mean of the pixels, 0 to 255.
        contrast: Standard deviation of the pixels' luminance, 0 to 255.
        saturation: Standard deviation of color differences over that of luminance.
        cast: A color offset of the entire scene, in pixel values of red, green and blue.
        cardinal: Share of edge energy along rows and columns, 0 (isotropic) to 1.
        surfaces: Number of surfaces that occlude each other.
        texture: Share of luminance that is texture instead of the shade of a surface, 0 to 1.
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
    """Return an image of a kind, shape (C, H, W), uint8; a seed gives roughly the same scene at every resolution."""
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
    tints = rng.standard_normal((count, channels))
    return np.asarray((tints - tints.mean(axis=1, keepdims=True)) * np.sqrt(channels / max(channels - 1, 1)))


def _tinted(tints: Array) -> Array:
    """Return a map of color differences, shape (C, H, W), without a cast and with deviation 1."""
    differences = tints - tints.mean(axis=(1, 2), keepdims=True)
    return np.asarray(differences / (differences.std() + 1e-12))


def _leaves(rng: np.random.Generator, resolution: tuple[int, int], kind: Kind) -> npt.NDArray[np.intp]:
    """Return the index of the visible surface at each pixel: rectangles and ellipses, the nearest painted last.

    Sizes follow a power law with equal area in small and in large surfaces (density r**-3).
    """
    rows, columns = resolution
    count = kind.surfaces
    size = 1 / np.sqrt(rng.uniform(1 / 0.7**2, 1 / 0.03**2, count))
    size[0] = 4.0  # the background
    center = rng.uniform(0, 1, (count, 2)) * (rows, columns)
    stretch = np.exp(rng.uniform(-0.7, 0.7, count))
    straight = rng.uniform(0, 1, count) < kind.cardinal
    angle = np.where(straight, 0.0, rng.uniform(0, np.pi, count))
    visible = np.zeros(resolution, np.intp)
    for index in range(count):
        radius = size[index] * min(rows, columns) / 2
        extent = radius * max(stretch[index], 1 / stretch[index]) * 1.5 + 1
        top, left = (int(max(0, center[index, axis] - extent)) for axis in (0, 1))
        bottom, right = (int(center[index, axis] + extent) + 1 for axis in (0, 1))
        y, x = np.ogrid[top : min(bottom, rows), left : min(right, columns)]
        y, x = y - center[index, 0], x - center[index, 1]
        cos, sin = np.cos(angle[index]), np.sin(angle[index])
        along = np.abs(cos * x + sin * y) / (radius * stretch[index])
        across = np.abs(cos * y - sin * x) * stretch[index] / radius
        inside = np.maximum(along, across) < 1 if straight[index] else along**2 + across**2 < 1
        visible[top:bottom, left:right][inside] = index
    return visible


def _frequencies(resolution: tuple[int, int]) -> tuple[Array, Array, Array]:
    """Return vertical, horizontal and radial frequency in cycles per image, for a real FFT; the radial one is >= 1."""
    rows, columns = resolution
    y, x = np.fft.fftfreq(rows)[:, None] * rows, np.fft.rfftfreq(columns)[None, :] * columns
    return np.asarray(y), np.asarray(x), np.asarray(np.maximum(np.hypot(y, x), 1))


def _stretched(noise: Array, slope: float, cardinal: float) -> Array:
    """Return noise with a spectral slope, stronger along the cardinal directions."""
    y, x, radius = _frequencies((noise.shape[0], noise.shape[1]))
    direction = np.cos(4 * np.arctan2(y, x))
    amplitude = radius**-slope * np.exp(cardinal * (direction - 1))
    return np.asarray(np.fft.irfft2(np.fft.rfft2(noise) * amplitude, s=noise.shape))


def _with_slope(image: Array, slope: float) -> Array:
    """Return an image with another slope of its amplitude spectrum; phases, and so edges, stay in place."""
    shape = (image.shape[0], image.shape[1])
    _, _, radius = _frequencies(shape)
    spectrum = np.fft.rfft2(image)
    log_radius, log_amplitude = np.log(radius), np.log(np.abs(spectrum) + 1e-9)
    inner = (radius >= 2) & (radius <= min(shape) / 3)
    # Weights give every octave the same influence, as rings of higher frequency hold more points.
    current = -np.polyfit(log_radius[inner], log_amplitude[inner], 1, w=1 / radius[inner])[0]
    return np.asarray(np.fft.irfft2(spectrum * radius ** (current - slope), s=shape))


def _unit(values: Array) -> Array:
    return np.asarray((values - values.mean()) / (values.std() + 1e-12))
