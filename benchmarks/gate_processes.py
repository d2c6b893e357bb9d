"""Candidates that are twice as slow in a share of their processes: how often the gate calls them unchanged.

    python benchmarks/gate_processes.py [--replicates 3000]

Rounds with a spread of 0.6 % (typical) and 2 % (tail); nothing else differs between the sides. A minute holds about 30
rounds of a model of 50 ms.
"""

from __future__ import annotations

import argparse
import math

import numpy as np
from tabulate import tabulate

from effbench.statistics.sequential import OUTCOMES, Rules, outcomes

CASES = ((30, 23), (60, 23), (60, 50))
SHARES = (0.0, 0.05, 0.1, 0.2, 0.4)
SPREAD = 0.006
TAIL_SPREAD = 0.02


def final(share: float, rounds: int, rules: Rules, replicates: int, seed: int) -> tuple[np.ndarray, float]:
    """Return the outcome of each run at the round in which it stops, and the median number of rounds."""
    rng = np.random.default_rng(seed)
    slow = math.log(2) * (rng.random((replicates, rounds)) < share)
    typical = slow + SPREAD * rng.standard_normal((replicates, rounds))
    tail = typical + TAIL_SPREAD * rng.standard_normal((replicates, rounds))
    codes, settled = outcomes(typical, tail, rules)
    last = np.where(settled.any(axis=1), settled.argmax(axis=1), rounds - 1)
    return codes[np.arange(replicates), last], float(np.median(last)) + 1


def main() -> None:
    """Print the shares of outcomes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicates", type=int, default=3000)
    replicates = parser.parse_args().replicates
    rows = []
    for index, (rounds, processes) in enumerate(CASES):
        for share in SHARES:
            codes, median = final(
                share, rounds, Rules(processes=processes), replicates, 100 * index + round(100 * share)
            )
            shown = [f"{100 * (codes == code).mean():.2f}" for code in range(len(OUTCOMES))]
            rows.append([rounds, processes, f"{share:.0%}", *shown, f"{median:.0f}"])
    print(f"{replicates} runs a cell; percent")
    header = ("rounds", "--processes", "slow processes", *OUTCOMES, "median rounds")
    print(tabulate(rows, headers=header, disable_numparse=True))


if __name__ == "__main__":
    main()
