"""Compare two sessions in one process by pairs of inferences that run one after the other, in random order.

A disturbance of the machine that lasts several inferences (another process, a slower clock, a full cache) affects both
sides alike, and the first side of every pair is drawn at random. So the log ratio of a round is symmetric about zero
if the sides are equal, under any noise that does not depend on the side: the test in `effbench.statistics.sequential`
assumes nothing else.

Numpy and the standard library only: this runs on devices.
"""

from __future__ import annotations

import math
import os
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from effbench.errors import DataError
from effbench.profiles.measure import Call, Clock, Feeds, no_collection

Floats = npt.NDArray[np.float64]
Waits = Callable[[], int]

MIN_PAIRS = 10
"""The fewest pairs of a round: each of five images twice. Few, since more rounds are worth more than longer ones; with
eight pairs, a stall in one image of five is sometimes missed.
"""

BLOCK = 3
"""Inferences of one side in a row where the weights of both sides do not fit into the last-level cache together."""

FEWEST_PAIRS = 3
"""Of a round of a slow model, for which ten would leave too few rounds: rounds are the evidence."""

WARMUP_PAIRS = 2
"""Warm-up inferences of each side, run alternately and dropped, after each side's first."""

TAIL = 0.9


@dataclass(frozen=True)
class PairedRound:
    """One round: wall nanoseconds of both sides, pair by pair, and how much of each was spent waiting for a core.

    ``a_wait_ns`` and ``b_wait_ns`` count only waiting caused by other processes (`foreign_wait`); zeros if the machine
    does not report it. ``b_first`` holds which side of each pair ran first.
    """

    a_ns: tuple[int, ...]
    b_ns: tuple[int, ...]
    a_wait_ns: tuple[int, ...]
    b_wait_ns: tuple[int, ...]
    b_first: tuple[bool, ...] = ()
    observed: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        lengths = {len(item) for item in (self.a_ns, self.b_ns, self.a_wait_ns, self.b_wait_ns)}
        if lengths == {0} or len(lengths) != 1:
            raise DataError(f"A paired round needs equally many samples of both sides, at least one, not {lengths}.")
        for side, wall, wait in (("A", self.a_ns, self.a_wait_ns), ("B", self.b_ns, self.b_wait_ns)):
            if min(wall) <= 0 or min(wait) < 0:
                raise DataError(
                    f"Side {side} holds a sample of {min(wall)} ns (waited {min(wait)} ns): the clock jumped."
                )

    def swapped(self) -> PairedRound:
        """Return the round with A and B exchanged."""
        return replace(
            self,
            a_ns=self.b_ns,
            b_ns=self.a_ns,
            a_wait_ns=self.b_wait_ns,
            b_wait_ns=self.a_wait_ns,
            b_first=tuple(not first for first in self.b_first),
        )


@dataclass(frozen=True)
class LogRatios:
    """The result of one round: log ratios B/A of the typical latency and of the tail."""

    typical: float
    tail: float


def log_ratios(item: PairedRound, quantile: float = 0.5) -> LogRatios:
    """Reduce a round to its two log ratios.

    Time that a runnable thread spent waiting for a core is subtracted first: the load of other processes is not a
    property of a model. Without this, no verdict is possible on a busy machine (docs/explanation/gate-statistics.md).

    Args:
        item: The round.
        quantile: That of the typical latency: 0.5 is the median, lower is nearer to the undisturbed latency.
    """
    a, b = net_times(item)
    pairs = np.log(b / a)
    typical = float(np.median(pairs)) if quantile == 0.5 else _log_ratio(a, b, quantile)
    return LogRatios(typical, float(tail(pairs)))


def tail(pairs: Floats) -> npt.NDArray[Any]:
    """Return the log ratio of the tails (p90) from the log ratios of pairs, along the last axis.

    A clock change within a round shifts both members of a pair: it would dominate each side's p90, but cancels in
    their ratio. The upper end of these ratios is where B was slow and its partner was not, the lower end where A was;
    their common part, the typical ratio, counts once. So a shift of all inferences of B gives that shift, a shift of a
    fifth of them gives it too, and equal sides give zero for any shared tail.
    """
    low, middle, high = np.quantile(pairs, (1 - TAIL, 0.5, TAIL), axis=-1)
    return np.asarray(high + low - middle)


def pairs_seconds(item: PairedRound, beyond: int = 0) -> float:
    """Return the wall time of the pairs of a round, of those beyond the first ones."""
    return (sum(item.a_ns[beyond:]) + sum(item.b_ns[beyond:])) / 1e9


def net_times(item: PairedRound) -> tuple[Floats, Floats]:
    """Return wall time minus foreign waiting of both sides, in nanoseconds, pair by pair."""
    net = []
    for wall_ns, wait_ns in ((item.a_ns, item.a_wait_ns), (item.b_ns, item.b_wait_ns)):
        wall, wait = np.asarray(wall_ns, float), np.asarray(wait_ns, float)
        # The two clocks are read one after the other, so a wait may exceed the wall time that contains it.
        net.append(np.maximum(wall - wait, 0.01 * wall))
    return net[0], net[1]


def _log_ratio(a: Floats, b: Floats, p: float) -> float:
    return math.log(float(np.quantile(b, p)) / float(np.quantile(a, p)))


@dataclass(frozen=True)
class PairBounds:
    """The length of a round's timed phase.

    Attributes:
        seconds: The shortest duration.
        min_pairs: The fewest pairs, unless ``max_seconds`` ends it.
        max_seconds: Ends it; it always holds at least one pair.
        target_s: The time that is left for warm-up and timed phase if the round is to fit into its part of the budget:
            after it, `FEWEST_PAIRS` are enough. Slow models get fewer pairs a round, and so enough rounds.
        block: Inferences of one side in a row, with those of the other side after them; each is a pair with the one
            at its place. With more than one, an inference that is not timed fills the cache before each block.
        pair_s: How long the first inferences of both sides took: what a pair of warm-up will take at the most.
    """

    seconds: float
    min_pairs: int = MIN_PAIRS
    max_seconds: float = 30.0
    target_s: float = math.inf
    pair_s: float = 0.0
    block: int = 1

    def met(self, pairs: int, seconds: float, warmup_s: float = 0.0) -> bool:
        """Return whether this many pairs in this time, after a warm-up, are enough."""
        late = warmup_s + seconds >= self.target_s and pairs >= FEWEST_PAIRS
        return late or seconds >= self.max_seconds or (seconds >= self.seconds and pairs >= self.min_pairs)

    def warm(self, warmup_s: float) -> bool:
        """Return whether another pair would exceed warm-up's share of the time: as much as a timed pair may take."""
        return warmup_s + self.pair_s >= self.target_s / (FEWEST_PAIRS + 1)


def measure_pairs(
    sessions: tuple[Call, Call],
    feeds: tuple[Sequence[Feeds], Sequence[Feeds]],
    bounds: PairBounds,
    order: random.Random,
    *,
    settle: bool = False,
    clock: Clock = time.perf_counter_ns,
    waits: Waits | None = None,
) -> PairedRound:
    """Warm both sides, then time them in pairs, the first of each pair, or of each block of them, drawn at random.

    Args:
        sessions: Side A and side B, loaded.
        feeds: Their inputs, used in turn; both members of a pair get inputs of the same index.
        bounds: The length of the timed phase.
        order: Draws the order.
        settle: Wait before each inference until idle threads of the other side have stopped spinning.
        clock: Monotonic, in nanoseconds.
        waits: Total nanoseconds this thread has waited for a core because of other processes; None picks
            `foreign_wait`.

    Raises:
        DataError: The clock stood still or ran backwards.
    """
    waits = waits or foreign_wait()
    rows: list[tuple[tuple[int, int], tuple[int, int], bool]] = []
    with no_collection():
        start = clock()
        for index in range(WARMUP_PAIRS):
            if bounds.warm((clock() - start) / 1e9):
                break
            for side in draw_order(order):
                sessions[side](feeds[side][index % len(feeds[side])])
        begin = clock()
        while True:
            samples: list[list[tuple[int, int]]] = [[], []]
            sides = draw_order(order)
            for side in sides:
                turn = [feeds[side][(len(rows) + place) % len(feeds[side])] for place in range(bounds.block)]
                if bounds.block > 1:
                    sessions[side](turn[0])
                for item in turn:
                    if settle:
                        wait_until_idle()
                    samples[side].append(time_with_wait(sessions[side], item, clock, waits))
            rows += [(a, b, sides[0] == 1) for a, b in zip(*samples, strict=True)]
            if bounds.met(len(rows), (clock() - begin) / 1e9, (begin - start) / 1e9):
                break
    return PairedRound(
        tuple(a[0] for a, _, _ in rows),
        tuple(b[0] for _, b, _ in rows),
        tuple(a[1] for a, _, _ in rows),
        tuple(b[1] for _, b, _ in rows),
        tuple(first for _, _, first in rows),
    )


def draw_order(order: random.Random) -> tuple[int, int]:
    """Return which side of a pair runs first, and which second."""
    return (1, 0) if order.random() < 0.5 else (0, 1)


def time_with_wait(session: Call, feeds: Feeds, clock: Clock, waits: Waits) -> tuple[int, int]:
    """Return the wall time of one inference and the foreign waiting within it, in nanoseconds."""
    waited = waits()
    start = clock()
    session(feeds)
    end = clock()
    return end - start, max(0, waits() - waited)


def foreign_wait() -> Waits:
    """Return a counter of the nanoseconds this thread was ready to run while *other processes* held the cores.

    Linux counts a thread's waiting in ``schedstat`` (1 us per read). CPU time of this process's other threads is
    subtracted, so a model whose threads block each other gets no discount. Other systems give zeros.

    Source: Documentation/scheduler/sched-stats.rst of Linux, "/proc/<pid>/schedstat", second field.
    """
    try:
        file = os.open("/proc/thread-self/schedstat", os.O_RDONLY)
        os.pread(file, 64, 0).split()[1]
    except (OSError, IndexError):
        return lambda: 0

    def read() -> int:
        waited = int(os.pread(file, 64, 0).split()[1])
        other_threads_ns = time.process_time_ns() - time.thread_time_ns()
        return waited - max(0, other_threads_ns)

    return read


def wait_until_idle(limit_s: float = 0.05, step_s: float = 0.0005) -> None:
    """Sleep until this process uses no CPU time: thread pools spin for a while after an inference."""
    deadline = time.perf_counter() + limit_s
    while time.perf_counter() < deadline:
        before = time.process_time()
        time.sleep(step_s)
        if time.process_time() - before < 0.3 * step_s:
            return
