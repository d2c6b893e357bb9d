"""Paired rounds of two processes: they take turns, share an order, and notice when the other ends."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from effbench.errors import DataError, MeasurementError
from effbench.profiles.paired import FEWEST_PAIRS, PairBounds, log_ratios
from effbench.profiles.turns import Turns, join_turns, measure_turns

FEEDS: list[Mapping[str, np.ndarray]] = [{"x": np.zeros(1)}]
BOUNDS = PairBounds(0.02, 12)


def both(folder: Path, run_b, bounds: PairBounds = BOUNDS) -> list[BaseException | tuple]:
    """Run two sides that take turns, each in a thread, and return the result or exception of each."""
    pipes = [folder / "a", folder / "b"]
    for pipe in pipes:
        os.mkfifo(pipe)
    results: list[BaseException | tuple] = [(), ()]

    def serve(side: int) -> None:
        turns = Turns(pipes[side], pipes[1 - side], side)
        session = (lambda feeds: time.sleep(0.001) or {}) if side == 0 else run_b
        try:
            results[side] = measure_turns(session, FEEDS, turns, bounds, seed=3)
        except (RuntimeError, MeasurementError) as error:
            results[side] = error
        finally:
            turns.close()

    threads = [threading.Thread(target=serve, args=(side,)) for side in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
        assert not thread.is_alive()
    return results


def test_two_workers_take_turns(tmp_path: Path):
    halves = both(tmp_path, lambda feeds: time.sleep(0.002) or {})
    keys = ("wall_ns", "wait_ns", "b_first")
    a, b = (dict(zip(keys, half, strict=True)) for half in halves)
    item = join_turns(a, b)
    assert 12 <= len(item.a_ns)
    assert 0.2 < log_ratios(item).typical < 1.2
    with pytest.raises(DataError, match="orders"):
        join_turns(a, {**b, "b_first": [not first for first in b["b_first"]]})


def test_a_worker_whose_partner_ends_gets_an_error(tmp_path: Path):
    calls = iter(range(100))

    def fails(feeds):
        if next(calls) == 6:
            raise RuntimeError("gone")
        return {}

    first, second = both(tmp_path, fails)
    assert isinstance(second, RuntimeError)
    assert isinstance(first, MeasurementError)


def test_a_late_round_ends_with_the_fewest_pairs(tmp_path: Path):
    halves = both(tmp_path, lambda feeds: time.sleep(0.002) or {}, PairBounds(0.5, min_pairs=10_000, target_s=0.001))
    assert [FEWEST_PAIRS] * 2 == [len(half[0]) for half in halves]


def test_a_slow_round_ends_at_its_longest_duration_with_fewer_pairs(tmp_path: Path):
    halves = both(tmp_path, lambda feeds: time.sleep(0.002) or {}, PairBounds(0.01, min_pairs=10_000, max_seconds=0.03))
    assert 1 <= len(halves[0][0]) == len(halves[1][0]) < 100
