"""Verdicts on slow models within a minute: generated rounds of as many pairs as the budget allows.

    python benchmarks/gate_slow_models.py [--replicates 2000]

The length of a round follows the agent's rule (`effbench.profiles.paired.PairBounds`): a process start, a first
inference of both sides, and warm-up and pairs until the round has used its part of what is left of the budget.
"""

from __future__ import annotations

import argparse
import math

import numpy as np
from tabulate import tabulate

import gate_pace
from effbench.profiles.paired import FEWEST_PAIRS, MIN_PAIRS, WARMUP_PAIRS, PairBounds, tail
from effbench.statistics.sequential import OUTCOMES
from gate_series import CELLS, Cell, pairs_of

BUDGET_S = 60.0
START_S = 0.7
"""Of a process with its runtime and two models."""

CASES = ((0.17, 0.35), (0.4, 0.48), (0.4, 0.4))
NOISE = ("quiet, 1 %", "AR(1) 0.9", "bimodal clock, 42 %", "round effects, 3 %", "8 % wild rounds")


def length(pair_s: float, round_s: float) -> tuple[int, float]:
    """Return the pairs of a round that may take so long, and its seconds, for a pair of this length."""
    spent_s = START_S + pair_s
    bounds = PairBounds(0.5, target_s=max(0.0, round_s - spent_s), pair_s=pair_s)
    warmup_s, pairs = 0.0, 0
    for _ in range(WARMUP_PAIRS):
        if bounds.warm(warmup_s):
            break
        warmup_s += pair_s
    while not pairs or not bounds.met(pairs, pairs * pair_s, warmup_s):
        pairs += 1
    return pairs, spent_s + warmup_s + pairs * pair_s


def runs(cell: Cell, replicates: int, a_s: float, b_s: float) -> gate_pace.Runs:
    """Run the gate on two models of these latencies."""
    pair_s = a_s + b_s
    rounds = math.ceil(BUDGET_S / length(pair_s, 0.0)[1])
    ratios = pairs_of(cell, replicates, rounds, 1, b_s / a_s - 1, 0.0, MIN_PAIRS)
    counts = range(FEWEST_PAIRS, MIN_PAIRS + 1)
    typical = np.array([np.median(ratios[..., :pairs], axis=-1) for pairs in counts])
    tails = np.array([tail(ratios[..., :pairs]) for pairs in counts])

    def measure(index: int, allowed_s: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        pairs, took_s = np.array([length(pair_s, allowed) for allowed in allowed_s]).T
        row, each = pairs.astype(int) - FEWEST_PAIRS, np.arange(replicates)
        return typical[row, each, index], tails[row, each, index], took_s

    return gate_pace.run(measure, replicates, rounds, BUDGET_S)


def main() -> None:
    """Print the shares of outcomes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicates", type=int, default=2000)
    replicates = parser.parse_args().replicates
    rows = []
    for a_s, b_s in CASES:
        for cell in (cell for cell in CELLS if cell.name in NOISE):
            result = runs(cell, replicates, a_s, b_s)
            shares = [f"{100 * (result.final == code).mean():.2f}" for code in range(len(OUTCOMES))]
            medians = f"{np.median(result.rounds):.0f}", f"{np.median(result.seconds):.0f} s"
            rows.append([f"{1000 * a_s:.0f} -> {1000 * b_s:.0f} ms", cell.name, *medians, *shares])
    print(f"{replicates} runs a cell, {BUDGET_S:g} s each; percent")
    print(tabulate(rows, headers=("latencies", "noise", "rounds", "time", *OUTCOMES), disable_numparse=True))


if __name__ == "__main__":
    main()
