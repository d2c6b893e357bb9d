"""Grade how far a measurement can be trusted: A to D, with the reasons; a pure function of the record.

A: every check passed. B: use with care. C: an indication only. D: not a latency of this model on this machine; never on
a front. The grade is the worst of all checks. Disturbances add up
(`effbench.profiles.disturbances`), and what was not observed, or was slow in all rounds alike, caps the grade.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from effbench.profiles.cores import EFFICIENCY, MIXED
from effbench.profiles.disturbances import TOGETHER_PCT, TrustThresholds, core_share, disturbances, observed
from effbench.profiles.measure import FEWEST_TO_TELL
from effbench.profiles.reference import KERNELS
from effbench.schema import Measurement, Samples
from effbench.statistics import percentiles

Floats = npt.NDArray[np.float64]


FAST_GOVERNORS = ("performance", "schedutil", "ondemand", "interactive")
"""Those that run a busy core at its best clock; the reference kernel shows what others lose."""

ROUNDS_FOR_INTERVAL = percentiles.MIN_ROUNDS
MIN_SAMPLES_PER_ROUND = 10
"""With fewer samples, two or three inferences decide a round's median."""

UNCERTAINTY_PCT = TrustThresholds(2, 5, 20)
"""Half-width of p50's interval. A means that p50 is known to within 2 %; above 20 % nothing is ranked."""


BUSY_ROUND_PCT = 50.0
BUSY_ROUND_SHARE_PCT = TrustThresholds(20, 50)
"""Share of rounds in which other processes used more than half a core: the mean hides intermittent load, but from a
fifth of the rounds on it moves the median of the mixture."""


SWITCHES_PER_SECOND = TrustThresholds(50, 200)
"""Involuntary context switches, used if the run delay is not readable: kernel threads preempt a lone process about ten
times per second; time slices shared with another process give hundreds."""

NOT_STATIONARY_PCT = TrustThresholds(25, 50)
"""Share of rounds whose warm-up ended by its time limit before latency was stationary."""

DRIFT_WITHIN_PCT = TrustThresholds(2, 5)
"""Median over rounds of the change from a round's first third to its last: the effect of a longer round."""

DRIFT_ACROSS_PCT = TrustThresholds(3, 10)
"""Change from the first third of the rounds to the last. Wider than within: it compares medians of about two rounds."""

ORDER = 0.6
"""Kendall's tau between the order of rounds and their medians; above it, a slowdown is monotone and called throttling.
Six rounds in random order exceed it in under 3 of 100 cases."""


MISSED_FRAMES_PCT = TrustThresholds(1, 50)
"""Frames that passed during an inference: above one percent, the requested pace was not held."""

ABOVE_START_C = TrustThresholds(2, 10)
"""How much warmer a round began than the first, with --cool-down; sensors resolve 1 degree."""

SECOND_MODE_PCT = 15.0
"""Share of the samples in the smaller of two modes above which the next p50 may lie in either mode or between them."""

MODE_GAP_PCT = TrustThresholds(3, 10)
"""Distance of the two modes; modes nearer than 3 % move p50 by little more than an A allows."""

VALLEY = 0.5
"""Two groups are modes if the samples between them are less than half as dense as those around each."""

SPIKES_PCT = 5.0
"""The slowest samples, excluded from the search for modes: a few long interruptions would look like a second mode."""

Check = Callable[[Samples], Iterator[tuple[str, str]]]


def grade_of(measurement: Measurement) -> tuple[str, tuple[str, ...]]:
    """Return the grade of a measurement; one that may not be what it says is no latency of its device."""
    letter, reasons = grade(measurement.samples, measurement.before, measurement.after)
    return ("D", (*measurement.doubts, *reasons)) if measurement.doubts else (letter, reasons)


def grade(
    samples: Samples, before: Mapping[str, Any] | None = None, after: Mapping[str, Any] | None = None
) -> tuple[str, tuple[str, ...]]:
    """Return the grade of a measurement and the reasons for anything below A, the gravest first.

    Args:
        samples: The rounds and their observations.
        before: The result of `environment.observe` before the first round, or None.
        after: The same after the last round.
    """
    reasons = [entry for check in _CHECKS for entry in check(samples) if entry[0] != "A"]
    state = before or {}
    machine = (*_summed(samples, state), *_busy_rounds(samples, state), *_constant(state), *_unseen(samples, state))
    reasons += [entry for entry in machine if entry[0] != "A"]
    reasons += _environment(state, after or {})
    reasons.sort(key=lambda entry: entry[0], reverse=True)
    return (reasons[0][0] if reasons else "A"), tuple(reason for _, reason in reasons)


def _early_return(samples: Samples) -> Iterator[tuple[str, str]]:
    flags = sorted({flag for round_ in samples.rounds for flag in round_.flags})
    if flags:
        yield "D", f"{', '.join(flags)}: outputs were not final when the session returned"


def _counts(samples: Samples) -> Iterator[tuple[str, str]]:
    rounds = len(samples.rounds)
    if rounds < ROUNDS_FOR_INTERVAL:
        yield "C", f"too few rounds: {rounds}; an interval needs {ROUNDS_FOR_INTERVAL}"
    fewest = min(len(round_.samples_ns) for round_ in samples.rounds)
    if fewest < MIN_SAMPLES_PER_ROUND:
        yield "B", f"too few samples: a round has only {fewest}; it needs {MIN_SAMPLES_PER_ROUND}"
    if not percentiles.supported(_series(samples), 0.5):
        yield (
            "C",
            f"too few samples: {sum(len(round_.samples_ns) for round_ in samples.rounds)} in all do not support p50",
        )


def _uncertainty(samples: Samples) -> Iterator[tuple[str, str]]:
    estimate = percentiles.estimate(_series(samples), 0.5)
    width = None if estimate is None else estimate.relative_half_width
    if width is not None:
        yield UNCERTAINTY_PCT.grade(100 * width), f"uncertain: p50 is known only to within ±{width:.1%}"


def _busy_rounds(samples: Samples, before: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    other = observed(samples, "other_cpu_pct") * core_share(before)
    if len(other):
        busy = 100 * float((other > BUSY_ROUND_PCT).mean())
        share = f"more than {BUSY_ROUND_PCT:.0f} % of a core of two in {busy:.0f} % of rounds"
        yield BUSY_ROUND_SHARE_PCT.grade(busy), f"other load: other processes used {share}"


def _switches(samples: Samples) -> Iterator[tuple[str, str]]:
    switches = observed(samples, "involuntary_switches")
    if len(switches) and not len(observed(samples, "run_delay_pct")):
        rate = float(switches.sum() / sum(sum(one.samples_ns) for one in samples.rounds) * 1e9)
        yield SWITCHES_PER_SECOND.grade(rate), f"preempted: {rate:.0f} involuntary context switches per second"


def _unseen(samples: Samples, before: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what the record cannot show: a grade of A needs a reading of each kind of disturbance."""
    load = len(observed(samples, "other_cpu_pct"))
    waiting = len(observed(samples, "run_delay_pct")) or len(observed(samples, "involuntary_switches"))
    kernel = all(len(observed(samples, f"reference_{name}_us")) for name in KERNELS)
    if not (load or waiting):
        yield ("B" if kernel else "C"), "other load could not be observed on this machine"
    elif not (load and waiting):
        missing = "the waiting of threads" if load else "the load of other processes"
        yield ("A" if kernel else "B"), f"{missing} could not be observed on this machine"
    if not kernel:
        yield "B", "no reference kernel was timed: a machine that was slow in all rounds would not show"
    elif not before.get("reference_earlier_runs"):
        yield "B", "first run on this machine: one that was slow in all rounds would not show; measure again"


def _constant(before: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what holds in every round alike: the setting of the clock and the kind of core."""
    governor = str(before.get("governor") or "")
    slow = [name for name in governor.split("/") if name and name not in FAST_GOVERNORS]
    if slow:
        yield ("C" if "powersave" in slow else "B"), f"governor {governor}: the cores may run below their best clock"
    kind = before.get("core_type")
    if kind in (EFFICIENCY, MIXED):
        yield ("C" if kind == EFFICIENCY else "B"), f"it ran on {kind} cores; others of this machine are faster"


def _summed(samples: Samples, before: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the grade of each disturbance, and that of all together."""
    present = list(disturbances(samples, before))
    yield from ((item.thresholds.grade(item.size), item.text) for item in present)
    total = sum(100 * item.size / item.thresholds.c for item in present)
    largest = sorted(present, key=lambda item: item.thresholds.c / max(item.size, 1e-9))[:3]
    yield (
        TOGETHER_PCT.grade(total),
        f"disturbances add up: {', '.join(item.text.partition(':')[0] for item in largest)}",
    )


def _warmup(samples: Samples) -> Iterator[tuple[str, str]]:
    unsettled = [round_ for round_ in samples.rounds if not round_.stationary]
    share = 100 * len(unsettled) / len(samples.rounds)
    short = sum(round_.warmup < FEWEST_TO_TELL for round_ in unsettled)
    finding = "warm-up was too short to judge" if 2 * short > len(unsettled) else "latency still changed after warm-up"
    yield NOT_STATIONARY_PCT.grade(share), f"not stationary: {finding} in {share:.0f} % of rounds"


def _drift_within(samples: Samples) -> Iterator[tuple[str, str]]:
    # Medians of fewer than five samples are noise.
    changes = [_change(np.asarray(samples_ns, dtype=float)) for samples_ns in _series(samples) if len(samples_ns) >= 15]
    if changes:
        drift = 100 * float(np.median(changes))
        yield DRIFT_WITHIN_PCT.grade(abs(drift)), f"drift: {drift:+.1f} % from the start of a round to its end"


def _drift_across(samples: Samples) -> Iterator[tuple[str, str]]:
    levels = np.array([np.median(samples_ns) for samples_ns in _series(samples)])
    if len(levels) >= ROUNDS_FOR_INTERVAL:
        drift = 100 * _change(levels)
        name = "throttled" if drift > 0 and _kendall(levels) > ORDER else "drift"
        yield DRIFT_ACROSS_PCT.grade(abs(drift)), f"{name}: {drift:+.1f} % from the first rounds to the last"


def _protocol(samples: Samples) -> Iterator[tuple[str, str]]:
    missed = observed(samples, "missed_frames_pct")
    if len(missed):
        worst = float(missed.max())
        yield MISSED_FRAMES_PCT.grade(worst), f"behind the pace: {worst:.1f} % of frames were missed"
    above = observed(samples, "above_start_c")
    if len(above):
        yield (
            ABOVE_START_C.grade(float(above.max())),
            f"not cooled down: a round began {above.max():.0f} °C warmer than the first",
        )


def _modes(samples: Samples) -> Iterator[tuple[str, str]]:
    modes = second_mode(_series(samples))
    if modes is not None:
        share, gap = modes
        reason = f"bimodal: {share:.0%} of samples form a second mode, {gap:.1%} away"
        yield MODE_GAP_PCT.grade(100 * gap), reason


_CHECKS: tuple[Check, ...] = (
    _early_return,
    _counts,
    _uncertainty,
    _switches,
    _warmup,
    _drift_within,
    _drift_across,
    _protocol,
    _modes,
)


def _environment(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    # Facts that a measurement does not change; frequency, temperature and load do change and are graded per round.
    for key in ("governor", "turbo", "power_mode", "power_source", "cgroup_cpus", "cores_allowed", "cpu_model"):
        if key in before and key in after and before[key] != after[key]:
            yield "C", f"the machine changed: {key} was {before[key]}, then {after[key]}"
    reasons = after.get("throttle_reasons") or before.get("throttle_reasons")
    if reasons:
        yield "C", f"throttled: the device reports {reasons}"
    if before.get("thermal_status") != after.get("thermal_status"):
        yield "C", f"heated up: thermal status was {before.get('thermal_status')}, then {after.get('thermal_status')}"


def second_mode(rounds: Sequence[Sequence[int]]) -> tuple[float, float] | None:
    """Return the share of the smaller of two modes and the gap relative to the lower, or None if there is one mode.

    The samples, without the slowest `SPIKES_PCT`, are split in two where the split explains most of their variance on
    the log scale. The two groups are modes if both hold `SECOND_MODE_PCT` and the middle third between their medians
    is less than `VALLEY` times as dense as the thirds around each median; the halves of a single mode, or of a long
    tail, are densest toward the middle or the lower end.

    Source: Otsu 1979, IEEE Transactions on Systems, Man, and Cybernetics 9:62 (the split).
    """
    values = np.sort(np.log(np.concatenate([np.asarray(samples_ns, dtype=float) for samples_ns in rounds])))
    values = values[: int(np.ceil(len(values) * (1 - SPIKES_PCT / 100)))]
    least = max(int(np.ceil(len(values) * SECOND_MODE_PCT / 100)), 2)
    if len(values) < 2 * least:
        return None
    sizes = np.arange(1, len(values))
    sums = np.cumsum(values)
    between = (sums[-1] * sizes / len(values) - sums[:-1]) ** 2 / (sizes * (len(values) - sizes))
    split = int(np.argmax(between)) + 1
    low, high = float(np.median(values[:split])), float(np.median(values[split:]))
    reach = (high - low) / 6
    if min(split, len(values) - split) < least or reach <= 0:
        return None

    def within(center: float) -> int:
        return int(np.count_nonzero(np.abs(values - center) <= reach))

    if within((low + high) / 2) >= VALLEY * min(within(low), within(high)):
        return None
    return min(split, len(values) - split) / len(values), float(np.expm1(high - low))


def _series(samples: Samples) -> list[tuple[int, ...]]:
    return [round_.samples_ns for round_ in samples.rounds]


def _change(values: Floats) -> float:
    third = max(len(values) // 3, 1)
    return float(np.median(values[-third:]) / np.median(values[:third]) - 1)


def _kendall(values: Floats) -> float:
    rows, columns = np.triu_indices(len(values), 1)
    return float(np.mean(np.sign(values[columns] - values[rows])))
