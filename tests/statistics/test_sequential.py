"""The sequential test: swapped verdicts for swapped inputs, few false alarms under any noise, power, early stopping."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effbench.errors import UsageError
from effbench.statistics.betting import by_distance, by_sign_beyond, fewest_rounds, log_wealth, scales
from effbench.statistics.sequential import (
    FASTER,
    INCONCLUSIVE,
    OUTCOMES,
    SLOWER,
    UNCHANGED,
    Rules,
    interval,
    judge,
    outcomes,
    smallest_detectable,
)

MIRRORED = np.array([FASTER, SLOWER, UNCHANGED, INCONCLUSIVE])
ratios = st.lists(st.floats(-1, 1, allow_nan=False), min_size=1, max_size=25)


def final_outcomes(typical: np.ndarray, tail: np.ndarray, rules: Rules | None = None) -> np.ndarray:
    """Return the outcome of each replay at the round where it stops."""
    codes, settled = outcomes(typical, tail, rules or Rules())
    last = np.where(settled.any(axis=1), settled.argmax(axis=1), codes.shape[1] - 1)
    return codes[np.arange(len(codes)), last]


def share(codes: np.ndarray, code: int) -> float:
    return float((codes == code).mean())


@settings(derandomize=True, deadline=None)
@given(ratios, st.sampled_from([0.0, 0.04, -0.04]), st.integers(0, 2**31))
def test_mirrored_inputs_give_mirrored_verdicts(values: list[float], change: float, seed: int):
    typical = change + 0.01 * np.array([values]) if change else np.array([values])
    tail = np.random.default_rng(seed).permutation(typical, axis=1)
    codes, settled = outcomes(typical, tail, Rules())
    mirrored, mirrored_settled = outcomes(-typical, -tail, Rules())
    assert (MIRRORED[codes] == mirrored).all()
    assert (settled == mirrored_settled).all()


def test_a_speed_up_is_faster():
    rounds = -0.05 + 0.006 * np.random.default_rng(6).standard_normal((500, 12))
    assert share(final_outcomes(rounds, rounds), FASTER) == 1


@settings(derandomize=True, deadline=None, max_examples=40)
@given(ratios)
def test_the_interval_is_mirrored_and_ordered(values: list[float]):
    rounds = np.array(values)
    item, mirrored = interval(rounds, 0.01), interval(-rounds, 0.01)
    assert (-item.high, -item.low) == pytest.approx((mirrored.low, mirrored.high), abs=1e-9)
    assert item.low <= item.high


def equal_models(noise: str, size: float) -> np.ndarray:
    """Return the outcomes of 4000 comparisons of equal models under a kind of noise."""
    rng = np.random.default_rng(7)
    shape = (4000, 40)
    draw = {
        "normal": lambda: rng.standard_normal(shape),
        "cauchy": lambda: rng.standard_cauchy(shape),
        "two values": lambda: rng.choice([-1.0, 1.0], shape),
        "growing": lambda: rng.standard_normal(shape) * np.linspace(0.1, 3, 40),
    }[noise]
    typical = size * draw()
    return final_outcomes(typical, size * draw())


# With noise of 30 % and more the floor gives no protection: the error probability alone bounds false alarms.
@pytest.mark.parametrize("noise", ["normal", "cauchy", "two values", "growing"])
@pytest.mark.parametrize("size", [0.3, 3.0])
def test_equal_models_are_rarely_called_different(noise: str, size: float):
    codes = equal_models(noise, size)
    # The error probability is 0.5 %; the bound adds 2.6 standard errors of 4000 replays.
    assert share(codes, SLOWER) + share(codes, FASTER) <= 0.008


@pytest.mark.parametrize("noise", ["normal", "two values", "growing"])
def test_noise_below_the_floor_never_raises_an_alarm(noise: str):
    codes = equal_models(noise, 0.003)
    assert (0, 0) == (share(codes, SLOWER), share(codes, FASTER))


def test_a_slowdown_at_the_floor_is_rarely_called_slower():
    rng = np.random.default_rng(8)
    rules = Rules()
    at_floor = rules.floor + 0.05 * rng.standard_normal((4000, 40))
    # Both questions see the same rounds, so that the larger of the two probabilities holds; 2.6 standard errors of it.
    alpha = max(rules.alphas())
    assert share(final_outcomes(at_floor, at_floor), SLOWER) <= alpha + 2.6 * math.sqrt(alpha / 4000)


def test_the_comparisons_of_a_suite_share_the_error_probability():
    single, suite = Rules().alphas(1), Rules().alphas(10)
    assert [alpha / 10 for alpha in single] == pytest.approx(suite)
    assert 0.005 == pytest.approx(2 * sum(single))


@pytest.mark.parametrize(("comparisons", "rounds"), [(1, (10, 23)), (10, (14, 23)), (100, (18, 23))])
def test_the_fewest_rounds_of_a_verdict(comparisons: int, rounds: tuple[int, int]):
    rules = Rules()
    assert rounds == rules.fewest_rounds(comparisons)
    slower = np.full(rounds[0], 0.3)
    assert "slower" == judge(slower, slower, rules, comparisons).outcome
    assert "inconclusive" == judge(slower[1:], slower[1:], rules, comparisons).outcome


def slower_models(slowdown: float, rounds: int) -> np.ndarray:
    rng = np.random.default_rng(9)
    typical = math.log1p(slowdown) + 0.006 * rng.standard_normal((2000, rounds))
    return final_outcomes(typical, typical + 0.02 * rng.standard_normal((2000, rounds)))


@pytest.mark.parametrize(("slowdown", "rounds"), [(0.03, 11), (0.05, 10), (0.2, 10)])
def test_a_slowdown_is_detected_after_the_fewest_possible_rounds(slowdown: float, rounds: int):
    codes = slower_models(slowdown, rounds)
    assert share(codes, SLOWER) >= 0.99
    assert share(codes, FASTER) == 0
    assert share(slower_models(slowdown, 9), INCONCLUSIVE) == 1


def test_outlier_rounds_do_not_decide():
    rng = np.random.default_rng(10)
    typical = math.log1p(0.05) + 0.006 * rng.standard_normal((2000, 25))
    outliers = rng.random(typical.shape) < 0.05
    typical = np.where(outliers, rng.standard_cauchy(typical.shape), typical)
    assert share(final_outcomes(typical, typical), SLOWER) >= 0.99


def test_a_slower_tail_alone_is_slower():
    rng = np.random.default_rng(11)
    typical = 0.005 * rng.standard_normal((500, 25))
    codes = final_outcomes(typical, math.log1p(0.1) + 0.01 * rng.standard_normal((500, 25)))
    assert share(codes, SLOWER) == 1


@pytest.mark.parametrize("noise", [0.01, 0.05])
def test_a_slowdown_at_the_margin_is_never_unchanged(noise: float):
    rng = np.random.default_rng(12)
    rules = Rules(floor_pct=4.9)  # just below the margin, so that "slower" does not come first
    typical = rules.margin + noise * rng.standard_normal((4000, 40))
    missed = rules.missed()
    assert share(final_outcomes(typical, typical, rules), UNCHANGED) <= missed + 2.6 * math.sqrt(missed / 4000)


def test_a_slowdown_between_floor_and_margin_is_measured_until_it_is_slower():
    typical = math.log1p(0.02) + 0.006 * np.random.default_rng(16).standard_normal((1000, 40))
    codes = final_outcomes(typical, typical)
    assert share(codes, SLOWER) >= 0.97
    assert share(codes, UNCHANGED) <= 0.005


def test_one_round_is_inconclusive():
    decision = judge(np.array([0.5]), np.array([0.5]), Rules())
    assert ("inconclusive", False) == (decision.outcome, decision.settled)
    assert "1 round is too few" in decision.reason


def test_questions_that_disagree_are_not_averaged():
    rounds = np.full(30, 0.05)
    decision = judge(rounds, -rounds, Rules())
    assert "inconclusive" == decision.outcome
    assert "typical latency is slower, tail latency is faster" == decision.reason


def test_a_decision_names_its_question_and_its_interval_is_tight():
    rng = np.random.default_rng(13)
    typical = 0.05 + 0.002 * rng.standard_normal(14)
    decision = judge(typical, 0.03 * rng.standard_normal(14), Rules())
    assert ("slower", ("typical",)) == (decision.outcome, decision.by)
    assert 0.047 < decision.typical.low < 0.05 < decision.typical.high < 0.054


def test_the_smallest_detectable_slowdown_is_the_one_whose_interval_begins_at_the_floor():
    rules, alpha = Rules(), 0.002
    rounds = 0.05 + 0.002 * np.random.default_rng(13).standard_normal(14)
    item = interval(rounds, alpha)
    shifted = interval(rounds - item.estimate + smallest_detectable(item, rules), alpha)
    assert rules.floor == pytest.approx(shifted.low, abs=1e-6)


def test_fail_above_needs_the_entire_interval_above_it():
    rules = Rules(fail_above_pct=5)
    rng = np.random.default_rng(14)
    rounds = math.log1p(0.055) + 0.01 * rng.standard_normal((200, 60))
    _, default = outcomes(rounds, rounds, Rules())
    _, strict = outcomes(rounds, rounds, rules)
    assert np.median(default.argmax(axis=1)) < np.median(np.where(strict.any(axis=1), strict.argmax(axis=1), 60))


def test_the_scale_of_a_round_depends_on_earlier_rounds_only():
    rounds = 0.01 * np.random.default_rng(15).standard_normal((3, 12))
    changed = rounds.copy()
    changed[:, -1] = 9
    assert (scales(rounds) == scales(changed)).all()
    assert (np.diff(log_wealth(rounds, 0.0, by_distance(scales(rounds))), axis=1) >= 0).all()


def some_slow_processes(share: float, rounds: int, replays: int = 1500) -> tuple[np.ndarray, np.ndarray]:
    """Return typical and tail ratios of a candidate that is twice as slow in a share of its processes."""
    rng = np.random.default_rng(17)
    typical = 0.006 * rng.standard_normal((replays, rounds)) + math.log(2) * (rng.random((replays, rounds)) < share)
    return typical, typical + 0.02 * rng.standard_normal((replays, rounds))


# The default excludes a share of 10 %, at any round together; a larger share sooner.
@pytest.mark.parametrize(
    ("share_slow", "processes", "rounds", "at_most"),
    [(0.1, 23, 34, 0.11), (0.1, 44, 60, 0.015), (0.2, 23, 34, 0.01), (0.4, 23, 34, 0.001)],
)
def test_a_candidate_that_is_slow_in_some_processes_is_rarely_unchanged(
    share_slow: float, processes: int, rounds: int, at_most: float
):
    typical, tail = some_slow_processes(share_slow, rounds)
    assert share(final_outcomes(typical, tail, Rules(processes=processes)), UNCHANGED) <= at_most


def test_a_candidate_that_is_slow_in_some_processes_becomes_slower():
    codes = final_outcomes(*some_slow_processes(0.4, 60, 500))
    assert share(codes, SLOWER) >= 0.99


def test_an_inconclusive_verdict_names_the_slow_processes():
    typical, tail = some_slow_processes(0.1, 34, 200)
    chosen = next(index for index, row in enumerate(typical) if (row > 0.5).sum() == 4)
    decision = judge(typical[chosen], tail[chosen], Rules())
    assert "of 34 processes, B was slower in 4 and faster in 0 by more than 7 %" in decision.reason
    assert (4, 0) == (decision.processes.slow, decision.processes.fast)


def test_few_slow_processes_decide_by_the_sign_of_the_far_rounds():
    far = np.resize([0.7, 0.0, 0.0], 39)
    decision = judge(far, np.zeros(39), Rules())
    assert ("slower", ("processes",)) == (decision.outcome, decision.by)
    assert decision.far.low == decision.fails.low > Rules().floor


def test_rounds_far_on_either_side_are_a_fair_coin():
    rng = np.random.default_rng(18)
    far = rng.choice([-0.7, 0.7], (20_000, 40))
    alpha = Rules().alphas()[2]
    wealth = log_wealth(far, Rules().floor, by_sign_beyond(Rules().margin))
    # 2.6 standard errors of 20,000 replays.
    assert (wealth[:, -1] >= -math.log(alpha)).mean() <= alpha + 2.6 * math.sqrt(alpha / 20_000)
    assert 13 == fewest_rounds(alpha)


@pytest.mark.parametrize("change", [-0.03, 0.0, 0.03, 0.06, 0.08])
def test_a_slowdown_below_the_failing_one_does_not_use_the_entire_budget(change: float):
    rng = np.random.default_rng(19)
    typical = math.log1p(change) + 0.008 * rng.standard_normal((500, 40))
    tail = typical + 0.015 * rng.standard_normal((500, 40))
    _, settled = outcomes(typical, tail, Rules(fail_above_pct=10))
    stopped = np.where(settled.any(axis=1), settled.argmax(axis=1), 39) + 1
    assert np.median(stopped) <= 25


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"floor_pct": 5}, "floor of 5 % must be below the margin of 5 %"),
        ({"floor_pct": -1}, "floor of -1 %"),
        ({"false_alarms": 0}, "probability of a false alarm"),
        ({"tail_share": 1}, "the tail's share"),
        ({"process_share": 0.8}, "for processes must be above 0"),
        ({"processes": 0}, "--processes 0 is not above zero"),
        ({"fail_above_pct": 0.5}, "--fail-above 0.5 is below the noise floor of 1 %"),
    ],
)
def test_invalid_rules_are_errors(options: dict[str, float], message: str):
    with pytest.raises(UsageError, match=message):
        Rules(**options)


@pytest.mark.parametrize("values", [[], [math.nan], [math.inf, 0.0]])
def test_a_verdict_needs_finite_ratios(values: list[float]):
    with pytest.raises(UsageError, match="finite"):
        judge(np.array(values), np.array(values), Rules())


def test_outcomes_have_names():
    assert ("slower", "faster", "unchanged", "inconclusive") == OUTCOMES
