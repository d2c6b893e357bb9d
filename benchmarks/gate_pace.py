"""Whole verdicts on simulated or recorded rounds whose lengths follow the gate's own rule, round by round."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from effbench.statistics.planning import round_seconds
from effbench.statistics.sequential import Rules, outcomes

Floats = npt.NDArray[np.float64]

Measure = Callable[[int, Floats], tuple[Floats, Floats, Floats]]
"""From a round's index and the seconds it may take, (replays,), to its typical and tail log ratio and its seconds."""


@dataclass(frozen=True)
class Runs:
    """Runs of the gate: each one's outcome (an index into `OUTCOMES`), its seconds and its rounds, (replays,) each."""

    final: npt.NDArray[np.int64]
    seconds: Floats
    rounds: npt.NDArray[np.int64]


def run(measure: Measure, replays: int, rounds: int, budget_s: float, rules: Rules | None = None) -> Runs:
    """Run the gate on rounds whose length is fitted to the budget.

    Args:
        measure: Gives the next round of every run.
        replays: Independent runs.
        rounds: At most, in each.
        budget_s: Of each.
        rules: Of the verdict.
    """
    rules = rules or Rules()
    typical, tail, took_s = (np.zeros((replays, rounds)) for _ in range(3))
    for index in range(rounds):
        spent_s = took_s[:, :index].sum(axis=1)
        allowed_s = round_seconds((typical[:, :index], tail[:, :index]), spent_s, budget_s, rules)
        typical[:, index], tail[:, index], took_s[:, index] = measure(index, allowed_s)
    clock = np.cumsum(took_s, axis=1)
    codes, settled = outcomes(typical, tail, rules)
    # A round that begins within the budget is finished.
    over = np.where((clock >= budget_s).any(axis=1), np.argmax(clock >= budget_s, axis=1), rounds - 1)
    settled |= np.arange(rounds) >= over[:, None]
    last = settled.argmax(axis=1)
    each = np.arange(replays)
    return Runs(codes[each, last], clock[each, last], last + 1)
