"""A paired round whose two sides are two processes: they take turns, passing a token through two named pipes.

The side of each pair that runs first is drawn from a seed that both share (`effbench.profiles.paired`).
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from effbench.errors import DataError, MeasurementError
from effbench.profiles.measure import Call, Clock, Feeds, no_collection
from effbench.profiles.paired import (
    WARMUP_PAIRS,
    PairBounds,
    PairedRound,
    Waits,
    draw_order,
    foreign_wait,
    time_with_wait,
)


class Turns:
    """The token of two workers that take turns: its holder runs, the other waits in a read.

    Each worker reads from one named pipe and writes to another; both draw the same order from the same seed.
    """

    def __init__(self, own_pipe: Path, partner_pipe: Path, side: int) -> None:
        self.side = side
        # Side 0 opens its reading end first, side 1 its writing end: in the same order, both would wait.
        if side == 0:
            self._read = os.open(own_pipe, os.O_RDONLY)
            self._write = os.open(partner_pipe, os.O_WRONLY)
        else:
            self._write = os.open(partner_pipe, os.O_WRONLY)
            self._read = os.open(own_pipe, os.O_RDONLY)

    def give(self, last: bool = False) -> None:
        """Pass the token, and whether this was the last turn.

        Raises:
            MeasurementError: The other worker has ended.
        """
        try:
            os.write(self._write, b"!" if last else b".")
        except BrokenPipeError:
            raise MeasurementError("The worker of the other side ended during a round.") from None

    def take(self) -> bool:
        """Wait for the token; return whether the other side marked the last turn.

        Raises:
            MeasurementError: The other worker has ended.
        """
        token = os.read(self._read, 1)
        if not token:
            raise MeasurementError("The worker of the other side ended during a round.")
        return token == b"!"

    def close(self) -> None:
        """Close both pipes."""
        for file in (self._read, self._write):
            with contextlib.suppress(OSError):
                os.close(file)


def turns_order(seed: int) -> Iterator[tuple[int, int]]:
    """Yield the order of the sides, pair by pair, without end; equal for both workers of a seed."""
    order = random.Random(seed)
    while True:
        yield draw_order(order)


def measure_turns(
    session: Call,
    feeds: Sequence[Feeds],
    turns: Turns,
    bounds: PairBounds,
    seed: int,
    *,
    clock: Clock = time.perf_counter_ns,
    waits: Waits | None = None,
) -> tuple[list[int], list[int], list[bool]]:
    """Time one side of a round whose other side is another process; side 0 decides when it ends.

    Returns:
        Wall nanoseconds, foreign waiting, and whether side 1 went first, pair by pair.
    """
    waits = waits or foreign_wait()
    side = turns.side
    wall: list[int] = []
    waited: list[int] = []
    b_first: list[bool] = []
    start = begin = clock()
    with no_collection():
        for index, sides in enumerate(turns_order(seed)):
            timed = index - WARMUP_PAIRS
            if timed == 0:
                begin = clock()
            # Only side 0 decides, before the pair, and the token carries it: clocks of two processes may differ.
            spent_s, warmup_s = (clock() - begin) / 1e9, (begin - start) / 1e9
            last = side == 0 and timed >= 0 and bounds.met(timed + 1, spent_s, warmup_s)
            if sides[0] != side:
                last = turns.take() or last
            took = time_with_wait(session, feeds[index % len(feeds)], clock, waits)
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
    """Join the two halves of a round of two workers.

    Raises:
        DataError: The halves belong to different rounds.
    """
    if a["b_first"] != b["b_first"]:
        raise DataError("The two workers of a round used different orders.")
    walls = tuple(a["wall_ns"]), tuple(b["wall_ns"])
    return PairedRound(*walls, tuple(a["wait_ns"]), tuple(b["wait_ns"]), tuple(a["b_first"]))
