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
    "reference_compute_us": 800.0,
    "reference_memory_us": 3000.0,
}
KERNEL = {key: value for key, value in QUIET.items() if key.startswith("reference")}
BEFORE = {
    "cores_online": 2,
    "reference_compute_us_best": 800.0,
    "reference_memory_us_best": 3000.0,
    "reference_earlier_runs": 3,
}
"""The machine of a measurement that is not the first there."""


def graded(samples, before=BEFORE, after=None):
    return trust.grade(samples, before, after)


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
    assert graded(record()) == ("A", ())


def test_an_idle_measurement_of_six_rounds_of_a_slow_model_is_an_a():
    assert graded(record(rounds=6, shape=lambda i, x: 50 * x[:12])) == ("A", ())


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
    letter, reasons = graded(samples)
    assert any(text.startswith(reason) for text in reasons), reasons
    assert expected == letter, reasons


def test_load_in_some_rounds_is_detected_although_the_mean_is_low():
    quiet, busy = record(rounds=9), record(rounds=1, observed={"other_cpu_pct": 60.0})
    assert graded(Samples(quiet.rounds + busy.rounds))[0] == "A"
    assert graded(Samples(quiet.rounds[:7] + 3 * busy.rounds))[0] == "B"


def observing_only(observed):
    return Samples(tuple(replace(round_, observed=observed) for round_ in record().rounds))


def test_what_was_not_observed_caps_the_grade():
    unseen = "other load could not be observed on this machine"
    kernel = "no reference kernel was timed: a machine that was slow in all rounds would not show"
    assert ("C", (unseen, kernel)) == graded(observing_only({}))
    assert ("B", (unseen,)) == graded(observing_only(KERNEL))
    assert ("B", (kernel,)) == graded(observing_only({key: QUIET[key] for key in ("other_cpu_pct", "run_delay_pct")}))


def test_the_first_run_on_a_machine_is_a_b():
    letter, (reason,) = graded(record(), {**BEFORE, "reference_earlier_runs": 0})
    assert "B" == letter
    assert reason.startswith("first run on this machine")


@pytest.mark.parametrize("reading", ["other_cpu_pct", "run_delay_pct", "involuntary_switches"])
def test_one_reading_of_other_load_and_the_kernel_are_enough_for_an_a(reading):
    assert ("A", ()) == graded(observing_only({reading: QUIET[reading], **KERNEL}))


def test_disturbances_that_are_each_small_add_up():
    parts = {"steal_pct": 7.0, "other_cpu_pct": 35.0, "run_delay_pct": 4.5}
    for key, value in parts.items():
        assert "B" == graded(record(observed={key: value}))[0]
    letter, reasons = graded(record(observed=parts))
    assert "C" == letter
    assert reasons[0].startswith("disturbances add up: preempted, other load, stolen time")


def test_one_busy_core_of_64_is_not_what_one_of_two_is():
    busy = record(observed={"other_cpu_pct": 100.0})
    assert "C" == graded(busy)[0]
    assert "A" == graded(busy, {**BEFORE, "cores_online": 64})[0]


@pytest.mark.parametrize(("kernel", "us"), [("compute", 1000.0), ("memory", 3900.0)])
def test_a_machine_slower_than_the_best_seen_on_it_is_a_c(kernel, us):
    letter, reasons = graded(record(observed={f"reference_{kernel}_us": us}))
    assert "C" == letter
    assert (
        f"slow machine: the {kernel} kernel took {100 * (us / QUIET[f'reference_{kernel}_us'] - 1):.0f} %" in reasons[0]
    )


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ({"governor": "performance"}, "A"),
        ({"governor": "powersave"}, "C"),
        ({"governor": "conservative"}, "B"),
        ({"core_type": "performance"}, "A"),
        ({"core_type": "efficiency"}, "C"),
        ({"core_type": "mixed"}, "B"),
    ],
)
def test_what_is_slow_in_all_rounds_caps_the_grade(state, expected):
    assert expected == graded(record(), {**BEFORE, **state})[0]


def test_involuntary_switches_replace_an_unknown_run_delay():
    observed = {"other_cpu_pct": 2.0, "involuntary_switches": 300.0, **KERNEL}
    samples = Samples(tuple(replace(item, observed=observed) for item in record().rounds))
    assert any(item.startswith("preempted") for item in graded(samples)[1])
    assert graded(record(observed={"involuntary_switches": 300.0}))[0] == "A"


def test_a_machine_that_changed_meanwhile_is_a_c():
    same = {"governor": "performance", "load_average_1m": 0.1}
    assert graded(record(), BEFORE | same, {**same, "load_average_1m": 0.9}) == ("A", ())
    letter, reasons = graded(record(), BEFORE | same, {**same, "governor": "powersave"})
    assert letter == "C"
    assert "governor was performance, then powersave" in reasons[0]


def test_reasons_are_ordered_by_severity():
    samples = record(rounds=5, observed={"steal_pct": 3.0}, flags=("early return",))
    starts = [reason.split(":")[0] for reason in graded(samples)[1]]
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
