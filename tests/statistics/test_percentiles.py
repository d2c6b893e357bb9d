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
    assert scipy_stats.t.ppf(p, degrees) == pytest.approx(percentiles.student_t(p, degrees), rel=1e-8, abs=1e-9)


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


def test_the_simulated_quantile_is_that_of_the_samples():
    process = Process(rounds=2000, samples=50, correlation=0.5, effect=0.03, scale=0.02)
    pooled = np.concatenate(process.draw(np.random.default_rng(1)))
    assert process.quantile(0.9) == pytest.approx(float(np.quantile(pooled, 0.9)), rel=3e-3)


# The hardest cells of benchmarks/coverage.py: few rounds that differ much, few samples that depend much on each other.
# Each has the mean relative width of its p50 and p90 intervals; a fifth more would be too wide.
@pytest.mark.parametrize(
    ("process", "p50_width", "p90_width"),
    [
        (Process(10, 20, 0.9, 0.0, 0.02), 0.023, 0.059),
        (Process(10, 200, 0.0, 0.03, 0.02), 0.047, 0.063),
        (Process(10, 20, 0.0, 0.01, 0.02), 0.0165, 0.033),
    ],
    ids=["dependent", "round-effect", "small"],
)
@pytest.mark.parametrize(("p", "target"), [(0.5, 0.93), (0.9, 0.90)])
def test_stated_intervals_cover_and_are_not_too_wide(process, p50_width, p90_width, p, target):
    replicates = 400
    covered, *_, width = coverage(process, p, replicates)
    assert covered >= target - 2 * math.sqrt(target * (1 - target) / replicates)
    expected = p50_width if p == 0.5 else p90_width
    assert 0.8 * expected < width < 1.2 * expected


def test_coverage_detects_intervals_that_are_too_short(monkeypatch):
    monkeypatch.setattr(percentiles, "student_t", lambda p, degrees: 1.0)
    covered, *_ = coverage(Process(10, 200, 0.0, 0.03, 0.02), 0.5, 200)
    assert covered < 0.85
