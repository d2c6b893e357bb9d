"""Grades of records with known faults: one fault at a time on a measurement that is otherwise an A."""

from dataclasses import replace

import numpy as np
import pytest

from effbench.profiles import trust
from effbench.schema import Round, Samples

QUIET = {
    "wall_s": 1.0,
    "other_cpu_pct": 2.0,
    "steal_pct": 0.0,
    "run_delay_pct": 0.1,
    "involuntary_switches": 3.0,
    "cpu_mhz_before": 2600.0,
    "cpu_mhz_after": 2600.0,
}


def series(count=60, scatter=0.01, seed=0):
    rng = np.random.default_rng(seed)
    return 1e7 * (1 + scatter * np.exp(0.8 * rng.standard_normal(count)))


def record(rounds=10, shape=lambda i, x: x, observed=(), **fields):
    """Build an undisturbed measurement, with the samples of round i passed through ``shape``."""
    rounds_built = []
    for i in range(rounds):
        samples = tuple(int(x) for x in shape(i, series(seed=i)))
        plain = Round(samples, 20, True, 50.0, 30.0, 1 << 27, {**QUIET, **dict(observed)})
        rounds_built.append(replace(plain, **fields))
    return Samples(tuple(rounds_built))


def test_an_undisturbed_measurement_is_an_a_without_reasons():
    assert trust.grade(record()) == ("A", ())


def test_an_idle_measurement_of_six_rounds_of_a_slow_model_is_an_a():
    assert trust.grade(record(rounds=6, shape=lambda i, x: 50 * x[:12])) == ("A", ())


@pytest.mark.parametrize(
    ("expected", "reason", "samples"),
    [
        ("D", "early return", record(flags=("early return",))),
        ("C", "too few rounds: 5", record(rounds=5)),
        ("B", "too few samples", record(shape=lambda i, x: x[:9])),
        ("C", "too few samples", record(rounds=6, shape=lambda i, x: x[:3])),
        ("B", "other load", record(observed={"other_cpu_pct": 20.0})),
        ("C", "other load", record(observed={"other_cpu_pct": 100.0})),
        ("B", "stolen time", record(observed={"steal_pct": 3.0})),
        ("D", "stolen time", record(observed={"steal_pct": 60.0})),
        ("B", "preempted", record(observed={"run_delay_pct": 2.0})),
        ("C", "preempted", record(observed={"run_delay_pct": 20.0})),
        ("C", "not stationary: latency still changed", record(stationary=False)),
        ("C", "not stationary: warm-up was too short to judge", record(stationary=False, warmup=4)),
        ("B", "drift", record(shape=lambda i, x: x * np.linspace(1, 1.05, len(x)))),
        ("C", "drift", record(shape=lambda i, x: x * np.linspace(1.2, 1, len(x)))),
        ("B", "throttled", record(shape=lambda i, x: x * (1 + 0.008 * i))),
        ("B", "drift", record(shape=lambda i, x: x * (1.08 - 0.008 * i))),
        ("B", "throttled", record(observed={"cpu_mhz_after": 2450.0})),
        ("C", "throttled", record(observed={"cpu_mhz_after": 1300.0})),
        ("B", "bimodal", record(shape=lambda i, x: np.where(np.arange(len(x)) % 3 == 0, 1.08, 1) * x)),
        ("C", "bimodal", record(shape=lambda i, x: np.where(np.arange(len(x)) % 2 == 0, 1.4, 1) * x)),
        ("C", "uncertain", record(rounds=6, shape=lambda i, x: x * (1, 1.3, 0.9, 1.1, 1.2, 0.95)[i])),
    ],
)
def test_a_fault_is_named_and_graded(expected, reason, samples):
    letter, reasons = trust.grade(samples)
    assert any(text.startswith(reason) for text in reasons), reasons
    assert expected == letter, reasons


def test_load_in_some_rounds_is_detected_although_the_mean_is_low():
    quiet, busy = record(rounds=9), record(rounds=1, observed={"other_cpu_pct": 60.0})
    assert trust.grade(Samples(quiet.rounds + busy.rounds))[0] == "A"
    assert trust.grade(Samples(quiet.rounds[:7] + 3 * busy.rounds))[0] == "B"


def observing_only(observed):
    return Samples(tuple(replace(round_, observed=observed) for round_ in record().rounds))


def test_without_any_reading_of_other_load_the_best_grade_is_b():
    expected = ("B", ("other load could not be observed on this machine",))
    assert expected == trust.grade(observing_only({}))
    assert expected == trust.grade(observing_only({"cpu_mhz_before": 2600.0, "cpu_mhz_after": 2600.0}))


@pytest.mark.parametrize("reading", ["other_cpu_pct", "run_delay_pct", "involuntary_switches"])
def test_one_reading_of_other_load_is_enough_for_an_a(reading):
    assert ("A", ()) == trust.grade(observing_only({reading: QUIET[reading]}))


def test_involuntary_switches_replace_an_unknown_run_delay():
    observed = {"other_cpu_pct": 2.0, "involuntary_switches": 300.0}
    samples = Samples(tuple(replace(item, observed=observed) for item in record().rounds))
    assert any(item.startswith("preempted") for item in trust.grade(samples)[1])
    assert trust.grade(record(observed={"involuntary_switches": 300.0}))[0] == "A"


def test_a_machine_that_changed_meanwhile_is_a_c():
    same = {"governor": "performance", "load_average_1m": 0.1}
    assert trust.grade(record(), same, {**same, "load_average_1m": 0.9}) == ("A", ())
    letter, reasons = trust.grade(record(), same, {**same, "governor": "powersave"})
    assert letter == "C"
    assert "governor was performance, then powersave" in reasons[0]


def test_reasons_are_ordered_by_severity():
    samples = record(rounds=5, observed={"steal_pct": 3.0}, flags=("early return",))
    starts = [reason.split(":")[0] for reason in trust.grade(samples)[1]]
    assert starts == ["early return", "too few rounds", "stolen time"]


@pytest.mark.parametrize(
    "draw",
    [
        lambda rng: np.exp(0.02 * rng.standard_normal(300)),
        lambda rng: 1 + 0.1 * rng.random(300),
        lambda rng: 1 + 0.05 * rng.exponential(size=300),
        lambda rng: 1 + 0.01 * np.abs(rng.standard_t(2, size=300)),
        lambda rng: np.where(rng.random(300) < 0.04, 3, 1) * np.exp(0.01 * rng.standard_normal(300)),
    ],
    ids=["normal", "uniform", "exponential", "heavy-tail", "spikes"],
)
def test_one_mode_is_not_taken_for_two(draw):
    rng = np.random.default_rng(0)
    assert np.mean([trust.second_mode([draw(rng)]) is not None for _ in range(100)]) <= 0.02


def test_two_modes_are_found_with_their_share_and_gap_also_among_spikes():
    rng = np.random.default_rng(0)
    values = np.where(rng.random(2000) < 0.3, 1.1, 1) * np.exp(0.01 * rng.standard_normal(2000))
    values[rng.random(2000) < 0.03] *= 4
    share, gap = trust.second_mode([values])
    assert share == pytest.approx(0.3, abs=0.03)
    assert gap == pytest.approx(0.1, abs=0.01)
