"""Verdicts on slow models within a minute: generated rounds of as many pairs as the budget allows.

    python benchmarks/gate_slow_models.py [--replicates 2000]

The length of a round follows the agent's rule (`effbench.profiles.paired.PairBounds`): a process start, a first
inference of both sides, and warm-up and pairs until the round has used its part of the budget.
"""

from __future__ import annotations

import argparse
import math

import numpy as np
from tabulate import tabulate

from effbench.api.compare.rounds import SPARE_ROUNDS
from effbench.profiles.paired import WARMUP_PAIRS, PairBounds
from effbench.statistics.sequential import OUTCOMES, Rules, outcomes
from gate_series import CELLS, rounds_of

BUDGET_S = 60.0
START_S = 0.7
"""Of a process with its runtime and two models."""

CASES = ((0.17, 0.35), (0.4, 0.48), (0.4, 0.4))
NOISE = ("quiet, 1 %", "AR(1) 0.9", "bimodal clock, 42 %", "round effects, 3 %", "8 % wild rounds")


def length(pair_s: float) -> tuple[int, float]:
    """Return the pairs of a round and its seconds, for a pair of this length."""
    part_s = BUDGET_S / (max(Rules().fewest_rounds()) + SPARE_ROUNDS)
    spent_s = START_S + pair_s
    bounds = PairBounds(0.5, target_s=max(0.0, part_s - spent_s))
    warmup_s, pairs = 0.0, 0
    for _ in range(WARMUP_PAIRS):
        if bounds.warm(warmup_s):
            break
        warmup_s += pair_s
    while not pairs or not bounds.met(pairs, pairs * pair_s, warmup_s):
        pairs += 1
    return pairs, spent_s + warmup_s + pairs * pair_s


def main() -> None:
    """Print the shares of outcomes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicates", type=int, default=2000)
    replicates = parser.parse_args().replicates
    rows = []
    for a_s, b_s in CASES:
        pairs, round_s = length(a_s + b_s)
        rounds = math.ceil(BUDGET_S / round_s)
        for cell in (cell for cell in CELLS if cell.name in NOISE):
            typical, tail = rounds_of(cell, replicates, rounds, 1, b_s / a_s - 1, 0.0, pairs)
            codes, settled = outcomes(typical, tail, Rules())
            last = np.where(settled.any(axis=1), settled.argmax(axis=1), rounds - 1)
            final = codes[np.arange(replicates), last]
            shares = [f"{100 * (final == code).mean():.2f}" for code in range(len(OUTCOMES))]
            rows.append(
                [f"{1000 * a_s:.0f} -> {1000 * b_s:.0f} ms", cell.name, pairs, f"{round_s:.1f}", rounds, *shares]
            )
    print(f"{replicates} runs a cell, {BUDGET_S:g} s each; percent")
    header = ("latencies", "noise", "pairs", "round, s", "rounds", *OUTCOMES)
    print(tabulate(rows, headers=header, disable_numparse=True))


if __name__ == "__main__":
    main()
