"""Percentiles of the mixture over rounds, their intervals and their errors."""

import importlib.util
import math
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from places import BENCHMARKS
from scipy import stats as scipy_stats

from effbench.errors import UsageError
from effbench.statistics import percentiles
from effbench.statistics.student_t import student_t

# By path, because there is a package named "coverage".
_spec = importlib.util.spec_from_file_location("benchmark_coverage", BENCHMARKS / "coverage.py")
simulation = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = simulation
_spec.loader.exec_module(simulation)
Process, coverage = simulation.Process, simulation.coverage

ROUNDS = st.lists(st.lists(st.integers(1, 10**9), min_size=10, max_size=30), min_size=6, max_size=10)


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 5, 9, 10, 19, 30, 99])
@pytest.mark.parametrize("p", [0.001, 0.2, 0.5, 0.9, 0.975, 0.9995])
def test_student_t_agrees_with_scipy(degrees, p):
    assert scipy_stats.t.ppf(p, degrees) == pytest.approx(student_t(p, degrees), rel=1e-8, abs=1e-9)


def test_each_round_has_equal_weight_for_any_number_of_samples():
    rounds = [[10] * 300, [20] * 30, [30] * 30]
    assert percentiles.quantile(rounds, 0.5) == 20
    assert np.median(np.concatenate(rounds)) == 10  # the median of the pooled samples


@pytest.mark.parametrize("count", [20, 21])
def test_p50_of_one_round_is_its_median(count):
    samples = [int(x) for x in np.random.default_rng(3).integers(1, 10**6, count)]
    assert float(np.median(samples)) == percentiles.quantile([samples], 0.5)


def test_throughput_is_all_images_over_all_time():
    rounds = [[10_000_000, 10_000_000, 25_000_000], [15_000_000]]
    assert 4 * 2 / 0.060 == pytest.approx(percentiles.images_per_second(rounds, batch=2))


@settings(deadline=None, derandomize=True, max_examples=60)
@given(ROUNDS, st.integers(2, 50))
def test_a_quantile_scales_with_its_unit_and_is_in_its_interval(rounds, factor):
    item = percentiles.estimate(rounds, 0.5)
    scaled = percentiles.estimate([[factor * x for x in samples] for samples in rounds], 0.5)
    assert item.interval[0] <= item.value <= item.interval[1]
    assert np.array([item.value, *item.interval]) * factor == pytest.approx([scaled.value, *scaled.interval], rel=1e-9)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(ROUNDS, st.randoms(use_true_random=False))
def test_the_order_of_rounds_and_of_samples_in_them_does_not_matter(rounds, random):
    shuffled = [random.sample(samples, len(samples)) for samples in random.sample(rounds, len(rounds))]
    expected, result = percentiles.estimate(rounds, 0.5), percentiles.estimate(shuffled, 0.5)
    assert [expected.value, *expected.interval] == pytest.approx([result.value, *result.interval], rel=1e-9)


@settings(deadline=None, derandomize=True, max_examples=40)
@given(ROUNDS)
def test_a_higher_level_never_gives_a_shorter_interval(rounds):
    low, high = percentiles.interval(rounds, 0.5, 0.99)
    inner_low, inner_high = percentiles.interval(rounds, 0.5, 0.9)
    assert low <= inner_low <= inner_high <= high


def test_a_constant_latency_has_an_interval_of_no_width():
    assert percentiles.Estimate(7.0, (7.0, 7.0)) == percentiles.estimate([[7] * 20] * 6, 0.5)


def test_five_rounds_give_a_value_but_no_interval():
    rounds = [[10, 11, 12] * 10] * 6
    assert percentiles.estimate(rounds[:5], 0.5) == percentiles.Estimate(11.0, None)
    assert percentiles.interval(rounds, 0.5) is not None


@pytest.mark.parametrize(("p", "samples"), [(0.5, 20), (0.9, 100), (0.99, 1000)])
def test_a_percentile_with_too_few_samples_beyond_it_is_none(p, samples):
    assert percentiles.quantile([range(1, samples)], p) is None
    assert percentiles.quantile([range(1, samples + 1)], p) is not None


def test_the_interval_counts_rounds_not_samples():
    rng = np.random.default_rng(0)
    levels = np.exp(0.03 * rng.standard_normal(10))
    few, many = ([level * rng.lognormal(0, 0.01, size) for level in levels] for size in (50, 5000))
    expected = percentiles.estimate(few, 0.5).relative_half_width
    assert expected == pytest.approx(percentiles.estimate(many, 0.5).relative_half_width, rel=0.1)


@pytest.mark.parametrize(
    ("rounds", "p", "message"),
    [
        ([], 0.5, "at least one round"),
        ([[1], []], 0.5, "at least one sample in each"),
        ([[0, 1]], 0.5, "not above zero"),
        ([[1]], 0.0, "strictly between"),
        ([[1]], 1.0, "strictly between"),
    ],
)
def test_invalid_samples_and_levels_are_errors(rounds, p, message):
    with pytest.raises(UsageError, match=message):
        percentiles.quantile(rounds, p)


def test_the_simulated_truths_are_those_of_the_samples():
    process = Process(2000, 50, 0.5, "3 %", 0.02)
    pooled = np.concatenate(process.draw(np.random.default_rng(1)))
    truths = simulation.Truths.of(process)
    assert truths.p90 == pytest.approx(float(np.quantile(pooled, 0.9)), rel=3e-3)
    slow = simulation.Truths.of(Process(10, 20, 0.0, "slow 10 %", 0.02))
    assert (slow.slow, slow.typical_p90) == pytest.approx((0.1, 1.0570), abs=5e-3)


# The hardest cells of benchmarks/coverage.py: few rounds that differ much, few samples that depend much on each other.
# Each has the mean relative width of its p50; a fifth more would be too wide.
@pytest.mark.parametrize(
    ("process", "width"),
    [
        (Process(10, 20, 0.9, "0 %", 0.02), 0.023),
        (Process(10, 200, 0.0, "3 %", 0.02), 0.047),
        (Process(10, 20, 0.0, "1 %", 0.02), 0.0165),
        (Process(10, 20, 0.0, "slow 15 %", 0.02), None),
    ],
    ids=["dependent", "round-effect", "small", "slow"],
)
@pytest.mark.parametrize("figure", ["p50", "typical p90", "slow processes"])
def test_stated_intervals_cover_and_are_not_too_wide(process, width, figure):
    replicates = 150
    item = coverage(process, figure, replicates)
    assert item.covered >= 0.93 - 2 * math.sqrt(0.93 * 0.07 / replicates)
    if figure == "p50" and width is not None:
        assert 0.8 * width < item.width < 1.2 * width
    if figure == "typical p90":
        assert process.correlation == 0.9 or item.open < 0.1


def test_coverage_detects_intervals_that_are_too_short(monkeypatch):
    monkeypatch.setattr(percentiles, "student_t", lambda p, degrees: 1.0)
    assert coverage(Process(10, 200, 0.0, "3 %", 0.02), "p50", 200).covered < 0.85


def slow_in_some(share: float, rounds: int, rng: np.random.Generator, samples: int = 40) -> list[np.ndarray]:
    """Return rounds of 1 ms with skewed noise, a share of them 30 % slower."""
    level = 1e6 * np.where(rng.random((rounds, 1)) < share, 1.3, 1.0)
    return list(level * (1 + 0.02 * np.exp(0.8 * rng.standard_normal((rounds, samples)))))


def test_a_p90_of_all_processes_is_open_below_35_rounds():
    rounds = slow_in_some(0.0, 35, np.random.default_rng(1))
    few, enough = (percentiles.interval(some, 0.9) for some in (rounds[:34], rounds))
    assert math.inf == few[1]
    assert max(map(max, rounds)) == enough[1]
    assert math.isfinite(percentiles.interval(rounds[:10], 0.5)[1])


def test_the_p90_of_a_typical_process_is_not_that_of_slow_ones():
    rounds = slow_in_some(0.15, 20, np.random.default_rng(2))
    typical, pooled = percentiles.typical(rounds, 0.9), percentiles.estimate(rounds, 0.9)
    assert 1.04e6 < typical.value < 1.08e6
    assert pooled.value > 1.2e6
    assert typical.interval[0] <= typical.value <= typical.interval[1] < 1.2e6


def test_the_interval_of_a_typical_p90_covers_with_slow_processes():
    rng, truth = np.random.default_rng(3), 1e6 * (1 + 0.02 * math.exp(0.8 * 1.2816))
    spans = [percentiles.typical(slow_in_some(0.1, 10, rng), 0.9).interval for _ in range(100)]
    assert sum(low <= truth <= high for low, high in spans) >= 93


def test_a_typical_p90_is_open_where_samples_hardly_change_within_a_round():
    levels = np.repeat(np.random.default_rng(4).normal(1e6, 2e4, (10, 1)), 20, axis=1)
    steps = np.cumsum(np.full((10, 20), 1.0), axis=1)
    assert math.inf == percentiles.typical(list(levels + steps), 0.9).interval[1]
    assert percentiles.typical([[7] * 20] * 6, 0.9).interval == (7.0, 7.0)


def test_slow_processes_are_counted_against_the_typical_one():
    rounds = [[100] * 20] * 9 + [[106] * 20]
    share = percentiles.slow_processes(rounds)
    assert (1, 10) == (share.slow, share.count)
    assert (0.0025, 0.445) == pytest.approx(share.interval, abs=1e-3)
    assert (0, 1 - 0.05 ** (1 / 9)) == pytest.approx(percentiles.slow_processes(rounds[:9]).interval)
