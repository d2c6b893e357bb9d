"""Two sessions against each other in one process: inferences in random order, each beside its partner in time.

Whatever the machine does within a few inferences - another process, a slower clock, a full cache - meets both sides
alike, and which side goes first is drawn anew for every pair. So the log ratio of a round is symmetric about zero where
the sides are equal, on any machine: the test in `effbench.statistics.sequential` stands on nothing else.

Numpy and the standard library only: this runs on devices.
"""

from __future__ import annotations

import contextlib
import math
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from effbench.errors import DataError, MeasurementError
from effbench.profiles.measure import Call, Clock, Feeds, no_collection

Floats = npt.NDArray[np.float64]
Waits = Callable[[], int]

MIN_PAIRS = 10
"""The fewest pairs of a round: each of five images twice. Few, for more rounds tell more than longer ones; with eight
pairs a stall that meets one image in five is missed at times.
"""

WARMUP_PAIRS = 2
"""Inferences of each side that are run alternately and dropped, after each side's first."""

TAIL = 0.9


@dataclass(frozen=True)
class PairedRound:
    """One round: wall nanoseconds of both sides, pair by pair, and how much of each was spent waiting for a core.

    ``a_wait_ns`` and ``b_wait_ns`` count only waiting that other processes caused (`foreign_wait`); zeros where the
    machine does not tell. ``b_first`` says which side of each pair ran first.
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
            raise DataError(f"A paired round needs as many samples of either side, and one at least, not {lengths}.")
        for side, wall, wait in (("A", self.a_ns, self.a_wait_ns), ("B", self.b_ns, self.b_wait_ns)):
            if min(wall) <= 0 or min(wait) < 0:
                raise DataError(
                    f"Side {side} holds a sample of {min(wall)} ns (waited {min(wait)} ns): the clock jumped."
                )


@dataclass(frozen=True)
class LogRatios:
    """The result of one round: log ratios B/A of the typical latency and of the tail."""

    typical: float
    tail: float


def log_ratios(item: PairedRound, quantile: float = 0.5) -> LogRatios:
    """Reduce a round to its two log ratios.

    Time that a runnable thread spent waiting for a core is taken off first: how busy the others were is no property
    of a model. It is what makes a verdict on a busy machine possible at all (docs/tutorial/gate.md has the figures).

    Args:
        item: The round.
        quantile: The typical latency's: 0.5 is the median, lower is nearer to the undisturbed latency.
    """
    a, b = net_times(item)
    pairs = np.log(b / a)
    typical = float(np.median(pairs)) if quantile == 0.5 else _log_ratio(a, b, quantile)
    return LogRatios(typical, float(tail(pairs)))


def tail(pairs: Floats) -> npt.NDArray[Any]:
    """Return the log ratio of the slow ends (p90) from log ratios of pairs, along the last axis.

    A clock that changes within a round shifts both members of a pair: it would be most of either side's own p90, and
    drops out of their ratio. Of those ratios the upper end is where B was slow and its partner was not, the lower end
    where A was; what they have in common, the typical ratio, counts once. So a shift of B's every inference gives that
    shift, one of a fifth of B's inferences gives that, and sides that are equal give zero, whatever tail they share.
    """
    low, middle, high = np.quantile(pairs, (1 - TAIL, 0.5, TAIL), axis=-1)
    return np.asarray(high + low - middle)


def net_times(item: PairedRound) -> tuple[Floats, Floats]:
    """Return wall time less foreign waiting of both sides, nanoseconds, pair by pair."""
    found = []
    for wall_ns, wait_ns in ((item.a_ns, item.a_wait_ns), (item.b_ns, item.b_wait_ns)):
        wall, wait = np.asarray(wall_ns, float), np.asarray(wait_ns, float)
        # The two clocks are read one after the other; a wait cannot be longer than what it is part of.
        found.append(np.maximum(wall - wait, 0.01 * wall))
    return found[0], found[1]


def _log_ratio(a: Floats, b: Floats, p: float) -> float:
    return math.log(float(np.quantile(b, p)) / float(np.quantile(a, p)))


def measure_pairs(
    sessions: tuple[Call, Call],
    feeds: tuple[Sequence[Feeds], Sequence[Feeds]],
    *,
    seconds: float,
    order: random.Random,
    min_pairs: int = MIN_PAIRS,
    max_seconds: float = 30.0,
    settle: bool = False,
    clock: Clock = time.perf_counter_ns,
    waits: Waits | None = None,
) -> PairedRound:
    """Warm both sides, then time them in pairs, the first of each pair drawn at random.

    Args:
        sessions: Side A and side B, loaded.
        feeds: Their inputs; both members of a pair get those of the same place, taken in turn.
        seconds: The timed phase lasts so long, and holds ``min_pairs`` pairs at least.
        order: Draws the order.
        min_pairs: See above.
        max_seconds: Ends the timed phase with what it holds, one pair at least.
        settle: Wait before each inference until idle threads of the other side have stopped spinning.
        clock: Monotonic, nanoseconds.
        waits: Total nanoseconds this thread has waited for a core because of others; None picks `foreign_wait`.

    Raises:
        DataError: The clock stood still or ran backwards.
    """
    waits = waits or foreign_wait()
    rows: list[tuple[tuple[int, int], tuple[int, int], bool]] = []
    with no_collection():
        for index in range(WARMUP_PAIRS):
            for side in _drawn(order):
                sessions[side](feeds[side][index % len(feeds[side])])
        begin = clock()
        while True:
            found: list[tuple[int, int]] = [(0, 0), (0, 0)]
            sides = _drawn(order)
            for side in sides:
                if settle:
                    wait_until_idle()
                found[side] = _timed(sessions[side], feeds[side][len(rows) % len(feeds[side])], clock, waits)
            rows.append((found[0], found[1], sides[0] == 1))
            spent = (clock() - begin) / 1e9
            if spent >= max_seconds or (spent >= seconds and len(rows) >= min_pairs):
                break
    return PairedRound(
        tuple(a[0] for a, _, _ in rows),
        tuple(b[0] for _, b, _ in rows),
        tuple(a[1] for a, _, _ in rows),
        tuple(b[1] for _, b, _ in rows),
        tuple(first for _, _, first in rows),
    )


def _drawn(order: random.Random) -> tuple[int, int]:
    return (1, 0) if order.random() < 0.5 else (0, 1)


def _timed(session: Call, feeds: Feeds, clock: Clock, waits: Waits) -> tuple[int, int]:
    waited = waits()
    start = clock()
    session(feeds)
    end = clock()
    return end - start, max(0, waits() - waited)


def foreign_wait() -> Waits:
    """Return a counter of the nanoseconds this thread was ready to run while *other processes* held the cores.

    Linux counts a thread's waiting in ``schedstat`` (1 us a read). What threads of this process burned meanwhile is
    taken off, so that a model whose own threads stand in each other's way gets no discount. Elsewhere: zeros.

    Source: Documentation/scheduler/sched-stats.rst of Linux, "/proc/<pid>/schedstat", second field.
    """
    try:
        file = os.open("/proc/thread-self/schedstat", os.O_RDONLY)
        os.pread(file, 64, 0).split()[1]
    except (OSError, IndexError):
        return lambda: 0

    def read() -> int:
        waited = int(os.pread(file, 64, 0).split()[1])
        others = time.process_time_ns() - time.thread_time_ns()
        return waited - max(0, others)

    return read


def wait_until_idle(limit_s: float = 0.05, step_s: float = 0.0005) -> None:
    """Sleep until this process burns no more CPU time: thread pools spin for a while after an inference."""
    deadline = time.perf_counter() + limit_s
    while time.perf_counter() < deadline:
        before = time.process_time()
        time.sleep(step_s)
        if time.process_time() - before < 0.3 * step_s:
            return


class Turns:
    """The token of two workers that take turns: whoever holds it runs, the other waits in a read.

    Each worker has one named pipe that it reads and one that it writes; both draw the same order from the same seed.
    """

    def __init__(self, mine: Path, other: Path, side: int) -> None:
        # Side 0 opens its reading end first, side 1 its writing end: opened in the same order, both would wait.
        if side == 0:
            self._read = os.open(mine, os.O_RDONLY)
            self._write = os.open(other, os.O_WRONLY)
        else:
            self._write = os.open(other, os.O_WRONLY)
            self._read = os.open(mine, os.O_RDONLY)

    def give(self, last: bool = False) -> None:
        """Hand the token over, telling whether it was the last turn.

        Raises:
            MeasurementError: The other worker is gone.
        """
        try:
            os.write(self._write, b"!" if last else b".")
        except BrokenPipeError:
            raise MeasurementError("The worker of the other side ended during a round.") from None

    def take(self) -> bool:
        """Wait for the token; returns whether the other side says that it was the last turn.

        Raises:
            MeasurementError: The other worker is gone.
        """
        found = os.read(self._read, 1)
        if not found:
            raise MeasurementError("The worker of the other side ended during a round.")
        return found == b"!"

    def close(self) -> None:
        """Close both pipes."""
        for file in (self._read, self._write):
            with contextlib.suppress(OSError):
                os.close(file)


def turns_order(seed: int) -> Iterator[tuple[int, int]]:
    """Yield which side goes first, pair by pair, without end; the same for both workers of a seed."""
    order = random.Random(seed)
    while True:
        yield _drawn(order)


def measure_turns(
    session: Call,
    feeds: Sequence[Feeds],
    side: int,
    turns: Turns,
    *,
    seed: int,
    seconds: float,
    min_pairs: int = MIN_PAIRS,
    clock: Clock = time.perf_counter_ns,
    waits: Waits | None = None,
) -> tuple[list[int], list[int], list[bool]]:
    """Time one side of a round whose other side is another process; side 0 decides when it ends.

    Returns:
        Wall nanoseconds, foreign waiting, and whether side 1 went first, pair by pair.
    """
    waits = waits or foreign_wait()
    wall: list[int] = []
    waited: list[int] = []
    b_first: list[bool] = []
    begin = clock()
    with no_collection():
        for index, sides in enumerate(turns_order(seed)):
            timed = index - WARMUP_PAIRS
            if timed == 0:
                begin = clock()
            # Decided before the pair by side 0 alone, and carried by the token: clocks of two processes may differ.
            last = side == 0 and timed + 1 >= min_pairs and (clock() - begin) / 1e9 >= seconds
            if sides[0] != side:
                last = turns.take() or last
            took = _timed(session, feeds[index % len(feeds)], clock, waits)
            if sides[0] == side:
                turns.give(last)
                last = turns.take() or last
            else:
                turns.give(last)
            if timed >= 0:
                wall.append(took[0])
                waited.append(took[1])
                b_first.append(sides[0] == 1)
            if last:
                return wall, waited, b_first
    raise AssertionError("the order has no end")


def join_turns(a: Mapping[str, Any], b: Mapping[str, Any]) -> PairedRound:
    """Put the two halves of a round of two workers together.

    Raises:
        DataError: They do not belong to one another.
    """
    if a["b_first"] != b["b_first"]:
        raise DataError("The two workers of a round walked different orders.")
    walls = tuple(a["wall_ns"]), tuple(b["wall_ns"])
    return PairedRound(*walls, tuple(a["wait_ns"]), tuple(b["wait_ns"]), tuple(a["b_first"]))
