"""Intervals of proportions and of paired drops, against closed formulas and a brute-force search of the likelihood."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st
from scipy import stats as reference

from effbench.statistics.proportions import calibration_error, drop_upper_bound, min_images, sign_flip_test, wilson

Z = 1.6448536269514722


def test_wilson_agrees_with_scipy():
    for hits, total in ((18, 20), (0, 5), (5, 5), (380, 1000)):
        expected = reference.binomtest(hits, total).proportion_ci(0.95, "wilson")
        assert np.allclose((expected.low, expected.high), wilson(hits, total), atol=1e-12)


@pytest.mark.parametrize("images", [20, 268, 5000])
def test_without_a_lost_image_the_bound_has_a_closed_form(images: int):
    assert math.isclose(Z**2 / (images + Z**2), drop_upper_bound(0, 0, images), rel_tol=1e-9)


def test_the_fewest_images_for_a_bound():
    assert (268, 52, 2703) == tuple(min_images(drop) for drop in (0.01, 0.05, 0.001))
    assert drop_upper_bound(0, 0, 268) <= 0.01 < drop_upper_bound(0, 0, 267)


def likelihood_score(lost: int, won: int, n: int, drop: float) -> float:
    """Return the score statistic with the maximum-likelihood share won, searched by brute force."""
    q = np.linspace(max(0.0, -drop) + 1e-9, (1 - drop) / 2 - 1e-9, 400_001)
    log = lost * np.log(q + drop) + won * np.log(q) + (n - lost - won) * np.log(1 - 2 * q - drop)
    best = q[log.argmax()]
    return (lost - won - n * drop) / math.sqrt(n * (2 * best + drop * (1 - drop)))


@seed(1)
@settings(max_examples=25, deadline=None)
@given(st.integers(0, 15), st.integers(0, 15), st.integers(40, 400))
def test_the_bound_is_where_the_score_test_starts_to_reject(lost: int, won: int, n: int):
    bound = drop_upper_bound(lost, won, n)
    assert (lost - won) / n < bound < 1
    assert math.isclose(-Z, likelihood_score(lost, won, n, bound), abs_tol=2e-3)


def test_the_bound_covers_as_often_as_stated():
    rng = np.random.default_rng(0)
    for p_lost, p_won in ((0.02, 0.0), (0.03, 0.02), (0.1, 0.05)):
        draws = rng.multinomial(500, [p_lost, p_won, 1 - p_lost - p_won], size=3000)
        bounds = {(b, c): drop_upper_bound(b, c, 500) for b, c, _ in {tuple(map(int, row)) for row in draws}}
        covered = np.mean([bounds[int(b), int(c)] >= p_lost - p_won for b, c, _ in draws])
        assert 0.935 <= covered <= 0.98, (p_lost, p_won, covered)


def test_calibration_error_of_known_cases():
    assert math.isclose(0.2, calibration_error([0.9] * 10, [True] * 7 + [False] * 3))
    assert 0 == calibration_error([1.0, 1.0], [True, True])
    assert math.isclose(0.5, calibration_error([1.0, 0.5], [False, True]) - 0.25)


def test_sign_flips_agree_with_the_exact_signed_rank_test():
    rng = np.random.default_rng(3)
    for shift in (0.0, 0.4, -0.5):
        values = rng.normal(shift, 1, 14)
        expected = reference.wilcoxon(values, alternative="greater", mode="exact").pvalue
        assert abs(expected - sign_flip_test(values)) < 0.01


def test_tied_differences_share_the_mean_of_their_ranks():
    values = np.array([1, 1, 1, 2, 2, 3, -1, -2, -2, -3])
    ranks = reference.rankdata(np.abs(values))
    flips = np.array(list(itertools.product([-1, 1], repeat=len(values))))
    expected = np.mean(flips @ ranks >= (ranks * np.sign(values)).sum() - 1e-9)
    assert abs(expected - sign_flip_test(values)) < 0.01


def test_differences_of_zero_are_no_evidence():
    assert 1.0 == sign_flip_test([0.0, 0.0])
    assert sign_flip_test([1.0] * 15) < 2e-4
