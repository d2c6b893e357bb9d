"""What a time budget can show: the plan of a comparison from its first rounds, and whether a verdict is in reach.

Numpy and the standard library only.
"""

from __future__ import annotations

import math

import numpy as np

from effbench.statistics.betting import FIRST_SCALE, Floats
from effbench.statistics.sequential import INCONCLUSIVE, SLOWER, UNCHANGED, Rules, outcomes
from effbench.statistics.verdict import TimePlan

SLOWDOWNS_PCT = (3.0, 5.0, 10.0, 20.0)

POWER = 0.95
"""The share of runs that find a slowdown within the time that a plan names."""

CALM = 0.9
"""The share of runs on equal sides that are *unchanged* within the time that a plan names."""

REPLAYS = 100
LONGEST = 90
"""Rounds of a replay; a verdict that needs more has no time in the plan."""

LEANING = 1.5
"""The sides seem to differ if the median of the typical ratios so far exceeds the floor by this factor."""

SLACK = 1.5
"""Sides that differ get this many times the fewest rounds that prove it, since not every round agrees."""

PRIOR_ROUNDS = 3
"""A few rounds may agree by chance, so that their spread counts together with this many of the usual one."""

USUAL_SPREAD = (FIRST_SCALE, 0.02)
"""Of the typical ratio and of the tail, on an idle machine."""


def plan(typical: Floats, tail: Floats, seconds_per_round: float, rules: Rules, comparisons: int = 1) -> TimePlan:
    """Return how long verdicts take with rounds of this spread and length.

    Args:
        typical: Log ratios of the typical latency of the rounds so far.
        tail: Those of the tail.
        seconds_per_round: The mean time of a round.
        rules: Floor, margin, error probability.
        comparisons: How many comparisons share the error probability.
    """
    rng = np.random.default_rng(0)
    noise = [
        _spread(rounds, usual) * rng.standard_normal((REPLAYS, LONGEST))
        for rounds, usual in zip((typical, tail), USUAL_SPREAD, strict=True)
    ]

    def seconds(pct: float, code: int, share: float) -> float | None:
        shift = math.log1p(pct / 100)
        codes, settled = outcomes(noise[0] + shift, noise[1] + shift, rules, comparisons)
        reached = (codes == code) & settled
        first = np.where(reached.any(axis=1), reached.argmax(axis=1) + 1.0, np.inf)
        rounds = float(np.quantile(first, share, method="higher"))
        return rounds * seconds_per_round if math.isfinite(rounds) else None

    return TimePlan(
        rounds=len(typical),
        seconds_per_round=round(seconds_per_round, 3),
        slower_s={f"{pct:g}": seconds(pct, SLOWER, POWER) for pct in SLOWDOWNS_PCT},
        unchanged_s=seconds(0.0, UNCHANGED, CALM),
    )


def round_seconds(
    ratios: tuple[Floats, Floats], spent_s: Floats, budget_s: float, rules: Rules, comparisons: int = 1
) -> Floats:
    """Return how long the next round may take, beyond which it gets fewer pairs.

    Equal sides need many processes, so that their rounds have to be short where the budget is; sides that differ need
    fewer, longer rounds. The length depends on earlier rounds only, so that the bets stay fair.

    Args:
        ratios: Log ratios of the typical latency and of the tail of the rounds so far, shape (..., n); n may be 0.
        spent_s: The seconds that they took, shape (...,).
        budget_s: Of the comparison.
        rules: Floor, margin, error probability.
        comparisons: How many comparisons share the error probability.

    Returns:
        Seconds, shape (...,), at least 0.
    """
    slower, unchanged = rules.fewest_rounds(comparisons)
    count = ratios[0].shape[-1]
    unequal = np.array(True)
    if count >= PRIOR_ROUNDS:
        typical, tail = (np.abs(np.median(rounds, axis=-1)) for rounds in ratios)
        unequal = np.asarray((typical > LEANING * rules.floor) | (tail > rules.margin))
    needed = np.where(unequal, SLACK * slower, unchanged)
    # One is to spare: a round takes a little longer than it may.
    return np.asarray(np.maximum(0.0, budget_s - spent_s) / np.maximum(1, needed - count + 1))


def _spread(rounds: Floats, usual: float) -> float:
    deviations = rounds - np.median(rounds)
    variance = (PRIOR_ROUNDS * usual**2 + float(deviations @ deviations)) / (PRIOR_ROUNDS + len(rounds) - 1)
    return math.sqrt(variance)


def in_reach(typical: Floats, tail: Floats, more: int, rules: Rules, comparisons: int = 1) -> bool:
    """Return whether any verdict is possible within so many more rounds, were they as clear as can be."""
    if more >= LONGEST:
        return True
    for ratio in (10.0, -10.0, 0.0):
        clear = np.full(more, ratio)
        codes, _ = outcomes(np.append(typical, clear), np.append(tail, clear), rules, comparisons)
        if (codes[len(typical) :] != INCONCLUSIVE).any():
            return True
    return False
