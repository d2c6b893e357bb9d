"""The sequential test: mirrored verdicts, few false alarms whatever the noise, power, and no verdict from nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effbench.errors import UsageError
from effbench.statistics.sequential import (
    FASTER,
    INCONCLUSIVE,
    OUTCOMES,
    SLOWER,
    UNCHANGED,
    Rules,
    interval,
    judge,
    log_wealth,
    outcomes,
    scales,
    smallest_detectable,
)

MIRRORED = np.array([FASTER, SLOWER, UNCHANGED, INCONCLUSIVE])
ratios = st.lists(st.floats(-1, 1, allow_nan=False), min_size=1, max_size=25)


def ends(typical: np.ndarray, tail: np.ndarray, rules: Rules | None = None) -> np.ndarray:
    """Return the outcome of each replay where it stops."""
    codes, settled = outcomes(typical, tail, rules or Rules())
    last = np.where(settled.any(axis=1), settled.argmax(axis=1), codes.shape[1] - 1)
    return codes[np.arange(len(codes)), last]


def share(found: np.ndarray, code: int) -> float:
    return float((found == code).mean())


@settings(derandomize=True, deadline=None)
@given(ratios, st.integers(0, 2**31))
def test_mirrored_inputs_give_mirrored_verdicts(values: list[float], seed: int):
    typical = np.array([values])
    tail = np.random.default_rng(seed).permutation(typical, axis=1)
    codes, settled = outcomes(typical, tail, Rules())
    mirrored, also = outcomes(-typical, -tail, Rules())
    assert (MIRRORED[codes] == mirrored).all()
    assert (settled == also).all()


@settings(derandomize=True, deadline=None, max_examples=40)
@given(ratios)
def test_the_interval_is_mirrored_and_holds_what_it_must(values: list[float]):
    rounds = np.array(values)
    one, other = interval(rounds, 0.01), interval(-rounds, 0.01)
    assert (-one.high, -one.low) == pytest.approx((other.low, other.high), abs=1e-9)
    assert one.low <= one.high


@pytest.mark.parametrize("noise", ["normal", "cauchy", "two values", "growing"])
@pytest.mark.parametrize("size", [0.003, 0.03, 0.3])
def test_equal_sides_are_seldom_called_otherwise(noise: str, size: float):
    rng = np.random.default_rng(7)
    shape = (4000, 40)
    made = {
        "normal": lambda: rng.standard_normal(shape),
        "cauchy": lambda: rng.standard_cauchy(shape),
        "two values": lambda: rng.choice([-1.0, 1.0], shape),
        "growing": lambda: rng.standard_normal(shape) * np.linspace(0.1, 3, 40),
    }
    typical = size * made[noise]()
    found = ends(typical, size * made[noise]())
    # 0.5 % is the promise; 4000 replays leave room for 2.6 standard errors of it.
    assert share(found, SLOWER) + share(found, FASTER) <= 0.008


def test_the_promise_holds_at_the_edge_of_the_floor_too():
    rng = np.random.default_rng(8)
    rules = Rules()
    at_floor = rules.floor + 0.05 * rng.standard_normal((4000, 40))
    assert share(ends(at_floor, at_floor), SLOWER) <= 0.008


def test_a_suite_shares_one_budget():
    one, many = Rules().alphas(1), Rules().alphas(10)
    assert (one[0] / 10, one[1] / 10) == pytest.approx(many)
    assert 0.005 == pytest.approx(2 * (one[0] + one[1]))


@pytest.mark.parametrize(("slowdown", "least"), [(0.03, 0.97), (0.05, 0.99), (0.2, 0.99)])
def test_a_slowdown_is_seen_within_twenty_rounds(slowdown: float, least: float):
    rng = np.random.default_rng(9)
    typical = math.log1p(slowdown) + 0.006 * rng.standard_normal((2000, 20))
    found = ends(typical, typical + 0.02 * rng.standard_normal((2000, 20)))
    assert share(found, SLOWER) >= least
    assert share(found, FASTER) == 0


def test_wild_rounds_do_not_decide():
    rng = np.random.default_rng(10)
    typical = math.log1p(0.05) + 0.006 * rng.standard_normal((2000, 25))
    wild = rng.random(typical.shape) < 0.05
    typical = np.where(wild, rng.standard_cauchy(typical.shape), typical)
    assert share(ends(typical, typical), SLOWER) >= 0.97


def test_a_tail_alone_is_enough():
    rng = np.random.default_rng(11)
    typical = 0.005 * rng.standard_normal((500, 25))
    found = ends(typical, math.log1p(0.1) + 0.01 * rng.standard_normal((500, 25)))
    assert share(found, SLOWER) == 1


def test_a_large_slowdown_is_never_unchanged():
    rng = np.random.default_rng(12)
    typical = math.log1p(0.1) + 0.1 * rng.standard_normal((4000, 40))
    assert share(ends(typical, typical), UNCHANGED) <= 0.005


def test_one_round_says_nothing():
    answer = judge(np.array([0.5]), np.array([0.5]), Rules())
    assert ("inconclusive", False) == (answer.outcome, answer.settled)
    assert "1 round(s) are too few" in answer.reason


def test_questions_that_disagree_are_not_averaged():
    rounds = np.full(30, 0.05)
    answer = judge(rounds, -rounds, Rules())
    assert "inconclusive" == answer.outcome
    assert "typical latency is slower, tail latency faster" == answer.reason


def test_a_verdict_names_what_decided_it_and_what_it_could_have_seen():
    rng = np.random.default_rng(13)
    typical = 0.05 + 0.002 * rng.standard_normal(14)
    answer = judge(typical, 0.03 * rng.standard_normal(14), Rules())
    assert ("slower", ("typical",)) == (answer.outcome, answer.by)
    assert 0.04 < answer.typical.low < 0.05 < answer.typical.high < 0.06
    assert Rules().floor < smallest_detectable(answer.typical, Rules()) < 0.02


def test_fail_above_goes_on_until_the_whole_interval_is_there():
    rules = Rules(fail_above_pct=5)
    rng = np.random.default_rng(14)
    rounds = math.log1p(0.055) + 0.01 * rng.standard_normal((200, 60))
    _, plain = outcomes(rounds, rounds, Rules())
    _, asked = outcomes(rounds, rounds, rules)
    assert np.median(plain.argmax(axis=1)) < np.median(np.where(asked.any(axis=1), asked.argmax(axis=1), 60))


def test_the_scale_of_a_round_is_known_before_it():
    rounds = 0.01 * np.random.default_rng(15).standard_normal((3, 12))
    changed = rounds.copy()
    changed[:, -1] = 9
    assert (scales(rounds) == scales(changed)).all()
    assert (np.diff(log_wealth(rounds, 0.0), axis=1) >= 0).all()


@pytest.mark.parametrize(
    "wrong", [{"floor_pct": 5}, {"floor_pct": -1}, {"false_alarms": 0}, {"tail_share": 1}, {"fail_above_pct": 0.5}]
)
def test_rules_that_mean_nothing_are_refused(wrong: dict[str, float]):
    with pytest.raises(UsageError):
        Rules(**wrong)


@pytest.mark.parametrize("values", [[], [math.nan], [math.inf, 0.0]])
def test_a_verdict_needs_finite_ratios(values: list[float]):
    with pytest.raises(UsageError, match="finite"):
        judge(np.array(values), np.array(values), Rules())


def test_outcomes_have_names():
    assert ("slower", "faster", "unchanged", "inconclusive") == OUTCOMES
