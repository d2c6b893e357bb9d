"""Coverage of the stated intervals on simulated series: AR(1) x round effect x skewed noise, 10 and 20 rounds.

A sample is ``exp(b_i) * (1 + scale * exp(0.8 z_ij))``: b_i is normal with the round effect as its standard deviation,
z_ij is AR(1) with unit variance inside a round. So noise is lognormal above a floor, as in latencies. The true quantile
is that of the mixture, by Gauss-Hermite quadrature over b.

    python benchmarks/coverage.py [--replicates 2000] [--scale 0.02] [--percentile 0.5 0.9]
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from effbench.statistics import percentiles

SHAPE = 0.8
CORRELATIONS = (0.0, 0.5, 0.9)
EFFECTS = (0.0, 0.01, 0.03)
ROUNDS = (10, 20)
SAMPLES = (20, 200)
TARGETS = {0.5: 0.93, 0.9: 0.90}


@dataclass(frozen=True)
class Process:
    """Parameters of a series: rounds, samples a round, correlation, round effect, and the scale of the noise."""

    rounds: int
    samples: int
    correlation: float
    effect: float
    scale: float

    def draw(self, rng: np.random.Generator) -> list[npt.NDArray[np.float64]]:
        """Draw one measurement: an array of samples for each round."""
        z = rng.standard_normal((self.samples, self.rounds))
        fresh = math.sqrt(1 - self.correlation**2)
        for j in range(1, self.samples if self.correlation else 0):
            z[j] = self.correlation * z[j - 1] + fresh * z[j]
        effect = np.exp(self.effect * rng.standard_normal(self.rounds))
        return list((effect * (1 + self.scale * np.exp(SHAPE * z))).T)

    def quantile(self, p: float) -> float:
        """Return the true p-quantile of the mixture over all possible rounds."""
        nodes, weights = np.polynomial.hermite_e.hermegauss(101)
        levels, shares = np.exp(self.effect * nodes), weights / weights.sum()
        low, high = 0.5, 2.0 + 100 * self.scale
        for _ in range(80):
            q = (low + high) / 2
            below = sum(share * self._cdf(q / level) for share, level in zip(shares, levels, strict=True))
            low, high = (q, high) if below < p else (low, q)
        return (low + high) / 2

    def _cdf(self, relative: float) -> float:
        excess = (relative - 1) / self.scale
        return 0.5 * math.erfc(-math.log(excess) / SHAPE / math.sqrt(2)) if excess > 0 else 0.0


def coverage(process: Process, p: float, replicates: int, seed: int = 0) -> tuple[float, float, float, float]:
    """Return the shares of intervals that cover the true quantile, are above it and below it, and their mean width.

    The width is relative to the true quantile.
    """
    rng, truth = np.random.default_rng(seed), process.quantile(p)
    above = below = width = 0.0
    for _ in range(replicates):
        interval = percentiles.interval(process.draw(rng), p)
        assert interval is not None, "a cell without enough rounds and samples for an interval is skipped"
        low, high = interval
        above, below, width = above + (low > truth), below + (high < truth), width + (high - low) / truth
    return 1 - (above + below) / replicates, above / replicates, below / replicates, width / replicates


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicates", type=int, default=2000, help="simulated measurements per cell")
    parser.add_argument("--scale", type=float, default=0.02, help="noise: 0.02 puts p90 3 %% above p50")
    parser.add_argument("--percentile", type=float, nargs="+", default=[0.5, 0.9])
    args = parser.parse_args()
    started, missed = time.perf_counter(), 0
    print("| percentile | rounds | samples | AR(1) | round effect | covered | above | below | width |")
    print("|---|---|---|---|---|---|---|---|---|")
    for p in args.percentile:
        for cell in itertools.product(ROUNDS, SAMPLES, CORRELATIONS, EFFECTS):
            if not percentiles.supported([range(cell[1])] * cell[0], p):
                continue
            covered, above, below, width = coverage(Process(*cell, args.scale), p, args.replicates)
            missed += covered < TARGETS.get(p, 0.0)
            rounds, samples, correlation, effect = cell
            print(
                f"| p{100 * p:g} | {rounds} | {samples} | {correlation:g} | {effect:.0%} | {covered:.1%} | {above:.1%} "
                f"| {below:.1%} | {width:.2%} |",
                flush=True,
            )
    print(
        f"\n{args.replicates} replicates a cell, noise scale {args.scale:g}; {missed} cells below the target "
        f"(p50 93 %, p90 90 %); {time.perf_counter() - started:.0f} s."
    )
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
