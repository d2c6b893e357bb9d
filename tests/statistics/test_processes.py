"""The share of slow processes: its bound holds at every look, and the interval is exact."""

from __future__ import annotations

import numpy as np
import pytest

from effbench.statistics.processes import MISSED, SlowProcesses, bounded, most_slow, slow_processes
from effbench.statistics.proportions import clopper_pearson


@pytest.mark.parametrize("processes", [23, 44])
def test_the_share_that_is_excluded_is_bounded_at_no_round_with_more_than_the_stated_probability(processes: int):
    share = 0.1 if processes == 23 else 0.0537
    slow = np.random.default_rng(1).random((20_000, 150)) < share
    ever = (np.cumsum(slow, axis=1) <= np.array(most_slow(150, processes))).any(axis=1)
    assert ever.mean() <= MISSED + 0.005


def test_one_slow_process_needs_many_more_that_are_not():
    allowed = most_slow(150, 23)
    assert [23, 59, 80] == [allowed.index(slow) + 1 for slow in range(3)]


def test_slow_processes_are_counted_beyond_the_margin_and_the_noise():
    typical = np.array([0.0] * 20 + [0.7, 0.7, -0.7, 0.05])
    item = slow_processes(typical, 0.0488)
    assert (24, 2, 1) == (item.rounds, item.slow, item.fast)
    assert pytest.approx(0.0518) == item.beyond


def test_a_noisy_machine_does_not_count_its_noise_as_slow_processes():
    typical = 0.05 * np.random.default_rng(2).standard_normal(60)
    assert slow_processes(typical, 0.0488).slow <= 1
    assert bounded(typical, 0.0488, 23)[-1]


def test_faster_processes_prevent_unchanged_too():
    typical = np.zeros((2, 30))
    typical[1, 5] = -0.7
    assert [True, False] == bounded(typical, 0.0488, 23)[:, -1].tolist()


@pytest.mark.parametrize(
    ("hits", "total", "level", "expected"),
    [
        (0, 23, 0.90, (0.0, 1 - 0.05 ** (1 / 23))),
        (7, 34, 0.95, (0.0870, 0.3790)),
        (3, 10, 0.95, (0.0667, 0.6525)),
        (10, 10, 0.95, (0.6915, 1.0)),
    ],
)
def test_clopper_pearson(hits: int, total: int, level: float, expected: tuple[float, float]):
    assert expected == pytest.approx(clopper_pearson(hits, total, level), abs=1e-4)


def test_without_a_slow_process_the_bound_is_one_sided():
    assert (0.0, 1 - 0.05 ** (1 / 23)) == pytest.approx(SlowProcesses(23, 0, 0, 0.05).share)
