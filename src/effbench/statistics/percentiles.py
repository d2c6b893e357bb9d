"""Percentiles of latency, their intervals, and throughput; the independent unit is the round.

A measurement is R rounds (fresh processes), round i with its own distribution F_i. Two kinds of percentiles:

- that of the *mixture* F(q) = mean of F_i(q), in which each round has equal weight however many samples it holds
  (`estimate`): p50 is reported so. A p90 of the mixture depends on the slowest tenth of the processes, and R rounds
  bound it from above only if R of them would show such a process: its interval is open below 35 rounds;
- that of a *typical process*, the median over processes of their own percentiles (`typical`): p90 is reported so, with
  the share of processes that are slower than the typical one (`slow_processes`).

Samples of a round depend on each other; rounds are independent, and the intervals are based on the differences between
rounds only.

Numpy and the standard library only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from effbench.errors import UsageError
from effbench.statistics.proportions import clopper_pearson
from effbench.statistics.student_t import student_t

MIN_ROUNDS = 6
"""Fewer rounds give no interval: with five, even the extremes of the rounds enclose a median less than 95 times in 100
(1 - 2 / 2**5 = 0.94)."""

MIN_BEYOND = 10
"""A percentile is supported if this many samples are beyond it on its thinner side: 20 samples for p50, 100 for p90,
1000 for p99. With fewer, a handful of interruptions decides its value."""

SLOW_PCT = 5.0
"""A process counts as slow if its median exceeds that of the typical process by more than this."""

MIN_INDEPENDENT = 4.0
"""The p90 of a typical process is bounded from above only if this many samples beyond it are independent: those of a
round that hardly changes within it say little about its slow end."""

_ROUNDING = 1e-9

Rounds = Sequence[Sequence[int] | npt.NDArray[np.int64] | npt.NDArray[np.float64]]


@dataclass(frozen=True)
class Estimate:
    """A percentile of the mixture over rounds, in the unit of the samples; its interval needs `MIN_ROUNDS` rounds."""

    value: float
    interval: tuple[float, float] | None

    @property
    def relative_half_width(self) -> float | None:
        """Half the interval's width over the value, or None without an interval."""
        return None if self.interval is None else (self.interval[1] - self.interval[0]) / (2 * self.value)


@dataclass(frozen=True)
class _Mixture:
    """The pooled samples in ascending order; at each, the mean of the F_i and its standard error over rounds."""

    values: npt.NDArray[np.float64]
    cdf: npt.NDArray[np.float64]
    error: npt.NDArray[np.float64]


def supported(rounds: Rounds, p: float) -> bool:
    """Return whether enough samples are beyond a percentile for it to be reported (`MIN_BEYOND`)."""
    return sum(len(samples) for samples in rounds) * min(p, 1 - p) >= MIN_BEYOND - _ROUNDING


def quantile(rounds: Rounds, p: float) -> float | None:
    """Return the p-quantile of the mixture over rounds, or None if there are too few samples for it.

    Raises:
        UsageError: There is no sample, or p is not strictly between 0 and 1.
    """
    result = estimate(rounds, p)
    return None if result is None else result.value


def interval(rounds: Rounds, p: float, level: float = 0.95) -> tuple[float, float] | None:
    """Return the confidence interval of a quantile; None with fewer than `MIN_ROUNDS` rounds or too few samples."""
    result = estimate(rounds, p, level)
    return None if result is None else result.interval


def estimate(rounds: Rounds, p: float, level: float = 0.95) -> Estimate | None:
    """Estimate the p-quantile of the mixture over rounds, with a confidence interval whose unit is the round.

    The interval is the hull of two:

    - all q for which a t-test on the R numbers F_i(q) does not reject that their mean is p. It assumes nothing about
      the shape of the samples or their dependence inside a round;
    - on the thin side of the percentile (both sides for p50), the delta-method interval of a normal quantile on the
      log scale, value * exp(t s sqrt((1 + z**2 / 2) / R)), with s the standard deviation of the rounds' own
      p-quantiles. Where rounds differ more than the samples within them, ten rounds hold no observation beyond their
      p90, and no test on F_i bounds it; this interval does.

    - above p50, the smallest q at which Clopper and Pearson's lower bound, with F_i(q) as a share of a success in round
      i, exceeds p. Where whole processes are slow, F_i(q) is 0 or 1, and no other interval here covers. It is infinite,
      and the interval open, while all R rounds are too few: below 35 rounds for p90, 368 for p99.

    Of the candidates tried (Woodruff, Korn-Graubard, jackknife over rounds, t on the rounds' quantiles, and hulls of
    these) it is the shortest that covers in every cell of ``benchmarks/coverage.py``.

    Source: Woodruff 1952, JASA 47:635; Francisco and Fuller 1991, Annals of Statistics 19:454 (inversion of a test on
    the distribution function under cluster sampling); Serfling 1980, section 2.6, for the normal quantile.

    Args:
        rounds: The samples of each round, all above zero, any length above zero.
        p: The quantile's level, between 0 and 1.
        level: The stated coverage.

    Raises:
        UsageError: There is no sample, a sample is not above zero, or p or level is not strictly between 0 and 1.
    """
    _check(rounds, p, level)
    if not supported(rounds, p):
        return None
    mixture = _mix(rounds)
    value = _at(mixture, p)
    if len(rounds) < MIN_ROUNDS:
        return Estimate(value, None)
    low, high = _hull(mixture, rounds, p, level)
    if p > 0.5:
        high = max(high, _upper(mixture, len(rounds), p, level))
    return Estimate(value, (min(low, value), max(high, value)))


def typical(rounds: Rounds, p: float, level: float = 0.95) -> Estimate | None:
    """Estimate the p-quantile of a typical process: the median over processes of their own p-quantiles.

    The interval is the hull of two: the order statistics of the rounds' own quantiles (a sign test of their median,
    exact for any distribution of processes), and the interval of `estimate` over the processes that are not slow, which
    covers where a round holds too few samples for its own quantile to be unbiased. Its upper end is infinite with fewer
    than `MIN_INDEPENDENT` independent samples beyond the quantile.

    Args:
        rounds: The samples of each round, all above zero.
        p: The quantile's level, at least 0.5.
        level: The stated coverage.

    Raises:
        UsageError: As for `estimate`.
    """
    _check(rounds, p, level)
    if not supported(rounds, p):
        return None
    own = np.sort([_at(_mix([samples]), p) for samples in rounds])
    value = float(np.median(own))
    if len(rounds) < MIN_ROUNDS:
        return Estimate(value, None)
    rank = sign_rank(len(rounds), level)
    low, high = float(own[rank]), float(own[-1 - rank])
    usual = [samples for samples, slow in zip(rounds, _is_slow(rounds), strict=True) if not slow]
    if len(usual) >= MIN_ROUNDS and supported(usual, p):
        mixture = _mix(usual)
        others = _hull(mixture, usual, p, level)
        low, high = min(low, others[0]), max(high, others[1])
    if _independent(rounds) * (1 - p) < MIN_INDEPENDENT:
        high = math.inf
    return Estimate(value, (min(low, value), max(high, value)))


@dataclass(frozen=True)
class SlowShare:
    """How many of the processes were slower than the typical one by more than `SLOW_PCT`.

    ``interval`` is that of their share among all processes (Clopper-Pearson, 95 %).
    """

    slow: int
    count: int
    interval: tuple[float, float]


def slow_processes(rounds: Rounds, level: float = 0.95) -> SlowShare:
    """Return how many processes were slow; one-sided if none was."""
    slow, count = int(_is_slow(rounds).sum()), len(rounds)
    return SlowShare(slow, count, clopper_pearson(slow, count, level if slow else 2 * level - 1))


def _is_slow(rounds: Rounds) -> npt.NDArray[np.bool_]:
    medians = np.array([float(np.median(samples)) for samples in rounds])
    return np.asarray(medians > (1 + SLOW_PCT / 100) * np.median(medians))


def sign_rank(count: int, level: float) -> int:
    """Return how many order statistics at each end the sign test's interval of a median leaves out; -1 for too few."""
    below, rank = 0.0, 0
    while True:
        below += math.comb(count, rank) / 2**count
        if 2 * below > 1 - level:
            return rank - 1
        rank += 1


def _independent(rounds: Rounds) -> float:
    """Return the effective number of samples, from the correlation of neighbors within rounds.

    Source: Kendall 1954, Biometrika 41:403 (bias of the correlation in short series).
    """
    products = squares = samples = 0.0
    for series in rounds:
        values = np.log(np.asarray(series, dtype=np.float64))
        values = values - values.mean()
        products += float(values[1:] @ values[:-1])
        squares += float(values @ values)
        samples += len(values)
    raw = products / squares if squares > _ROUNDING**2 * samples else 0.0
    correlation = min(0.999, max(0.0, raw + (1 + 3 * raw) * len(rounds) / samples))
    return samples * (1 - correlation) / (1 + correlation)


def images_per_second(rounds: Rounds, batch: int) -> float:
    """Return the throughput: images processed over the time their inferences took, all rounds together.

    It is the mean rate, so that slow inferences count by the time they took. ``batch / p50`` is another quantity: it
    says how fast a typical inference is and ignores the slow ones.

    Args:
        rounds: The samples of each round, nanoseconds; the pauses of a paced run are no part of them.
        batch: Images per inference.
    """
    inferences = sum(len(samples) for samples in rounds)
    total_ns = sum(float(np.sum(samples)) for samples in rounds)
    return batch * inferences / (total_ns / 1e9)


def _check(rounds: Rounds, p: float, level: float) -> None:
    if not (0 < p < 1 and 0 < level < 1):
        raise UsageError(f"A quantile of {p} at level {level}: both must be strictly between 0 and 1.")
    if not rounds or any(len(samples) == 0 for samples in rounds):
        raise UsageError("A quantile needs at least one round, and at least one sample in each.")
    if min(float(np.min(samples)) for samples in rounds) <= 0:
        raise UsageError("A sample is not above zero, as a latency must be.")


def _mix(rounds: Rounds) -> _Mixture:
    """Pool the rounds.

    The j-th smallest of a round's n samples lifts F_i by 1/n and F_i**2 by (2j - 1)/n**2, so that the mean and the
    variance of the F_i after every pooled sample are two running sums: no R x N table is built.
    """
    ordered = [np.sort(np.asarray(samples, dtype=np.float64)) for samples in rounds]
    values = np.concatenate(ordered)
    first = np.concatenate([np.full(len(samples), 1 / len(samples)) for samples in ordered])
    second = np.concatenate([(2 * np.arange(1, len(samples) + 1) - 1) / len(samples) ** 2 for samples in ordered])
    order = np.argsort(values, kind="stable")
    count = len(ordered)
    cdf = np.cumsum(first[order]) / count
    variance = np.maximum(np.cumsum(second[order]) / count - cdf**2, 0)
    # R - 1 degrees of freedom, and the mean of R rounds has 1/R of their variance.
    return _Mixture(values[order], cdf, np.sqrt(variance / max(count - 1, 1)))


def _at(mixture: _Mixture, p: float) -> float:
    # The mean of two neighbours if the CDF equals p between them, as in the usual median.
    last = len(mixture.values) - 1
    indices = np.searchsorted(mixture.cdf, [p - _ROUNDING, p + _ROUNDING])
    return float(mixture.values[np.minimum(indices, last)].mean())


def _invert(mixture: _Mixture, p: float, t: float) -> tuple[float, float]:
    """Return the hull of all q at which a t-test on the F_i(q) does not reject the mean p."""
    accepted = np.abs(mixture.cdf - p) <= t * mixture.error
    # Within a tie F is undefined: only its last sample counts.
    accepted[:-1] &= mixture.values[1:] != mixture.values[:-1]
    indices = np.flatnonzero(accepted)
    if not len(indices):
        return _at(mixture, p), _at(mixture, p)
    # F is constant up to the next sample, so that every q up to it is accepted too.
    return float(mixture.values[indices[0]]), float(mixture.values[min(indices[-1] + 1, len(mixture.values) - 1)])


def _hull(mixture: _Mixture, rounds: Rounds, p: float, level: float) -> tuple[float, float]:
    """Return the hull of the t-test's interval and that of a normal quantile, for rounds that differ moderately."""
    value = _at(mixture, p)
    t = student_t(0.5 + level / 2, len(rounds) - 1)
    low, high = _invert(mixture, p, t)
    factor = math.exp(t * _normal_error(rounds, p))
    return (min(low, value / factor) if p <= 0.5 else low), (max(high, value * factor) if p >= 0.5 else high)


def _upper(mixture: _Mixture, rounds: int, p: float, level: float) -> float:
    """Return the smallest q at which the lower bound of the mean F(q) exceeds p; infinity if no q reaches it."""
    needed = _fewest_successes(rounds, p, level)
    if needed is None:
        return math.inf
    index = int(np.searchsorted(mixture.cdf, needed / rounds - _ROUNDING))
    return float(mixture.values[min(index, len(mixture.values) - 1)])


@cache
def _fewest_successes(rounds: int, p: float, level: float) -> int | None:
    counts = (count for count in range(math.ceil(p * rounds), rounds + 1))
    # 0.9 ** 35 is 0.02503, which counts as 0.025.
    return next((count for count in counts if clopper_pearson(count, rounds, level)[0] > p - 1e-4), None)


def _normal_error(rounds: Rounds, p: float) -> float:
    logs = [math.log(_at(_mix([samples]), p)) for samples in rounds]
    z = NormalDist().inv_cdf(p)
    return float(np.std(logs, ddof=1)) * math.sqrt((1 + z * z / 2) / len(rounds))
