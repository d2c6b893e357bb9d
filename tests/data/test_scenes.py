"""Synthetic scenes have the statistics of photographs, each kind its own parameters, and kinds differ widely."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effbench.data.scenes import KINDS, Kind, scene

SIDE = 192
SEEDS = range(4)
Array = npt.NDArray[np.float64]


def luminance(kind: Kind, seed: int, side: int = SIDE) -> Array:
    return np.asarray(scene(3, (side, side), seed, kind).mean(axis=0, dtype=np.float64))


def slope_of(image: Array) -> float:
    """Return the slope of the amplitude over octaves, from means over rings, unlike the generator's regression."""
    side = len(image)
    frequency = np.fft.fftfreq(side) * side
    radius = np.hypot(frequency[:, None], frequency[None, :])
    amplitude = np.abs(np.fft.fft2(image - image.mean()))
    edges = 2.0 ** np.arange(1, 6.01)
    rings = [amplitude[(radius >= low) & (radius < high)].mean() for low, high in pairwise(edges)]
    return float(np.polyfit(np.arange(len(rings)), np.log2(rings), 1)[0])


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_scenes_have_the_parameters_of_their_kind(kind: Kind):
    images = [luminance(kind, seed) for seed in SEEDS]
    assert np.mean([slope_of(image) for image in images]) == pytest.approx(-kind.slope, abs=0.25)
    assert np.mean([image.mean() for image in images]) == pytest.approx(kind.brightness, rel=0.2)
    # Clipping to black and white removes the tails.
    assert 0.6 * kind.contrast < np.mean([image.std() for image in images]) < 1.15 * kind.contrast


def test_the_slopes_of_kinds_span_those_of_photographs():
    # Tolhurst, Tadmor and Chao 1992: single photographs from -0.8 to -1.5.
    assert {0.8, 1.5} <= {kind.slope for kind in KINDS}
    assert all(0.8 <= kind.slope <= 1.5 for kind in KINDS)


def test_kinds_differ_widely():
    images = [scene(3, (SIDE, SIDE), index, kind).astype(float) for index, kind in enumerate(KINDS)]
    contrasts = [image.mean(axis=0).std() for image in images]
    brightness = [image.mean() for image in images]
    colors = [(image - image.mean(axis=0)).std() for image in images]
    assert max(contrasts) > 2.5 * min(contrasts)
    assert max(brightness) - min(brightness) > 80
    assert max(colors) > 4 * min(colors)


def test_buildings_have_more_of_their_edges_along_rows_and_columns_than_foliage():
    def cardinal(kind: Kind) -> float:
        shares = []
        for seed in SEEDS:
            down, right = np.gradient(luminance(kind, seed))
            energy, angle = down**2 + right**2, np.arctan2(down, right)
            shares.append(float((energy * np.cos(4 * angle)).sum() / energy.sum()))
        return float(np.mean(shares))

    foliage, buildings = KINDS[1], KINDS[3]
    assert cardinal(buildings) > cardinal(foliage) + 0.2


def test_surfaces_have_sharp_edges():
    # With surfaces, differences of neighbours have heavy tails; a Gaussian field has a kurtosis of 3.
    step = np.diff(luminance(KINDS[3], 0), axis=1).ravel()
    assert ((step - step.mean()) ** 4).mean() / step.var() ** 2 > 6


@settings(derandomize=True, deadline=None, max_examples=25)
@given(
    st.sampled_from(KINDS), st.integers(0, 2**31), st.sampled_from([1, 3, 4]), st.integers(8, 70), st.integers(8, 70)
)
def test_any_size_and_any_number_of_channels(kind: Kind, seed: int, channels: int, rows: int, columns: int):
    image = scene(channels, (rows, columns), seed, kind)
    assert ((channels, rows, columns), np.dtype(np.uint8)) == (image.shape, image.dtype)
    assert np.array_equal(image, scene(channels, (rows, columns), seed, kind))
    assert not np.array_equal(image, scene(channels, (rows, columns), seed + 1, kind))
