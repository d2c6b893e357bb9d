"""Bets on the rounds of a comparison: wealth that cannot grow on average while a hypothesis holds.

Against every hypothesis "the true log ratio is at most m" a bettor stakes a share of the wealth on each round being
above m. The payoff is a bounded, odd, increasing function of the distance, and a round's log ratio is symmetric about
the true one, so the wealth cannot grow on average if the hypothesis holds. By Ville's inequality it exceeds 1/alpha at
any time with probability alpha at most; the values m that have not been rejected form a confidence sequence.

Source: Waudby-Smith and Ramdas 2024, "Estimating means of bounded random variables by betting", JRSS B 86:1; the
betting on signs of symmetric variables goes back to de la Pena 1999, Annals of Probability 27:537; Howard, Ramdas,
McAuliffe and Sekhon 2021, Annals of Statistics 49:1055, for confidence sequences.

Numpy and the standard library only.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

STAKE = 0.9
"""The share of the wealth that is bet: of 0.85 to 0.98 the value with the most power at +5 % with outlier rounds."""

FIRST_SCALE = 0.005
"""The payoff's scale for the first `LEARNED` rounds: two loads of one model differ by about 0.5 %."""

LEARNED = 3
SMALLEST_SCALE = 0.001

TO_SIGMA = 1.4826
"""From the median absolute deviation to the standard deviation of a normal distribution."""

Payoff = Callable[[Floats], Floats]
"""From a round's distance to the hypothesis, shape (..., n), to a payoff between -1 and 1: odd and increasing."""


def scales(rounds: Floats) -> Floats:
    """Return the payoff's scale for each round, from earlier rounds only: their robust standard deviation.

    Args:
        rounds: Log ratios, shape (..., n); the leading axes are replays.
    """
    result = np.full(rounds.shape, FIRST_SCALE)
    for index in range(LEARNED, rounds.shape[-1]):
        result[..., index] = np.maximum(SMALLEST_SCALE, robust_deviation(rounds[..., :index]))
    return result


def robust_deviation(values: Floats) -> Floats:
    """Return the robust standard deviation along the last axis."""
    deviation = np.abs(values - np.median(values, axis=-1, keepdims=True))
    return np.asarray(TO_SIGMA * np.median(deviation, axis=-1))


def by_distance(scale: Floats) -> Payoff:
    """Return the payoff that grows with the distance up to the scale of the rounds, and is constant beyond it."""
    return lambda distance: np.clip(distance / scale, -1, 1)


def by_sign_beyond(size: float) -> Payoff:
    """Return the payoff that is the sign of a distance larger than ``size``, and zero for all others."""
    return lambda distance: np.sign(distance) * (np.abs(distance) > size)


def log_wealth(rounds: Floats, m: float, payoff: Payoff) -> Floats:
    """Return, after each round, the log of the largest wealth so far of a bet against "the log ratio is at most m".

    Args:
        rounds: Log ratios, shape (..., n).
        m: The hypothesis; negate both rounds and m for "at least m".
        payoff: Of the distances; it may depend on earlier rounds only.
    """
    # The running maximum, because Ville's inequality holds for the wealth at any time.
    return np.maximum.accumulate(np.cumsum(np.log1p(STAKE * payoff(rounds - m)), axis=-1), axis=-1)


def fewest_rounds(alpha: float) -> int:
    """Return the number of rounds that reject a hypothesis at error alpha if the bet wins each time."""
    return math.ceil(-math.log(alpha) / math.log1p(STAKE))


def lower_bound(rounds: Floats, alpha: float, payoff: Payoff, reach: float) -> float:
    """Return the largest rejected hypothesis m, by bisection; minus infinity if none is rejected.

    Args:
        rounds: Log ratios of one run, shape (n,).
        alpha: The error probability.
        payoff: As in `log_wealth`.
        reach: A distance at which the payoff is 1.
    """
    threshold = -math.log(alpha)

    def rejected(m: float) -> bool:
        return bool(log_wealth(rounds, m, payoff)[-1] >= threshold)

    below, above = float(rounds.min() - 2 * reach), float(rounds.max())
    if not rejected(below):
        return -math.inf
    for _ in range(60):
        middle = (below + above) / 2
        below, above = (middle, above) if rejected(middle) else (below, middle)
    return below
