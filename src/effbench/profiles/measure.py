"""The one clock: every runtime is timed by the loop in this file, and no runtime times itself.

A session is a callable with one promise: it returns only when its outputs are readable on the host
(`effbench.profiles.promise` checks it). The clock is an argument, so that tests put a scripted one in its place.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from effbench.errors import MeasurementError, UsageError
from effbench.profiles import environment, reference
from effbench.profiles.power import Meter
from effbench.profiles.protocol import BACK_TO_BACK, Between, Protocol
from effbench.schema import Round

Array = npt.NDArray[Any]
Feeds = Mapping[str, Array]
Call = Callable[[Feeds], Mapping[str, Any]]
Clock = Callable[[], int]
Sleep = Callable[[float], None]

MIN_WINDOW = 5
"""Inferences in each of the two windows that warm-up compares: the fewest whose median survives two outliers."""

FEWEST_TO_TELL = 2 * MIN_WINDOW
"""The fewest warm-up inferences from which a stationary latency can be detected."""

TOLERANCE = 0.01
"""Warm-up ends when the windows' medians agree this well: half of the 2 % that a grade of A allows for p50."""

_SECOND_NS = 1_000_000_000
_WINDOW_GROWTH = 1.3


@dataclass(frozen=True)
class Warmup:
    """The result of a warm-up: its inferences, and whether it ended because latency was stationary."""

    inferences: int
    stationary: bool


@dataclass(frozen=True)
class RoundPlan:
    """The length of a round and its pace.

    Attributes:
        min_samples: N, the fewest samples of the timed phase, unless ``max_seconds`` ends it.
        min_seconds: T, the shortest duration of the timed phase.
        max_seconds: Ends the timed phase; it always holds at least one sample.
        max_warmup_seconds: Ends warm-up; None means ``max(min_seconds, 1)``.
        protocol: Decides when the next inference begins; back to back by default.

    Raises:
        UsageError: No round can meet the bounds.
    """

    min_samples: int = 20
    min_seconds: float = 0.5
    max_seconds: float = 10.0
    max_warmup_seconds: float | None = None
    protocol: Protocol = BACK_TO_BACK

    def __post_init__(self) -> None:
        if self.min_samples < 1 or not 0 <= self.min_seconds <= self.max_seconds:
            bounds = f"{self.min_samples} samples and {self.min_seconds} to {self.max_seconds} s"
            raise UsageError(f"A round of {bounds} cannot be measured.")

    @property
    def warmup_s(self) -> float:
        """The time after which warm-up ends, in seconds."""
        return max(self.min_seconds, 1.0) if self.max_warmup_seconds is None else self.max_warmup_seconds


USUAL_PLAN = RoundPlan()


def measure_round(
    session: Call,
    feeds: Feeds,
    plan: RoundPlan = USUAL_PLAN,
    *,
    load_ms: float = 0.0,
    meter: Meter | None = None,
    clock: Clock = time.perf_counter_ns,
    sleep: Sleep = time.sleep,
) -> Round:
    """Time one round: the first inference apart, warm-up until stationary, then N samples and T seconds.

    Args:
        session: Returns only when its outputs are readable.
        feeds: The inputs of every timed inference.
        plan: The length of the round and its pace.
        load_ms: How long the caller took to load the session; recorded unchanged.
        meter: Integrates the power over the timed phase; None without power sensors.
        clock: Monotonic, in nanoseconds.
        sleep: Takes seconds.

    Raises:
        MeasurementError: The clock did not advance during an inference.
    """
    between = plan.protocol.between(clock, sleep)
    with no_collection():
        first_ns = time_one(session, feeds, clock)
        warmup = warm_up(session, feeds, plan.warmup_s, clock, between)
        before, begin = environment.counters(), clock()
        samples = sample(session, feeds, plan, clock, between)
        end, observed = clock(), environment.changes(before, environment.counters())
    observed |= meter.energy_j(begin, end) if meter else {}
    trace = between.trace.as_record() if between and between.trace else {}
    observed |= between.observed() if between else {}
    peak = environment.peak_rss_bytes()
    # After the peak, since the kernels need memory of their own.
    observed |= reference.readings(clock)
    if min(samples) <= 0:
        raise MeasurementError("The clock stood still during an inference; it is too coarse for this session.")
    settled = (warmup.inferences, warmup.stationary)
    return Round(tuple(samples), *settled, load_ms, first_ns / 1e6, peak, observed, trace=trace)


def time_one(session: Call, feeds: Feeds, clock: Clock = time.perf_counter_ns) -> int:
    """Time a single inference, in nanoseconds."""
    start = clock()
    session(feeds)
    return clock() - start


def warm_up(
    session: Call,
    feeds: Feeds,
    max_seconds: float,
    clock: Clock = time.perf_counter_ns,
    between: Between | None = None,
) -> Warmup:
    """Run until latency is stationary or the time is over.

    Latency is stationary if the medians of the last two quarters of all warm-up inferences (`MIN_WINDOW` or more in
    each) agree within `TOLERANCE`, or within two standard errors of their difference if the samples scatter more. The
    windows grow with the warm-up, so a slow trend must fade before they agree. The check runs after 20 inferences and
    each time their number has grown by 30 %.
    """
    deadline = clock() + int(max_seconds * _SECOND_NS)
    samples: list[int] = []
    next_check = 4 * MIN_WINDOW
    if between is not None:
        between.restart()
    while not samples or clock() < deadline:
        if between is not None:
            between()
        samples.append(time_one(session, feeds, clock))
        if len(samples) >= next_check:
            if is_stationary(samples):
                return Warmup(len(samples), True)
            next_check = math.ceil(next_check * _WINDOW_GROWTH)
    # A session slower than a twentieth of the time limit never reaches 20 inferences; then 10 decide.
    return Warmup(len(samples), len(samples) >= FEWEST_TO_TELL and is_stationary(samples))


def is_stationary(samples: Sequence[int]) -> bool:
    """Compare the third quarter of the samples with the last; see `warm_up`."""
    size = max(len(samples) // 4, MIN_WINDOW)
    last, third = np.array(samples[-size:], dtype=float), np.array(samples[-2 * size : -size], dtype=float)
    level = float(np.median(last))
    shift = abs(level - float(np.median(third)))
    scatter = float(np.median(np.concatenate([abs(last - level), abs(third - np.median(third))])))
    # From MAD to sigma, to the standard error of a median, to that of the difference of two medians.
    error = scatter * 1.4826 * 1.2533 * math.sqrt(2 / size)
    return shift <= max(TOLERANCE * level, 2 * error)


def sample(
    session: Call,
    feeds: Feeds,
    plan: RoundPlan,
    clock: Clock,
    between: Between | None = None,
) -> list[int]:
    """Time inferences until both minima or the maximum are met; return nanoseconds, in order.

    Inferences run back to back unless ``between`` delays them; it is called before each, outside the timed part.
    """
    samples: list[int] = []
    append = samples.append
    begin = clock()
    enough, over = begin + int(plan.min_seconds * _SECOND_NS), begin + int(plan.max_seconds * _SECOND_NS)
    min_samples = plan.min_samples
    if between is not None:
        between.restart()
    while True:
        if between is not None:
            between()
        start = clock()
        session(feeds)
        end = clock()
        append(end - start)
        if end >= enough and (len(samples) >= min_samples or end >= over):
            return samples


@contextmanager
def no_collection() -> Iterator[None]:
    """Keep the garbage collector out of the timed phase."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
