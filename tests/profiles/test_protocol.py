"""Paced, sustained and cooled-down rounds, on a scripted clock."""

from dataclasses import replace

import pytest
from hypothesis import given, seed
from hypothesis import strategies as st
from scripted_machine import MS, A, Machine, cycle

from effbench.errors import UnavailableError, UsageError
from effbench.profiles import environment, measure, trust
from effbench.profiles.protocol import Pace, Protocol, cool_down
from effbench.schema import Samples


@pytest.mark.parametrize(
    ("protocol", "name"),
    [
        (Protocol(), "back-to-back"),
        (Protocol(30), "paced 30/s"),
        (Protocol(None, 10), "sustained 10 min"),
        (Protocol(29.97, 0.5), "sustained 0.5 min, paced 29.97/s"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_protocol_has_a_name(protocol, name):
    assert name == protocol.name


@pytest.mark.parametrize(("rate", "minutes"), [(0, None), (-1, None), (1e6, None), (None, 0), (None, 1e6)])
def test_an_invalid_protocol_is_refused(rate, minutes):
    with pytest.raises(UsageError):
        Protocol(rate, minutes)


def test_a_paced_round_takes_one_inference_a_frame():
    machine = Machine(cycle(10))
    round_ = machine.round(protocol=Protocol(20), min_seconds=5.0)
    assert {10 * MS} == set(round_.samples_ns)
    assert 100 == len(round_.samples_ns)
    assert 0 == round_.observed["missed_frames_pct"]


def test_frames_are_missed_by_a_session_slower_than_the_pace():
    # 40 ms with a frame every 25 ms: every second frame passes during an inference.
    round_ = Machine(cycle(40)).round(protocol=Protocol(40), min_seconds=4.0)
    assert {40 * MS} == set(round_.samples_ns)
    assert round_.observed["missed_frames_pct"] == pytest.approx(50, abs=0.5)
    assert any(reason.startswith("behind the pace") for reason in trust.grade(Samples((round_,)))[1])


@seed(0)
@given(latency_ms=st.integers(1, 200), rate_hz=st.integers(1, 100))
def test_an_inference_begins_with_the_next_frame(latency_ms, rate_hz):
    machine = Machine(cycle(latency_ms))
    pace = Pace(rate_hz, machine.clock, machine.sleep)
    begins = []
    for _ in range(20):
        pace()
        begins.append(machine.now)
        machine(A)
    period = 1e9 / rate_hz
    for end, begin in zip((start + latency_ms * MS for start in begins), begins[1:], strict=False):
        assert end - 1 <= begin
        assert begin - end <= period + 2
        assert abs(begin / period - round(begin / period)) * period < 2  # on a frame
    assert pace.missed == round(begins[-1] / period) - 20


def test_a_sustained_round_records_the_state_of_the_machine(monkeypatch):
    machine = Machine(cycle(50))
    monkeypatch.setattr(environment, "cpu_mhz", lambda: 3000.0 if machine.now < 40e9 else 1500.0)
    monkeypatch.setattr(environment, "temperature_c", lambda: None)
    round_ = machine.round(protocol=Protocol(minutes=1), min_samples=1, min_seconds=60.0, max_seconds=60.0)
    assert 1200 == len(round_.samples_ns)
    assert {"time_s", "samples", "cpu_mhz"} == set(round_.trace)
    assert 30 == len(round_.trace["time_s"])
    assert (3000.0, 1500.0) == (round_.trace["cpu_mhz"][0], round_.trace["cpu_mhz"][-1])
    # 20 inferences per second, with readings between them.
    assert all(
        20 * at == pytest.approx(n) for at, n in zip(round_.trace["time_s"], round_.trace["samples"], strict=True)
    )


def test_back_to_back_rounds_have_no_trace_and_no_frames():
    round_ = Machine(cycle(10)).round()
    assert ({}, False) == (round_.trace, "missed_frames_pct" in round_.observed)


def test_a_round_waits_until_the_machine_is_cool(monkeypatch):
    machine = Machine(cycle(10))
    monkeypatch.setattr(environment, "temperature_c", lambda: max(40.0, 70.0 - machine.now / 1e9))
    observed = cool_down(50.0, clock=machine.clock, sleep=machine.sleep)
    assert {"cool_down_s": 19.0, "above_start_c": 1.0} == observed


def test_a_machine_that_stays_hot_is_reported(monkeypatch):
    machine = Machine(cycle(10))
    monkeypatch.setattr(environment, "temperature_c", lambda: 75.0)
    observed = cool_down(50.0, limit_s=60, clock=machine.clock, sleep=machine.sleep)
    assert {"cool_down_s": 60.0, "above_start_c": 25.0} == observed
    round_ = Machine(cycle(10)).round()
    samples = Samples((replace(round_, observed={**observed}),))
    assert any("a round began 25 °C warmer" in reason for reason in trust.grade(samples)[1])


def test_cooling_down_needs_a_sensor(monkeypatch):
    monkeypatch.setattr(environment, "temperature_c", lambda: None)
    with pytest.raises(UnavailableError, match="no temperature"):
        cool_down(50.0)


def test_the_wait_is_outside_the_timed_part():
    # The latencies do not depend on the pace.
    fast = Machine(cycle(3, 5, 4)).round(protocol=Protocol(100), min_seconds=2)
    free = Machine(cycle(3, 5, 4)).round(min_seconds=2)
    assert set(free.samples_ns) == set(fast.samples_ns) == {3 * MS, 4 * MS, 5 * MS}
    assert 0 == fast.observed["missed_frames_pct"]
    assert measure.time_one(Machine(cycle(7)), A, lambda: 0) == 0
