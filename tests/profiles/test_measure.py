"""The clock, tested on sessions with known latencies and bounds."""

import gc
import itertools
from dataclasses import replace

import numpy as np
import pytest
from scripted_machine import MS, A, Machine, cycle

from effbench.errors import MeasurementError, UsageError
from effbench.profiles import measure, trust
from effbench.schema import Samples
from effbench.statistics import percentiles


def rounds_of(make, count=10, **options):
    return Samples(tuple(Machine(make(seed)).round(**options) for seed in range(count)))


def assert_percentiles(samples, expected_ms):
    series = [round_.samples_ns for round_ in samples.rounds]
    for p, value in expected_ms.items():
        assert value == pytest.approx(percentiles.quantile(series, p) / MS, rel=0.01), f"p{100 * p:g}"


def test_a_constant_session():
    samples = rounds_of(lambda seed: cycle(10))
    assert_percentiles(samples, {0.5: 10, 0.9: 10, 0.99: 10})
    # The load of the real machine is irrelevant to a scripted clock.
    alone = Samples(tuple(replace(round_, observed={}) for round_ in samples.rounds))
    assert trust.grade(alone) == (
        "C",
        (
            "other load could not be observed on this machine",
            "no reference kernel was timed: a machine that was slow in all rounds would not show",
        ),
    )
    assert all(round_.stationary for round_ in samples.rounds)


def test_a_bimodal_session():
    rng = np.random.default_rng(0)
    samples = rounds_of(lambda seed: (12 * MS if rng.random() < 0.4 else 8 * MS for _ in itertools.count()))
    assert_percentiles(samples, {0.3: 8, 0.5: 8, 0.7: 12, 0.9: 12})
    assert any("bimodal" in reason for reason in trust.grade(samples)[1])


def test_a_drifting_session():
    # 10 ms, growing by 0.05 % an inference without end.
    samples = rounds_of(lambda seed: (int(10 * MS * 1.0005**i) for i in itertools.count()))
    expected = np.quantile([10 * 1.0005**i for i in range(21, 21 + len(samples.rounds[0].samples_ns))], [0.5, 0.9])
    assert_percentiles(samples, dict(zip((0.5, 0.9), expected, strict=True)))
    assert any(reason.startswith("drift") for reason in trust.grade(samples)[1])


def test_a_spiky_session():
    rng = np.random.default_rng(0)
    spikes = lambda seed: (50 * MS if rng.random() < 0.03 else 10 * MS for _ in itertools.count())  # noqa: E731
    samples = rounds_of(spikes)
    assert_percentiles(samples, {0.5: 10, 0.9: 10, 0.99: 50})
    assert not any("bimodal" in reason for reason in trust.grade(samples)[1])


def test_a_skewed_session():
    rng = np.random.default_rng(1)
    samples = rounds_of(
        lambda seed: (10 * MS * (1 + 0.05 * rng.exponential()) for _ in itertools.count()), min_seconds=40
    )
    expected = {p: 10 * (1 - 0.05 * np.log(1 - p)) for p in (0.5, 0.9, 0.99)}
    assert_percentiles(samples, expected)


def test_the_first_inference_is_timed_separately_and_warmup_is_not_sampled():
    # 900 ms once, then a decay from 30 ms to 10 ms over about 100 inferences.
    latencies = itertools.chain([900 * MS], (int((10 + 20 * np.exp(-i / 20)) * MS) for i in itertools.count()))
    round_ = Machine(latencies).round(max_warmup_seconds=10)
    assert round_.first_ms == 900
    assert round_.stationary
    assert max(round_.samples_ns) < 10.2 * MS
    assert round_.warmup >= 80


def test_a_warmup_that_is_never_stationary_is_bounded_and_reported():
    round_ = Machine(int(10 * MS * 1.02**i) for i in itertools.count()).round(max_warmup_seconds=2, max_seconds=5)
    assert not round_.stationary
    assert any("not stationary" in reason for reason in trust.grade(Samples((round_,)))[1])


def test_warmup_distinguishes_noise_from_a_trend():
    rng = np.random.default_rng(0)
    noise = [[int(x) for x in 10 * MS * rng.lognormal(0, 0.1, 80)] for _ in range(200)]
    assert np.mean([measure.is_stationary(samples) for samples in noise]) > 0.9
    trend = [[int(x * 1.005**i) for i, x in enumerate(samples)] for samples in noise]
    assert np.mean([measure.is_stationary(samples) for samples in trend]) < 0.4


@pytest.mark.parametrize(
    ("latency_ms", "bounds", "expected"),
    [
        (10, {"min_samples": 50, "min_seconds": 0.1, "max_seconds": 9}, 50),
        (10, {"min_samples": 50, "min_seconds": 2.0, "max_seconds": 9}, 200),
        (100, {"min_samples": 50, "min_seconds": 0.5, "max_seconds": 1}, 10),
        (5000, {"min_samples": 50, "min_seconds": 0.5, "max_seconds": 1}, 1),
    ],
    ids=["count", "time", "bounded", "one-at-least"],
)
def test_a_round_holds_n_samples_and_t_seconds(latency_ms, bounds, expected):
    assert expected == len(Machine(cycle(latency_ms)).round(**bounds).samples_ns)


def test_every_call_is_accounted_for():
    machine = Machine(cycle(10))
    round_ = machine.round()
    assert machine.calls == 1 + round_.warmup + len(round_.samples_ns)


def test_the_garbage_collector_is_off_during_timing_and_on_again_after():
    states = set()

    def session(feeds):
        states.add(gc.isenabled())
        return feeds

    measure.measure_round(session, A, measure.RoundPlan(5, 0, 1))
    assert states == {False}
    assert gc.isenabled()


def test_the_garbage_collector_is_on_again_if_the_session_fails():
    with pytest.raises(StopIteration):
        Machine([]).round()
    assert gc.isenabled()


def test_a_clock_that_stands_still_is_an_error():
    with pytest.raises(MeasurementError, match="stood still"):
        measure.measure_round(lambda feeds: feeds, A, measure.RoundPlan(20, 0, 0, 0), clock=lambda: 5)


@pytest.mark.parametrize(
    "bounds", [{"min_samples": 0}, {"min_seconds": 5.0, "max_seconds": 1.0}, {"min_seconds": -1.0}]
)
def test_impossible_bounds_are_refused(bounds):
    with pytest.raises(UsageError):
        Machine(cycle(1)).round(**bounds)


def test_other_load_is_observed():
    round_ = measure.measure_round(lambda feeds: sum(range(20000)), A, measure.RoundPlan(20, 0.1))
    assert round_.observed["wall_s"] >= 0.1
    assert 0 < round_.observed["cpu_ratio"] < 1.2
    assert round_.peak_rss_bytes > 1 << 20
