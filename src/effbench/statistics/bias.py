"""The bias of one side that rounds do not average out, and whether neighboring rounds depend on each other.

Numpy and the standard library only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from effbench.statistics.betting import SMALLEST_SCALE, Floats, robust_deviation
from effbench.statistics.student_t import student_t

OUTLIER = 3.0
"""Rounds farther from the median than this many robust deviations count as if they lay there."""

LEVEL = 0.95

LIFT_LEVEL = 0.995
"""Needed to exclude zero before a bias lifts the floor: chance lifts that of one in 200 machines without a bias."""


@dataclass(frozen=True)
class Bias:
    """The mean log ratio of rounds of equal sides, its 95 % interval, and the correlation of neighboring rounds."""

    center: float
    low: float
    high: float
    correlation: float
    dependent: bool
    significant: bool

    @property
    def floor_pct(self) -> float:
        """The slowdown that the bias may look like, in percent: 0 if none was found."""
        if not self.significant:
            return 0.0
        return 100 * math.expm1(max(abs(self.low), abs(self.high)))


def persistent(rounds: Floats) -> Bias:
    """Estimate the bias of rounds of equal sides, in the order in which they ran.

    The interval is that of a mean under a first-order autoregression: its variance grows by (1 + r) / (1 - r), its
    degrees of freedom fall likewise. r is corrected for its own bias in short series. Rounds are dependent if r exceeds
    two standard errors of an independent series.

    Source: Bayley and Hammersley 1946, JRSS Supplement 8:184 (effective number of observations); Kendall 1954,
    Biometrika 41:403 (bias of r).
    """
    count = len(rounds)
    middle = float(np.median(rounds))
    reach = OUTLIER * max(SMALLEST_SCALE, float(robust_deviation(rounds)))
    values = np.clip(rounds, middle - reach, middle + reach)
    center = float(values.mean())
    deviations = values - center
    variance = float(deviations @ deviations)
    raw = float(deviations[1:] @ deviations[:-1]) / variance if variance else 0.0
    correlation = min(0.99, max(0.0, raw + (1 + 3 * raw) / count))
    effective = max(2.0, count * (1 - correlation) / (1 + correlation))
    error, degrees = math.sqrt(variance / (count - 1) / effective), max(1, math.floor(effective) - 1)
    half, far = (student_t(0.5 + level / 2, degrees) * error for level in (LEVEL, LIFT_LEVEL))
    return Bias(center, center - half, center + half, raw, raw > 2 / math.sqrt(count), abs(center) > far)
