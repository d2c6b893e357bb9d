"""How many processes of a comparison were slower by more than the margin, and how large their share may be.

A candidate may be twice as slow in one process of ten (where its memory is placed, which core it gets) and equal in the
others. Its median over rounds shows nothing. So *unchanged* also needs that the share of such processes is bounded.

Numpy and the standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from effbench.statistics.betting import LEARNED, SMALLEST_SCALE, Floats, robust_deviation
from effbench.statistics.proportions import clopper_pearson

MISSED = 0.10
"""The probability that *unchanged* is said, at any round, of a candidate with the share of slow processes that is to be
excluded. The default of 23 processes excludes a share of 10 %."""

MISSED_AT_FIRST = 0.0887
"""The part of it that is spent at the first opportunity, without one slow process: 0.9 ** 23. The rest allows one slow
process among about 54, two among about 75, and so on."""

NOISE_DEVIATIONS = 3.0
"""A process is slow if its ratio exceeds the margin by more robust deviations of the rounds than this: noise alone
carries a process of an equal candidate beyond the margin, about once in 250 rounds on the machines recorded."""

LEVEL = 0.95


@dataclass(frozen=True)
class SlowProcesses:
    """The rounds, each with fresh processes, in which B was slower or faster by more than the margin and the noise.

    ``beyond`` is the log ratio above which a process counts.
    """

    rounds: int
    slow: int
    fast: int
    beyond: float

    @property
    def share(self) -> tuple[float, float]:
        """The interval of the share of slow processes, 95 % (Clopper-Pearson); one-sided if none was slow."""
        return clopper_pearson(self.slow, self.rounds, LEVEL if self.slow else 2 * LEVEL - 1)


def slow_processes(typical: Floats, margin: float) -> SlowProcesses:
    """Count the slow processes of one run.

    Args:
        typical: Log ratios of the typical latency, one per round.
        margin: As a log ratio.
    """
    beyond = float(_beyond(typical, margin))
    return SlowProcesses(len(typical), int((typical > beyond).sum()), int((typical < -beyond).sum()), beyond)


def _beyond(typical: Floats, margin: float) -> Floats:
    return margin + NOISE_DEVIATIONS * np.maximum(SMALLEST_SCALE, robust_deviation(typical))


def bounded(typical: Floats, margin: float, processes: int) -> npt.NDArray[np.bool_]:
    """Return after each round whether the shares of slow and of fast processes are both bounded.

    Args:
        typical: Log ratios, shape (..., n).
        margin: As a log ratio.
        processes: As many are needed if none was slow.
    """
    result = np.zeros(typical.shape, bool)
    allowed = most_slow(typical.shape[-1], processes)
    for count in range(max(processes, LEARNED), typical.shape[-1] + 1):
        past = typical[..., :count]
        beyond = _beyond(past, margin)[..., None]
        most = np.maximum((past > beyond).sum(axis=-1), (past < -beyond).sum(axis=-1))
        result[..., count - 1] = most <= allowed[count - 1]
    return result


@cache
def most_slow(rounds: int, processes: int) -> tuple[int, ...]:
    """Return after each round how many processes may have been slow for their share to be bounded; -1 for none yet.

    The share that is excluded is the one at which ``processes`` processes without a slow one have probability
    `MISSED_AT_FIRST`. The number allowed rises as soon as the probability of stopping at any round so far, at that
    share, stays below `MISSED`: a share bounded by repeated looks needs more than a Clopper-Pearson interval each time.
    """
    share = 1 - MISSED_AT_FIRST ** (1 / processes)
    allowed, spent = -1, 0.0
    running = np.zeros(rounds + 2)
    running[0] = 1.0
    result = []
    for count in range(1, rounds + 1):
        running = (1 - share) * running + share * np.concatenate(([0.0], running[:-1]))
        # Each further slow process may use half of what is left.
        limit = MISSED_AT_FIRST + 1e-9 if allowed < 0 else spent + (MISSED - spent) / 2
        if spent + running[allowed + 1] <= limit and count >= processes:
            allowed += 1
        spent += float(running[: allowed + 1].sum())
        running[: allowed + 1] = 0.0
        result.append(allowed)
    return tuple(result)
