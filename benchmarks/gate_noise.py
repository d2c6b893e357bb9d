"""What `gate --measure-noise` promises, on simulated machines: the bound on false alarms, and +3 % afterwards.

    python benchmarks/gate_noise.py [--machines 200] [--replicates 2000]

A simulated machine gives a round's log ratio a side effect of a stated spread and correlation between rounds. Each is
measured with 75 rounds; the promise is compared with the share of false alarms of many runs of 30 rounds there.
"""

from __future__ import annotations

import argparse
import math

import numpy as np
from tabulate import tabulate

from effbench.api.compare import noise
from effbench.statistics.bias import persistent
from effbench.statistics.proportions import wilson
from effbench.statistics.sequential import FASTER, SLOWER, Rules, outcomes

ROUNDS, RUN = 75, 30
TAIL = 0.02
MACHINES = {"1 %, independent": (0.01, 0.0), "3 %, independent": (0.03, 0.0), "3 %, AR .5": (0.03, 0.5),
            "3 %, AR .9": (0.03, 0.9)}  # fmt: skip


def effects(rng: np.random.Generator, spread: float, correlation: float, shape: tuple[int, int]) -> np.ndarray:
    """Return side effects of rounds: a stationary first-order autoregression along the last axis."""
    values = rng.standard_normal(shape)
    for index in range(1, shape[1]):
        values[:, index] = correlation * values[:, index - 1] + math.sqrt(1 - correlation**2) * values[:, index]
    return spread * values


def stopped(typical: np.ndarray, rng: np.random.Generator, rules: Rules) -> np.ndarray:
    """Return the outcomes of runs at the rounds in which they stop."""
    codes, settled = outcomes(typical, typical + TAIL * rng.standard_normal(typical.shape), rules)
    last = np.where(settled.any(axis=1), settled.argmax(axis=1), typical.shape[1] - 1)
    final: np.ndarray = codes[np.arange(len(codes)), last]
    return final


def main() -> None:
    """Print a row per machine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--machines", type=int, default=200)
    parser.add_argument("--replicates", type=int, default=2000)
    options = parser.parse_args()
    noise.REPLAYS = 400
    rows = []
    for name, (spread, correlation) in MACHINES.items():
        rng = np.random.default_rng([round(1000 * spread), round(10 * correlation)])
        alarms = stopped(effects(rng, spread, correlation, (options.replicates, RUN)), rng, Rules())
        truth = float(np.isin(alarms, (SLOWER, FASTER)).mean())
        slower_runs = math.log1p(0.03) + effects(rng, spread, correlation, (options.replicates, RUN))
        verdicts = stopped(slower_runs, rng, Rules())
        held = unbounded = lifted = 0
        after = []
        for measured in effects(rng, spread, correlation, (options.machines, ROUNDS)):
            bias = persistent(measured)
            raised = noise.raise_floor(Rules(), bias.floor_pct)
            tail = measured + TAIL * rng.standard_normal(ROUNDS)
            ends = (bias.low, bias.high)
            worst = max(noise.false_alarms(measured - bias.center + end, tail, raised, RUN) for end in ends)
            unbounded += bias.dependent
            held += bias.dependent or wilson(worst, noise.REPLAYS)[1] >= truth
            lifted += bias.floor_pct > 1
            shifted = math.log1p(0.03) + effects(rng, spread, correlation, (20, RUN))
            after.append((stopped(shifted, rng, raised) == SLOWER).mean())
        rows.append([name, f"{100 * truth:.2f}", f"{100 * held / options.machines:.1f}",
                     f"{100 * unbounded / options.machines:.1f}", f"{100 * lifted / options.machines:.1f}",
                     f"{100 * (verdicts == SLOWER).mean():.1f}", f"{100 * np.mean(after):.1f}"])  # fmt: skip
    print(f"{options.machines} measurements of {ROUNDS} rounds, {options.replicates} runs of {RUN}; percent")
    header = ("machine", "false alarms", "promise holds", "no bound given", "floor lifted", "+3 % before", "+3 % after")
    print(tabulate(rows, headers=header, disable_numparse=True))


if __name__ == "__main__":
    main()
