"""Proportions: confidence intervals, the upper bound of a paired drop, calibration error, and a paired rank test.

Numpy and the standard library only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

SIGN_FLIPS = 20_000
"""Random sign patterns of `sign_flip_test`."""


def wilson(hits: int, total: int, level: float = 0.95) -> tuple[float, float]:
    """Return Wilson's confidence interval of a proportion. Source: Wilson 1927, JASA 22:209."""
    z = NormalDist().inv_cdf(0.5 + level / 2)
    proportion = hits / total
    middle = (proportion + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(proportion * (1 - proportion) / total + z * z / (4 * total * total))
    return max(0.0, middle - half), min(1.0, middle + half)


def clopper_pearson(hits: int, total: int, level: float = 0.95) -> tuple[float, float]:
    """Return the exact confidence interval of a proportion. Source: Clopper and Pearson 1934, Biometrika 26:404."""
    miss = (1 - level) / 2
    low = 0.0 if hits == 0 else _solve(lambda share: 1 - _binomial_cdf(hits - 1, total, share) < miss)
    high = 1.0 if hits == total else _solve(lambda share: _binomial_cdf(hits, total, share) > miss)
    return low, high


def _binomial_cdf(hits: int, total: int, share: float) -> float:
    return math.fsum(math.comb(total, k) * share**k * (1 - share) ** (total - k) for k in range(hits + 1))


def _solve(below: Callable[[float], bool]) -> float:
    """Return where a condition that holds for small shares ceases to hold."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if below(middle) else (low, middle)
    return (low + high) / 2


def calibration_error(confidences: Sequence[float], correct: Sequence[bool], bins: int = 15) -> float:
    """Return the expected calibration error, between 0 and 1: the distance of confidence from accuracy.

    Source: Guo et al. 2017, ICML, section 2: bins of equal width, weighted by their share of the images.
    """
    confidence, accuracy = np.asarray(confidences, np.float64), np.asarray(correct, np.float64)
    bin_index = np.minimum((confidence * bins).astype(int), bins - 1)
    counts = np.bincount(bin_index, minlength=bins)
    gaps = np.abs(np.bincount(bin_index, confidence, bins) - np.bincount(bin_index, accuracy, bins))
    return float(gaps[counts > 0].sum() / len(confidence))


def drop_upper_bound(lost: int, won: int, images: int, level: float = 0.95) -> float:
    """Return the one-sided upper confidence bound of a paired drop (lost - won) / images, between -1 and 1.

    It is the largest drop that a score test for the difference of two paired proportions does not reject. If no image
    was lost or won it is z**2 / (n + z**2).

    Args:
        lost: Images that the first model classifies correctly and the second does not.
        won: Images that the second model classifies correctly and the first does not.
        images: All images that both classified.
        level: One-sided confidence level.

    Source: Tango 1998, Statistics in Medicine 17:891, eq. 4 to 6.
    """
    z = NormalDist().inv_cdf(level)

    def excess(drop: float) -> float:
        # The maximum-likelihood share won under that drop: the positive root of 2n q**2 + b q + c = 0.
        b = (2 * images - lost + won) * drop - lost - won
        c = -won * drop * (1 - drop)
        q = (math.sqrt(max(b * b - 8 * images * c, 0.0)) - b) / (4 * images)
        variance = images * (2 * q + drop * (1 - drop))
        return (images * drop - (lost - won)) - z * math.sqrt(max(variance, 0.0))

    low, high = (lost - won) / images, 1.0
    if excess(high) < 0:
        return 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) < 0 else (low, middle)
    return high


def min_images(drop: float, level: float = 0.95) -> int:
    """Return the fewest images that can prove a drop below a bound: as many as it takes with none lost and none won."""
    z = NormalDist().inv_cdf(level)
    return math.ceil(z * z * (1 - drop) / drop)


def sign_flip_test(differences: npt.ArrayLike, seed: int = 0) -> float:
    """Return the one-sided p-value for paired differences above zero: a signed-rank test by random sign flips.

    Each difference keeps its rank and gets a random sign, `SIGN_FLIPS` times; ranks limit the weight of one outlier.
    Source: Wilcoxon 1945; Monte Carlo p-value with the observed arrangement counted (Phipson and Smyth 2010).
    """
    values = np.asarray(differences, np.float64)
    values = values[values != 0]
    if not len(values):
        return 1.0
    size = np.abs(values)
    # Ties share the mean of their ranks.
    ranks = np.array([(size < value).sum() + ((size == value).sum() + 1) / 2 for value in size])
    observed = float((ranks * np.sign(values)).sum())
    signs = np.random.default_rng(seed).choice(np.array([-1.0, 1.0]), (SIGN_FLIPS, len(values)))
    return float(((signs @ ranks >= observed - 1e-9).sum() + 1) / (SIGN_FLIPS + 1))
