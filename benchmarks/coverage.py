"""Coverage of the stated intervals on simulated measurements: p50, p90 of a typical process, share of slow processes.

A sample is ``exp(b_i) * (1 + scale * exp(0.8 z_ij))``: b_i is the round's level, z_ij is AR(1) with unit variance
inside a round. So noise is lognormal above a floor, as in latencies. Levels are normal with the round effect as their
standard deviation, or *slow* (a share of the rounds 30 % slower, the others with an effect of 1 %), or *pareto* (a
heavy tail of slow rounds). The p90 of all processes is measured with 40 rounds: below 35 it is open.

    python benchmarks/coverage.py [--replicates 2000] [--scale 0.02]
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from effbench.statistics import percentiles

SHAPE = 0.8
CORRELATIONS = (0.0, 0.5, 0.9)
LEVELS = ("0 %", "1 %", "3 %", "slow 5 %", "slow 10 %", "slow 15 %", "pareto")
ROUNDS = (10, 20)
ROUNDS_FOR_P90 = (40,)
SAMPLES = (20, 200)
TARGET = 0.93

SLOWER = math.log(1.3)
PARETO_SCALE, PARETO_SHAPE = 0.02, 1.5

Floats = npt.NDArray[np.float64]
Span = tuple[float, float]


@dataclass(frozen=True)
class Process:
    """Parameters of a measurement: rounds, samples a round, correlation, levels of rounds, scale of the noise."""

    rounds: int
    samples: int
    correlation: float
    levels: str
    scale: float

    def draw_levels(self, rng: np.random.Generator, count: int) -> Floats:
        """Draw the log levels of some rounds."""
        if self.levels == "pareto":
            return np.log1p(PARETO_SCALE * rng.pareto(PARETO_SHAPE, count))
        if self.levels.startswith("slow"):
            share = float(self.levels.split()[1]) / 100
            return 0.01 * rng.standard_normal(count) + SLOWER * (rng.random(count) < share)
        return float(self.levels.split()[0]) / 100 * rng.standard_normal(count)

    def draw(self, rng: np.random.Generator) -> list[Floats]:
        """Draw one measurement: an array of samples for each round."""
        z = rng.standard_normal((self.samples, self.rounds))
        fresh = math.sqrt(1 - self.correlation**2)
        for j in range(1, self.samples if self.correlation else 0):
            z[j] = self.correlation * z[j - 1] + fresh * z[j]
        level = np.exp(self.draw_levels(rng, self.rounds))
        return list((level * (1 + self.scale * np.exp(SHAPE * z))).T)


@dataclass(frozen=True)
class Truths:
    """The true figures of a process, from a million samples of as many rounds.

    ``p50`` and ``p90`` are those of the mixture, ``typical_p90`` that of the median process. ``slow`` is the share of
    rounds whose own median is more than 5 % above the typical one; it comes from 20,000 rounds of that length.
    """

    p50: float
    p90: float
    typical_p90: float
    slow: float

    @classmethod
    def of(cls, process: Process) -> Truths:
        """Return the truths of a process."""
        rng = np.random.default_rng(99)
        levels = process.draw_levels(rng, 1_000_000)
        samples = np.exp(levels) * (1 + process.scale * np.exp(SHAPE * rng.standard_normal(len(levels))))
        middle = float(np.median(levels))
        relative = 1 + process.scale * math.exp(SHAPE * NormalDist().inv_cdf(0.9))
        p50, p90 = (float(np.quantile(samples, p)) for p in (0.5, 0.9))
        medians = np.median(replace(process, rounds=20_000).draw(rng), axis=1)
        slow = float((medians > (1 + percentiles.SLOW_PCT / 100) * np.median(medians)).mean())
        return cls(p50, p90, math.exp(middle) * relative, slow)


FIGURES: dict[str, tuple[Callable[[list[Floats]], Span | None], Callable[[Truths], float]]] = {
    "p50": (lambda rounds: percentiles.interval(rounds, 0.5), lambda truths: truths.p50),
    "typical p90": (lambda rounds: _typical(rounds), lambda truths: truths.typical_p90),
    "slow processes": (lambda rounds: percentiles.slow_processes(rounds).interval, lambda truths: truths.slow),
    "p90 of all": (lambda rounds: percentiles.interval(rounds, 0.9), lambda truths: truths.p90),
}
"""Name -> its interval, and its true value."""


def _typical(rounds: list[Floats]) -> Span | None:
    item = percentiles.typical(rounds, 0.9)
    return None if item is None else item.interval


@dataclass(frozen=True)
class Coverage:
    """Shares of the intervals: those that cover, lie above the truth, or are open; and their mean width, if closed."""

    covered: float
    above: float
    open: float
    width: float


def coverage(process: Process, figure: str, replicates: int, seed: int = 0) -> Coverage:
    """Return how often the interval of a figure covers its true value; widths are relative to it (shares: absolute)."""
    interval_of, truth_of = FIGURES[figure]
    rng, truth = np.random.default_rng(seed), truth_of(Truths.of(process))
    spans = [interval_of(process.draw(rng)) for _ in range(replicates)]
    assert all(span is not None for span in spans), "a cell without enough rounds and samples is skipped"
    low, high = np.array([span for span in spans if span is not None]).T
    closed = np.isfinite(high)
    width = (high - low)[closed] / (1.0 if figure == "slow processes" else truth)
    return Coverage(
        covered=float(((low <= truth) & (truth <= high)).mean()),
        above=float((low > truth).mean()),
        open=float((~closed).mean()),
        width=float(width.mean()) if closed.any() else math.nan,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicates", type=int, default=2000, help="simulated measurements per cell")
    parser.add_argument("--scale", type=float, default=0.02, help="noise: 0.02 puts p90 3 %% above p50")
    parser.add_argument("--figure", nargs="+", default=list(FIGURES), choices=list(FIGURES))
    args = parser.parse_args()
    started, missed = time.perf_counter(), 0
    print("| figure | rounds | samples | AR(1) | levels | covered | above | open | width |")
    print("|---|---|---|---|---|---|---|---|---|")
    for figure in args.figure:
        counts = ROUNDS_FOR_P90 if figure == "p90 of all" else ROUNDS
        for rounds, samples, correlation, levels in itertools.product(counts, SAMPLES, CORRELATIONS, LEVELS):
            item = coverage(Process(rounds, samples, correlation, levels, args.scale), figure, args.replicates)
            missed += item.covered < TARGET
            shares = f"{item.covered:.1%} | {item.above:.1%} | {item.open:.0%} | {item.width:.2%}"
            print(f"| {figure} | {rounds} | {samples} | {correlation:g} | {levels} | {shares} |", flush=True)
    print(
        f"\n{args.replicates} replicates a cell, noise scale {args.scale:g}; {missed} cells below {TARGET:.0%}; "
        f"{time.perf_counter() - started:.0f} s."
    )
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
