"""Generated rounds with a known slowdown, under disturbances of both sides or of one.

A cell generates single inferences; `rounds_of` reduces them to the two log ratios of a round as the gate does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from effbench.profiles.paired import MIN_PAIRS, tail

Floats = npt.NDArray[np.float64]

PAIRS = MIN_PAIRS
LAYOUT = 0.005
"""Two loads of one model differ by about half a percent."""


@dataclass(frozen=True)
class Cell:
    """A kind of noise: each term is a log factor of one inference, arrays (replays, rounds, pairs, 2)."""

    name: str
    make: Callable[[np.random.Generator, tuple[int, int, int]], Floats]


def _white(rng: np.random.Generator, shape: tuple[int, int, int], sigma: float) -> Floats:
    # Skewed, as latencies are: mostly near the smallest, sometimes far above.
    return sigma * rng.standard_exponential((*shape, 2)) + sigma / 2 * rng.standard_normal((*shape, 2))


def _autocorrelated(rng: np.random.Generator, shape: tuple[int, int, int]) -> Floats:
    replays, rounds, pairs = shape
    steps = 0.02 * math.sqrt(1 - 0.9**2) * rng.standard_normal((replays, rounds, 2 * pairs))
    state = np.zeros((replays, rounds, 2 * pairs))
    state[..., 0] = 0.02 * rng.standard_normal((replays, rounds))
    for index in range(1, 2 * pairs):
        state[..., index] = 0.9 * state[..., index - 1] + steps[..., index]
    return _shuffled(rng, state.reshape(replays, rounds, pairs, 2))


def _drifting(rng: np.random.Generator, shape: tuple[int, int, int]) -> Floats:
    replays, rounds, pairs = shape
    ramp: Floats = np.linspace(0, 0.5, rounds * pairs * 2).astype(np.float64).reshape(1, rounds, pairs, 2)
    return _shuffled(rng, np.repeat(ramp, replays, axis=0)) + _white(rng, shape, 0.01)


def _bimodal(rng: np.random.Generator, shape: tuple[int, int, int]) -> Floats:
    replays, rounds, pairs = shape
    flips = rng.random((replays, rounds * pairs * 2)) < 0.03
    state: Floats = (np.cumsum(flips, axis=1) % 2).reshape(replays, rounds, pairs, 2).astype(np.float64)
    return _shuffled(rng, 0.35 * state) + _white(rng, shape, 0.01)


def _round_effects(rng: np.random.Generator, shape: tuple[int, int, int], sigma: float) -> Floats:
    replays, rounds, _ = shape
    side: Floats = sigma / math.sqrt(2) * rng.standard_normal((replays, rounds, 1, 2))
    return side + _white(rng, shape, 0.01)


def _wild_rounds(rng: np.random.Generator, shape: tuple[int, int, int]) -> Floats:
    replays, rounds, _ = shape
    wild = rng.random((replays, rounds, 1, 1)) < 0.08
    effect: Floats = wild * 0.3 * rng.standard_cauchy((replays, rounds, 1, 2)).clip(-5, 5)
    return effect + _white(rng, shape, 0.01)


def _one_side(rng: np.random.Generator, shape: tuple[int, int, int]) -> Floats:
    """Load side B alone in a fifth of the rounds, by 30 %; random order does not average it out."""
    replays, rounds, _ = shape
    hit = np.zeros((*shape, 2))
    hit[..., 1] = 0.3 * (rng.random((replays, rounds, 1)) < 0.2)
    return hit + _white(rng, shape, 0.01)


def _cold_first(rng: np.random.Generator, shape: tuple[int, int, int]) -> Floats:
    """Make side B twice as slow in the first half of the first round, as with a cold cache."""
    cold = np.zeros((*shape, 2))
    cold[:, 0, : shape[2] // 2, 1] = math.log(2)
    return cold + _white(rng, shape, 0.01)


def _shuffled(rng: np.random.Generator, in_time: Floats) -> Floats:
    """Assign the two slots of each pair to the sides at random, as the gate does."""
    swap = rng.random(in_time.shape[:-1]) < 0.5
    return np.where(swap[..., None], in_time[..., ::-1], in_time)


CELLS = (
    Cell("quiet, 1 %", lambda rng, shape: _white(rng, shape, 0.01)),
    Cell("AR(1) 0.9", lambda rng, shape: _autocorrelated(rng, shape) + _white(rng, shape, 0.005)),
    Cell("drift +65 %", _drifting),
    Cell("bimodal clock, 42 %", _bimodal),
    Cell("round effects, 3 %", lambda rng, shape: _round_effects(rng, shape, 0.03)),
    Cell("round effects, 15 %", lambda rng, shape: _round_effects(rng, shape, 0.15)),
    Cell("8 % wild rounds", _wild_rounds),
    Cell("load on B in 20 % of rounds", _one_side),
    Cell("B pays the cold cache", _cold_first),
)


def rounds_of(
    cell: Cell, replays: int, rounds: int, seed: int, slower: float = 0.0, stall: float = 0.0, pairs: int = PAIRS
) -> tuple[Floats, Floats]:
    """Return the log ratios of the typical latency and of the tail, (replays, rounds) each; see `pairs_of`."""
    ratios = pairs_of(cell, replays, rounds, seed, slower, stall, pairs)
    return np.median(ratios, axis=-1), tail(ratios)


def pairs_of(
    cell: Cell, replays: int, rounds: int, seed: int, slower: float = 0.0, stall: float = 0.0, pairs: int = PAIRS
) -> Floats:
    """Return the log ratios of the pairs, (replays, rounds, pairs).

    Args:
        cell: The noise.
        replays: Independent runs.
        rounds: Of each.
        seed: Of everything drawn.
        slower: B's true slowdown of every inference, as a share.
        stall: B's true slowdown of every fifth inference, as a share.
        pairs: Of each round.
    """
    rng = np.random.default_rng([seed, CELLS.index(cell)])
    shape = (replays, rounds, pairs)
    logs = cell.make(rng, shape) + LAYOUT / math.sqrt(2) * rng.standard_normal((replays, rounds, 1, 2))
    logs[..., 1] += math.log1p(slower)
    logs[..., ::5, 1] += math.log1p(stall)
    return np.asarray(logs[..., 1] - logs[..., 0])
