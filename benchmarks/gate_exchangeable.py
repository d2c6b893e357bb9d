"""False alarms on equal sides under noise that is independent of the side: heavy tails, bursts, ties and others.

    python benchmarks/gate_exchangeable.py [--replicates 2000] [--rounds 60] [--suite 10] [--noise NAME ...]

Each cell generates latencies of single inferences; in each pair the first member is drawn at random. A suite is a
number of comparisons that share the error probability: it is wrong if any of them is called slower or faster, at any
of the rounds.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tabulate import tabulate

from effbench.profiles.paired import MIN_PAIRS, tail
from effbench.statistics.proportions import wilson
from effbench.statistics.sequential import FASTER, SLOWER, Rules, outcomes

Floats = npt.NDArray[np.float64]
Shape = tuple[int, int, int]

LATENCY_MS = 5.0
LAYOUT = 0.005
CHUNK = 500
BOUND = 0.005


def quiet(rng: np.random.Generator, shape: Shape) -> Floats:
    """Skewed noise of 1 %."""
    return 0.01 * rng.standard_exponential(shape)


def heavy_tails(rng: np.random.Generator, shape: Shape) -> Floats:
    """Inferences with a Pareto tail without a variance."""
    return np.asarray(np.log1p(0.01 * rng.pareto(1.2, shape)))


def bursts(rng: np.random.Generator, shape: Shape) -> Floats:
    """Other work takes half of the core for some inferences in a row, in a third of the rounds."""
    replays, rounds, count = shape
    start, length = rng.integers(0, count, (replays, rounds, 1)), rng.integers(1, count // 2, (replays, rounds, 1))
    place = np.arange(count)
    inside = (place >= start) & (place < start + length) & (rng.random((replays, rounds, 1)) < 0.33)
    return np.asarray(0.7 * inside + quiet(rng, shape))


def bimodal(rng: np.random.Generator, shape: Shape) -> Floats:
    """A clock that jumps by 42 %, and stays some thirty inferences."""
    flips = rng.random((shape[0], shape[1] * shape[2])) < 0.03
    return np.asarray(0.35 * (np.cumsum(flips, axis=1) % 2).reshape(shape) + quiet(rng, shape))


def autocorrelated(rng: np.random.Generator, shape: Shape) -> Floats:
    """AR(1) of 0.95 within rounds."""
    state: Floats = np.zeros(shape)
    state[..., 0] = 0.03 * rng.standard_normal(shape[:2])
    for index in range(1, shape[2]):
        fresh = 0.03 * np.sqrt(1 - 0.95**2) * rng.standard_normal(shape[:2])
        state[..., index] = 0.95 * state[..., index - 1] + fresh
    return state


def tied(rng: np.random.Generator, shape: Shape) -> Floats:
    """Latencies that are mostly one of two values."""
    return np.asarray(0.02 * (rng.random(shape) < 0.3))


@dataclass(frozen=True)
class Cell:
    """A kind of noise.

    Attributes:
        make: Gives the log factors of inferences in the order in which they run.
        tick_ms: The resolution of the clock; 0 is a fine one.
        layout: The standard deviation of a side's effect on a whole round.
        wild: Whether that effect has a Cauchy distribution instead of a normal one.
    """

    make: Callable[[np.random.Generator, Shape], Floats]
    tick_ms: float = 0.0
    layout: float = LAYOUT
    wild: bool = False


CELLS = {
    "quiet": Cell(quiet),
    "heavy tails (Pareto 1.2)": Cell(heavy_tails),
    "heavy rounds (Cauchy), 1 %": Cell(quiet, layout=0.01, wild=True),
    "heavy rounds (Cauchy), 10 %": Cell(quiet, layout=0.1, wild=True),
    "side effects of 15 %": Cell(quiet, layout=0.15),
    "bursts": Cell(bursts),
    "bimodal clock": Cell(bimodal),
    "AR(1) 0.95 within rounds": Cell(autocorrelated),
    "ties": Cell(tied, layout=0.0),
    "clock of 1 ms": Cell(quiet, tick_ms=1.0),
    "clock of 1 ms, heavy tails": Cell(heavy_tails, tick_ms=1.0),
}


def alarms(name: str, replays: int, rounds: int, comparisons: int, seed: int) -> npt.NDArray[np.bool_]:
    """Return which runs on equal sides are called slower or faster, (replays,)."""
    cell = CELLS[name]
    rng = np.random.default_rng([seed, *name.encode()])
    times = cell.make(rng, (replays, rounds, 2 * MIN_PAIRS)).reshape(replays, rounds, MIN_PAIRS, 2)
    first = rng.random(times.shape[:-1]) < 0.5
    effect_of = rng.standard_cauchy if cell.wild else rng.standard_normal
    effects = cell.layout * effect_of((replays, rounds, 1, 2)).clip(-50, 50)
    times = LATENCY_MS * np.exp(np.where(first[..., None], times, times[..., ::-1]) + effects)
    if cell.tick_ms:
        # A reading is cut to the tick; where an inference begins between two ticks is random.
        begin = rng.random(times.shape)
        times = cell.tick_ms * np.maximum(1, np.floor(begin + times / cell.tick_ms))
    ratios = np.log(times[..., 1] / times[..., 0])
    codes, settled = outcomes(np.median(ratios, axis=-1), tail(ratios), Rules(), comparisons)
    last = np.where(settled.any(axis=1), settled.argmax(axis=1), rounds - 1)
    return np.isin(codes[np.arange(replays), last], (SLOWER, FASTER))


def main() -> int:
    """Print the share of suites with a false alarm; exit with 1 if one is above the bound beyond chance."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicates", type=int, default=2000, help="suites a cell")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--suite", type=int, default=10, help="comparisons of the larger suite")
    parser.add_argument("--noise", nargs="+", default=list(CELLS), choices=list(CELLS), metavar="NAME")
    options = parser.parse_args()
    rows, above = [], False
    for name in options.noise:
        row = [name]
        for size in (1, options.suite):
            runs = options.replicates * size
            flags = [
                alarms(name, min(CHUNK, runs - done), options.rounds, size, done) for done in range(0, runs, CHUNK)
            ]
            wrong = int(np.concatenate(flags).reshape(-1, size).any(axis=1).sum())
            low, high = wilson(wrong, options.replicates)
            above |= low > BOUND
            row.append(f"{100 * wrong / options.replicates:.2f} % [{100 * low:.2f}, {100 * high:.2f}]")
        rows.append(row)
        print("  ".join(row), flush=True)
    header = ("noise", "suites of one", f"suites of {options.suite}")
    print(f"\nsuites with a false alarm, of {options.replicates} a cell, {options.rounds} rounds [95 %]")
    print(tabulate(rows, headers=header, disable_numparse=True))
    return int(above)


if __name__ == "__main__":
    raise SystemExit(main())
