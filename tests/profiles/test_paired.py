"""Paired rounds: the order is random and balanced, waiting for a core is subtracted, broken clocks are refused."""

from __future__ import annotations

import math
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from effbench.errors import DataError
from effbench.profiles.paired import (
    PairBounds,
    PairedRound,
    foreign_wait,
    log_ratios,
    measure_pairs,
    net_times,
    wait_until_idle,
)

FEEDS: list[Mapping[str, np.ndarray]] = [{"x": np.zeros(1)}]


class Script:
    """Two sessions, and a clock that only they advance."""

    def __init__(self, a_ns: float, b_ns: float, drift: float = 0.0) -> None:
        self.now, self.drift = 1_000, drift
        self.calls: list[str] = []
        self.sessions = (self._side("a", a_ns), self._side("b", b_ns))

    def _side(self, name: str, nanoseconds: float):
        def run(feeds: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
            self.calls.append(name)
            self.now += int(nanoseconds * (1 + self.drift * len(self.calls)))
            return {}

        return run

    def clock(self) -> int:
        return self.now


def scripted(script: Script, seed: int = 0, seconds: float = 0.1) -> PairedRound:
    return measure_pairs(
        script.sessions,
        (FEEDS, FEEDS),
        PairBounds(seconds),
        random.Random(seed),
        clock=script.clock,
        waits=lambda: 0,
    )


def test_a_known_ratio_is_measured_exactly():
    ratios = log_ratios(scripted(Script(1e6, 1.05e6)))
    assert (math.log(1.05), math.log(1.05)) == pytest.approx((ratios.typical, ratios.tail), abs=1e-9)


def in_pairs(shared: np.ndarray, a: np.ndarray, b: np.ndarray) -> PairedRound:
    """Return a round of 10 ms inferences with log factors common to both members of a pair, and of each side."""
    sides = [tuple(int(ns) for ns in 1e7 * np.exp(shared + noise)) for noise in (a, b)]
    return PairedRound(*sides, (0,) * len(shared), (0,) * len(shared))


def test_a_stall_in_a_fifth_of_calls_changes_the_tail_only():
    still, stalls = np.zeros(20), np.where(np.arange(20) % 5 == 0, 0.1, 0)
    ratios = log_ratios(in_pairs(still, still, stalls))
    assert (0, 0.1) == pytest.approx((ratios.typical, ratios.tail), abs=1e-6)


def test_a_clock_change_between_pairs_does_not_change_the_tail():
    clock = 0.35 * (np.arange(20) % 3 == 0)
    stalls = np.where(np.arange(20) % 5 == 0, 0.1, 0)
    assert 0.1 == pytest.approx(log_ratios(in_pairs(clock, np.zeros(20), stalls)).tail, abs=1e-6)
    assert 0 == pytest.approx(log_ratios(in_pairs(clock, np.zeros(20), np.zeros(20))).tail, abs=1e-6)


def test_a_tail_of_both_sides_cancels_and_swapping_sides_negates_it():
    draw = np.random.default_rng(5)
    a, b = (0.5 * (draw.random(2000) < 0.2) for _ in "ab")
    tails = [log_ratios(in_pairs(np.zeros(2000), *sides)).tail for sides in ((a, b), (b, a), (a, 1.2 * b))]
    assert 0 == pytest.approx(tails[0] + tails[1], abs=1e-6)
    assert 0 == pytest.approx(tails[0], abs=0.02)
    assert 0.1 == pytest.approx(tails[2], abs=0.02)


def test_a_strong_drift_does_not_change_the_ratio():
    ratios = [log_ratios(scripted(Script(1e6, 1e6, drift=0.02), seed)).typical for seed in range(40)]
    assert 0 == pytest.approx(np.mean(ratios), abs=0.005)


@pytest.mark.parametrize(("latency_s", "pairs", "warmups"), [(0.01, 10, 2), (0.1, 4, 2), (0.4, 3, 1)])
def test_a_slow_model_gets_fewer_pairs_and_less_warmup(latency_s: float, pairs: int, warmups: int):
    script = Script(latency_s * 1e9, latency_s * 1e9)
    bounds = PairBounds(0.1, target_s=1.1)
    item = measure_pairs(script.sessions, (FEEDS, FEEDS), bounds, random.Random(0), clock=script.clock, waits=lambda: 0)
    assert (pairs, 2 * (pairs + warmups)) == (len(item.a_ns), len(script.calls))


class Cached(Script):
    """Two sessions with a cache for the weights of one: a side that follows the other loads its own again."""

    def _side(self, name: str, nanoseconds: float):
        def run(feeds: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
            evicted = not self.calls or self.calls[-1] != name
            self.calls.append(name)
            self.now += int(nanoseconds + (7e6 if evicted else 0.0))
            return {}

        return run


@pytest.mark.parametrize(("block", "change"), [(1, 1.08), (3, 1.136)])
def test_blocks_show_the_change_that_alternation_dilutes(block: int, change: float):
    # Alone, B takes 13.6 % longer: 10 and 11.36 ms. Where both load their weights again, 17 and 18.36 ms.
    script = Cached(10e6, 11.36e6)
    bounds = PairBounds(0.1, min_pairs=60, block=block)
    item = measure_pairs(script.sessions, (FEEDS, FEEDS), bounds, random.Random(0), clock=script.clock, waits=lambda: 0)
    assert change == pytest.approx(float(np.exp(log_ratios(item).typical)), abs=0.001)


def test_a_block_has_its_own_order_and_an_inference_that_is_not_timed():
    script = Script(2e6, 3e6)
    bounds = PairBounds(0.0, min_pairs=6, block=3)
    item = measure_pairs(script.sessions, (FEEDS, FEEDS), bounds, random.Random(1), clock=script.clock, waits=lambda: 0)
    timed = "".join(script.calls[4:])  # after two pairs of warm-up
    assert sorted(["aaaa", "bbbb"] * 2) == sorted(timed[index : index + 4] for index in range(0, len(timed), 4))
    assert (6, {2_000_000}, {3_000_000}) == (len(item.a_ns), set(item.a_ns), set(item.b_ns))
    assert [item.b_first[0]] * 3 == list(item.b_first[:3])


def test_a_late_round_is_not_warmed_up_again():
    assert PairBounds(0.1, target_s=0.0).warm(0.0)


def test_a_slow_model_is_not_warmed_up_where_that_would_cost_a_pair():
    # A quarter of the time is 0.5 s.
    assert not PairBounds(0.1, target_s=2.0, pair_s=0.4).warm(0.0)
    assert PairBounds(0.1, target_s=2.0, pair_s=0.4).warm(0.2)
    assert PairBounds(0.1, target_s=2.0, pair_s=0.9).warm(0.0)
    assert not PairBounds(0.1, pair_s=100.0).warm(100.0)


def test_swapped_sides_swap_everything():
    item = PairedRound((1, 2), (3, 4), (0, 1), (1, 0), (True, False), {"wall_s": 1.0})
    assert PairedRound((3, 4), (1, 2), (1, 0), (0, 1), (False, True), {"wall_s": 1.0}) == item.swapped()
    assert item == item.swapped().swapped()


def test_the_order_is_random_and_balanced():
    script = Script(1e6, 1e6)
    item = scripted(script, seconds=2.0)
    assert 0.4 < np.mean(item.b_first) < 0.6
    assert scripted(Script(1e6, 1e6), seed=1).b_first != scripted(Script(1e6, 1e6), seed=2).b_first
    pairs = [set(script.calls[i : i + 2]) for i in range(0, len(script.calls), 2)]
    assert all({"a", "b"} == pair for pair in pairs)


def test_waiting_for_a_core_is_subtracted():
    item = PairedRound((100, 200), (100, 100), (0, 100), (0, 0))
    a, b = net_times(item)
    assert ([100, 100], [100, 100]) == (a.tolist(), b.tolist())
    assert 0 == log_ratios(item).typical


def test_a_wait_longer_than_the_call_leaves_a_positive_time():
    a, _ = net_times(PairedRound((100,), (100,), (500,), (0,)))
    assert 0 < a[0]


@pytest.mark.parametrize(
    ("a", "b", "a_wait", "b_wait"),
    [
        ((), (), (), ()),
        ((1, 2), (1,), (0, 0), (0,)),
        ((0,), (1,), (0,), (0,)),
        ((1,), (-5,), (0,), (0,)),
        ((1,), (1,), (-1,), (0,)),
    ],
    ids=["empty", "lengths", "zero", "backwards", "negative wait"],
)
def test_samples_not_above_zero_are_refused(a: tuple, b: tuple, a_wait: tuple, b_wait: tuple):
    with pytest.raises(DataError):
        PairedRound(a, b, a_wait, b_wait)


def test_a_clock_that_stands_still_is_refused():
    script = Script(0, 1e6)
    with pytest.raises(DataError, match="clock"):
        scripted(script)


@pytest.mark.skipif(
    not Path("/proc/thread-self/schedstat").exists(), reason="only Linux reports the waiting of a thread"
)
def test_the_counter_counts_another_process_and_not_sleep():
    waits = foreign_wait()
    before = waits()
    time.sleep(0.05)
    slept = waits() - before
    hogs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * (os.cpu_count() or 1))]
    try:
        time.sleep(0.5)
        before, start = waits(), time.perf_counter_ns()
        total = 0
        while time.perf_counter_ns() - start < 400_000_000:
            total += 1
        waited = waits() - before
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()
    assert slept < 20_000_000
    assert waited > 40_000_000


def test_wait_until_idle_waits_for_busy_threads():
    stop = time.perf_counter() + 0.03
    thread = threading.Thread(target=lambda: [None for _ in iter(lambda: time.perf_counter() < stop, False)])
    thread.start()
    wait_until_idle(limit_s=1.0)
    assert time.perf_counter() >= stop - 0.005
    thread.join()
