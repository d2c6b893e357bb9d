"""Curves with known steps: a step is located, and none is invented."""

import numpy as np
import pytest

from effbench.profiles.sustained import Curve, curve, throttling
from effbench.schema import Round

pytest.importorskip("ruptures")

TIMES = tuple(5.0 * i + 2.5 for i in range(60))
MS = 1_000_000


def noise(rng, count, scale, memory=0.6):
    """Return autocorrelated noise, like that of a shared machine."""
    series = np.zeros(count)
    for i in range(1, count):
        series[i] = memory * series[i - 1] + rng.normal(0, scale * np.sqrt(1 - memory**2))
    return series


def with_step(rng, at, rise, scale=0.005):
    level = np.where(np.arange(len(TIMES)) >= at, np.log1p(rise), 0)
    return Curve(TIMES, tuple(10 * np.exp(level + noise(rng, len(TIMES), scale))))


@pytest.mark.parametrize("seed", range(8))
def test_a_step_is_found_where_it_is(seed):
    rng = np.random.default_rng(seed)
    at, rise = int(rng.integers(8, 50)), float(rng.uniform(0.06, 0.5))
    step = throttling(with_step(rng, at, rise))
    assert step is not None
    assert 5.0 * at == pytest.approx(step.at_s, abs=5)
    assert rise == pytest.approx(step.rise, abs=0.02)


@pytest.mark.parametrize("seed", range(8))
def test_no_step_is_invented(seed):
    assert throttling(with_step(np.random.default_rng(seed), 0, 0.0)) is None


def test_a_slow_segment_that_recovers_is_not_throttling():
    level = [10.0] * 20 + [13.0] * 10 + [10.0] * 30
    assert throttling(Curve(TIMES, tuple(level))) is None


def test_a_ramp_is_throttling_from_where_it_rises():
    level = [10.0] * 20 + [10.0 + 0.1 * i for i in range(40)]
    step = throttling(Curve(TIMES, tuple(level)))
    assert step is not None
    assert 100 <= step.at_s <= 140


def test_a_curve_that_is_too_short_has_no_step():
    assert throttling(Curve(TIMES[:5], (1.0, 1.0, 2.0, 2.0, 2.0))) is None


def round_of(latencies_ms, trace=None, **observed):
    samples = tuple(int(latency_ms * MS) for latency_ms in latencies_ms)
    return Round(samples, 20, True, 1.0, 1.0, 1, observed, (), trace or {})


def test_a_curve_is_made_of_medians_over_time():
    points = curve(round_of([10] * 300 + [20] * 150), points=6)
    assert (10.0, 10.0, 10.0, 20.0, 20.0, 20.0) == points.median_ms
    assert [0.5, 1.5, 2.5, 3.5, 4.5, 5.5] == pytest.approx(points.time_s, abs=0.02)


def test_a_paced_curve_takes_its_time_from_the_trace():
    # 10 ms each, ten per second: 100 samples last 10 s, not 1.
    trace = {"time_s": (0.0, 5.0), "samples": (0.0, 50.0)}
    points = curve(round_of([10] * 100, trace, wall_s=10.0), points=4)
    assert [1.25, 3.75, 6.25, 8.75] == pytest.approx(points.time_s, abs=0.11)
