"""How latency and memory grow with the number of pixels N: ``a + b N**p``, with an interval for p.

The unit of evidence is a pass, which measures every size once, in fresh processes and in random order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from effbench.errors import UsageError
from effbench.statistics.percentiles import MIN_ROUNDS
from effbench.statistics.student_t import student_t

Floats = npt.NDArray[np.float64]

MIN_SIZES = 4
"""A fit of three parameters needs three sizes, and a fourth to show a misfit."""

STEEPEST = 4.0
"""No mixer grows faster than N**4; the search ends there."""


@dataclass(frozen=True)
class Law:
    """``a + b (N / N_max)**p``; ``misfit`` is the largest relative distance of a value from it."""

    a: float
    b: float
    p: float
    misfit: float


@dataclass(frozen=True)
class Growth:
    """A law with the 95 % interval of its exponent, or None where there are too few passes for an interval."""

    law: Law
    interval: tuple[float, float] | None
    passes: int


@dataclass(frozen=True)
class Series:
    """One model or part on one target: MACs, latency and memory at each resolution that could be measured.

    ``latency_ms`` and ``memory_bytes`` hold one row per pass; memory is the peak of the whole process. ``failures``
    holds the reason for each missing resolution.
    """

    name: str
    target: str
    order: str
    px: tuple[int, ...]
    macs: tuple[int, ...]
    latency_ms: tuple[tuple[float, ...], ...]
    memory_bytes: tuple[tuple[float, ...], ...]
    trust: str = ""
    failures: dict[int, str] = field(default_factory=dict)

    @property
    def pixels(self) -> tuple[int, ...]:
        """N of each size."""
        return tuple(px * px for px in self.px)

    @property
    def exactly_linear(self) -> bool:
        """Whether the MACs of all sizes are exactly proportional to their pixels."""
        return all(macs * self.pixels[0] == self.macs[0] * n for macs, n in zip(self.macs, self.pixels, strict=True))

    def growth(self, quantity: str) -> Growth | None:
        """Return the law of ``latency`` or ``memory``, or None with too few sizes or no pass."""
        table = self.latency_ms if quantity == "latency" else self.memory_bytes
        return growth(self.pixels, table) if len(self.px) >= MIN_SIZES and table else None


def fit(pixels: Sequence[float], values: Sequence[float]) -> Law:
    """Fit ``a + b N**p`` with a, b >= 0 by least squares of relative errors.

    Args:
        pixels: N of each value; `MIN_SIZES` different ones at least.
        values: Above zero, any unit.

    Raises:
        UsageError: There are too few sizes, or a value is not above zero.
    """
    n, t = np.asarray(pixels, float), np.asarray(values, float)
    if len(set(pixels)) < MIN_SIZES or len(n) != len(t):
        raise UsageError(
            f"{len(set(pixels))} sizes cannot determine a law with three parameters.", hint="Use four or more."
        )
    if not (np.isfinite(t).all() and (t > 0).all()):
        raise UsageError("A latency or memory value is not above zero.")
    x = n / n.max()

    def loss(p: float) -> float:
        return _linear(x**p, t)[2]

    grid = np.linspace(0.02, STEEPEST, 200)
    best = int(np.argmin([loss(p) for p in grid]))
    p = _golden(loss, grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)])
    a, b, _ = _linear(x**p, t)
    return Law(a, b, float(p), float(np.max(np.abs((a + b * x**p) / t - 1))))


def _linear(power: Floats, t: Floats) -> tuple[float, float, float]:
    """Return a, b >= 0 that minimise the sum of ``((a + b power) / t - 1)**2``, and that sum."""
    u, w = 1 / t, power / t
    uu, uw, ww, u1, w1 = u @ u, u @ w, w @ w, u.sum(), w.sum()
    determinant = uu * ww - uw * uw
    a = (u1 * ww - w1 * uw) / determinant if determinant > 1e-12 * uu * ww else -1.0
    b = (w1 * uu - u1 * uw) / determinant if determinant > 1e-12 * uu * ww else -1.0
    if a < 0 or b < 0:
        # At the boundary, the better of the two one-term laws.
        a, b = max(((0.0, w1 / ww), (u1 / uu, 0.0)), key=lambda ab: ab[0] * u1 + ab[1] * w1)
    residual = a * u + b * w - 1
    return float(a), float(b), float(residual @ residual)


def _golden(function: Callable[[float], float], low: float, high: float) -> float:
    share = (math.sqrt(5) - 1) / 2
    for _ in range(40):
        lower, upper = high - share * (high - low), low + share * (high - low)
        low, high = (low, upper) if function(lower) <= function(upper) else (lower, high)
    return (low + high) / 2


def growth(pixels: Sequence[float], passes: Sequence[Sequence[float]], level: float = 0.95) -> Growth:
    """Fit the law to geometric means over passes, with a jackknife interval for p whose unit is the pass.

    The interval covers the variation between passes. Whether a law of this form fits at all is shown by the misfit,
    not by the interval.

    Args:
        pixels: N of each size.
        passes: One value per size from each pass.
        level: The stated coverage.

    Source: Efron and Tibshirani 1993, chapter 11 (the jackknife), with Student's t over pseudo-values.
    """
    table = np.asarray(passes, float)
    law = fit(pixels, np.exp(np.mean(np.log(table), axis=0)))
    count = len(table)
    if count < MIN_ROUNDS:
        return Growth(law, None, count)
    without = [fit(pixels, np.exp(np.mean(np.log(np.delete(table, i, axis=0)), axis=0))).p for i in range(count)]
    pseudo = count * law.p - (count - 1) * np.array(without)
    reach = student_t(0.5 + level / 2, count - 1) * float(np.std(pseudo, ddof=1)) / math.sqrt(count)
    return Growth(law, (law.p - reach, law.p + reach), count)


def ratio(logs: Sequence[float], level: float = 0.95) -> tuple[float, tuple[float, float] | None]:
    """Return the geometric mean of ratios from their logarithms, one per round, with its t-interval."""
    middle = float(np.mean(logs))
    if len(logs) < MIN_ROUNDS:
        return math.exp(middle), None
    reach = student_t(0.5 + level / 2, len(logs) - 1) * float(np.std(logs, ddof=1)) / math.sqrt(len(logs))
    return math.exp(middle), (math.exp(middle - reach), math.exp(middle + reach))
