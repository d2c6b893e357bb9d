"""The noise of a machine: what A/A rounds show, how it is stored, and how it raises the floor of a comparison."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from effbench.api.compare import noise
from effbench.api.compare.noise import FILE, FORMER_FILE, MachineNoise, load, raise_floor, save, summarize
from effbench.api.compare.request import NoiseRequest
from effbench.api.compare.rounds import RoundSettings
from effbench.api.compare.run import round_settings
from effbench.commands.gate import gate
from effbench.commands.text.noise import text
from effbench.errors import DataError, UsageError
from effbench.profiles.paired import PairedRound
from effbench.statistics.sequential import Rules

MACHINE = {"cpu_model": "x", "machine": "y", "cores_allowed": 2, "governor": None}


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(noise, "machine_of", lambda threads: {**MACHINE, "threads": threads})
    monkeypatch.setattr(noise, "REPLAYS", 400)


def equal_rounds(spread: float, count: int = 40) -> list[PairedRound]:
    """Return rounds of equal sides whose log ratios have a standard deviation."""
    rng = np.random.default_rng(3)
    ratios = np.exp(spread * rng.standard_normal(count))
    waits = (0,) * 20
    return [PairedRound((1_000_000,) * 20, (int(1_000_000 * ratio),) * 20, waits, waits) for ratio in ratios]


def measured(one: float, two: float, threads: int = 1) -> MachineNoise:
    """Return the noise of a machine with a spread for one worker and for two; a round takes a second."""
    rounds = {1: equal_rounds(one), 2: equal_rounds(two)}
    return summarize(rounds, {1: 40.0, 2: 40.0}, RoundSettings(threads=threads), Rules(), "model")


@pytest.mark.parametrize(("one", "two", "workers"), [(0.002, 0.01, 1), (0.01, 0.002, 2)])
def test_the_more_precise_number_of_workers_is_chosen(one: float, two: float, workers: int):
    result = measured(one, two)
    assert (workers, 40, 1.0) == (result.workers, result.rounds, result.seconds_per_round)
    assert 0.2 == pytest.approx(result.layout_noise_pct, abs=0.1)
    assert workers == round_settings(result, 1).workers
    assert 1 == round_settings(result, 1, workers=1).workers
    assert ("1 worker" if workers == 1 else "2 workers") + " a round" in text(result)


def test_a_noisy_machine_detects_less_and_raises_no_more_false_alarms():
    quiet, noisy = measured(0.002, 0.002), measured(0.03, 0.03)
    assert quiet.detectable_pct is not None
    assert noisy.detectable_pct is None or noisy.detectable_pct > 2 * quiet.detectable_pct
    assert quiet.false_alarm_bound is not None
    assert quiet.false_alarm_bound < 0.012  # Wilson's bound for none of 400


def test_deviations_of_single_rounds_do_not_lift_the_floor():
    noisy = measured(0.03, 0.03)
    assert 2 < noisy.layout_noise_pct
    assert 0 == noisy.bias_pct
    assert Rules() == raise_floor(Rules(), noisy.bias_pct)
    assert "no bias of one side was found" in text(noisy)


def test_a_persistent_bias_lifts_the_floor(monkeypatch: pytest.MonkeyPatch):
    biased = {
        workers: [replace(item, b_ns=tuple(int(1.04 * ns) for ns in item.b_ns)) for item in equal_rounds(0.01)]
        for workers in (1, 2)
    }
    result = summarize(biased, {1: 40.0, 2: 40.0}, RoundSettings(), Rules(), "model")
    assert 4 < result.bias_pct < 5
    assert result.bias_pct == raise_floor(Rules(), result.bias_pct).floor_pct
    assert "one of two equal sides was slower" in text(result)


def test_the_bound_on_false_alarms_rests_on_the_number_of_rounds():
    few, many = (
        summarize({1: rounds, 2: rounds}, {1: 40.0, 2: 40.0}, RoundSettings(budget_s=30), Rules(), "").false_alarm_bound
        for rounds in (equal_rounds(0.03, 20), equal_rounds(0.03, 300))
    )
    assert few is not None
    assert many is not None
    assert many < 0.015 < few


def test_rounds_that_depend_on_each_other_have_no_bound():
    rng, effects = np.random.default_rng(4), [0.0]
    for _ in range(75):
        effects.append(0.9 * effects[-1] + 0.013 * rng.standard_normal())
    waits = (0,) * 20
    rounds = [PairedRound((10**6,) * 20, (int(10**6 * np.exp(effect)),) * 20, waits, waits) for effect in effects]
    result = summarize({1: rounds, 2: rounds}, {1: 76.0, 2: 76.0}, RoundSettings(), Rules(), "model")
    assert result.false_alarm_bound is None
    assert "neighboring rounds depend on each other" in text(result)


def test_the_floor_is_raised_to_the_noise_and_never_lowered():
    assert Rules() == raise_floor(Rules(), 0.5)
    raised = raise_floor(Rules(fail_above_pct=2.0), 4.0)
    assert (4.0, 8.0, 4.0) == (raised.floor_pct, raised.margin_pct, raised.fail_above_pct)


def test_the_newest_noise_of_this_machine_and_number_of_threads_counts(tmp_path: Path):
    assert load(tmp_path, 1) is None
    for item in (measured(0.01, 0.02), measured(0.002, 0.02), measured(0.03, 0.04, threads=2)):
        save(tmp_path, item)
    stored = load(tmp_path, 1)
    assert stored is not None
    assert measured(0.002, 0.02).layout_noise_pct == stored.layout_noise_pct
    assert load(tmp_path, 4) is None


def test_a_file_of_an_earlier_version_or_a_broken_one_is_refused(tmp_path: Path):
    (tmp_path / FORMER_FILE).write_text("[]")
    with pytest.raises(DataError, match=f"Rename it to {FILE}"):
        load(tmp_path, 1)
    (tmp_path / FILE).write_text("[")
    with pytest.raises(DataError, match="not valid JSON"):
        load(tmp_path, 1)


def test_invalid_requests_are_refused():
    with pytest.raises(UsageError, match="--minutes 0 is not above zero"):
        NoiseRequest(minutes=0)
    with pytest.raises(UsageError, match="1 process or 2"):
        round_settings(None, 1, workers=3)
    with pytest.raises(UsageError, match="one model, not a, b"):
        gate.main(["--measure-noise", "a", "b"], standalone_mode=False)
