"""The plan of a comparison: it matches what longer runs do, and knows when no verdict is in reach."""

from __future__ import annotations

import numpy as np
import pytest

from effbench.statistics.planning import in_reach, plan, round_seconds
from effbench.statistics.sequential import Rules
from effbench.statistics.verdict import plan_line

RULES = Rules()


@pytest.fixture(scope="module")
def rounds() -> np.ndarray:
    """Five rounds of an idle machine."""
    return 0.006 * np.random.default_rng(1).standard_normal(5)


def test_a_plan_names_the_seconds_of_each_slowdown_and_of_unchanged(rounds: np.ndarray):
    planned = plan(rounds, 3 * rounds, 2.0, RULES)
    durations = [planned.slower_s[pct] for pct in ("3", "5", "10", "20")]
    assert all(seconds is not None for seconds in durations)
    assert durations == sorted(durations, reverse=True)
    # 10 rounds for a large slowdown, 23 processes for unchanged.
    assert 20.0 == durations[-1]
    assert planned.unchanged_s is not None
    assert 46 <= planned.unchanged_s <= 60
    assert "+20 % in 20 s" in plan_line(planned)


def test_a_suite_and_a_noisy_machine_need_more(rounds: np.ndarray):
    single = plan(rounds, 3 * rounds, 1.0, RULES)
    assert single.slower_s["20"] == 10
    assert plan(rounds, 3 * rounds, 1.0, RULES, 100).slower_s["20"] == 18
    noisy = plan(30 * rounds, 30 * rounds, 1.0, RULES)
    assert noisy.slower_s["3"] is None
    assert noisy.unchanged_s is None
    assert "in no reasonable time" in plan_line(noisy)


@pytest.mark.parametrize(("more", "possible"), [(4, False), (5, True), (10**9, True)])
def test_a_verdict_is_in_reach_if_the_clearest_rounds_would_bring_one(rounds: np.ndarray, more: int, possible: bool):
    assert possible == in_reach(np.full(5, 0.2), np.full(5, 0.2), more, RULES)


def test_rounds_without_a_change_may_still_become_unchanged(rounds: np.ndarray):
    assert not in_reach(rounds, rounds, 9, RULES)
    assert in_reach(rounds, rounds, 18, RULES)


@pytest.mark.parametrize(("typical", "tail", "rounds"), [(0.0, 0.0, 23), (0.02, 0.0, 15), (0.0, -0.08, 15)])
def test_equal_sides_get_more_and_shorter_rounds(typical: float, tail: float, rounds: int):
    ratios = np.full(5, typical), np.full(5, tail)
    assert 50 / (rounds - 5 + 1) == pytest.approx(float(round_seconds(ratios, np.array(10.0), 60.0, RULES)))


def test_the_length_of_rounds_follows_each_of_several_runs():
    typical = np.array([[0.0] * 4, [0.1] * 4])
    assert [40 / 20, 30 / 12] == pytest.approx(round_seconds((typical, typical), np.array([20.0, 30.0]), 60.0, RULES))


def test_no_time_is_left_after_the_budget():
    nothing = np.empty(0)
    assert 0 == round_seconds((nothing, nothing), np.array(61.0), 60.0, RULES)
