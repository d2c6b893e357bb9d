"""The one clock: every runtime is timed by the loop in this file, and no runtime times itself.

A session is a callable with one promise: it returns only when its outputs are readable on the host. `check_promise`
looks for sessions that break it. The clock is an argument, so that tests put a scripted one in its place.
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
from effbench.profiles import environment
from effbench.profiles.power import Meter
from effbench.profiles.protocol import Between, Protocol
from effbench.schema import Round

Array = npt.NDArray[Any]
Feeds = Mapping[str, Array]
Call = Callable[[Feeds], Mapping[str, Any]]
Clock = Callable[[], int]
Sleep = Callable[[float], None]

EARLY_RETURN = "early return"
"""The flag of a session whose outputs were not final when it returned."""

MIN_WINDOW = 5
"""Inferences in each of the two windows that warm-up compares: the fewest whose median outlives two outliers."""

FEWEST_TO_TELL = 2 * MIN_WINDOW
"""Inferences of a warm-up below which nothing can be said about its being over."""

TOLERANCE = 0.01
"""Warm-up is over when the windows' medians agree this well: half of what a graded p50 may be off (2 %)."""

_SECOND_NS = 1_000_000_000
_WINDOW_GROWTH = 1.3
_TRIES = 3
_LAZY_SHARE = 0.25
_LAZY_FLOOR_NS = 100_000


@dataclass(frozen=True)
class Warmup:
    """What warm-up took: how many inferences, and whether it ended because latency no longer moved."""

    inferences: int
    stationary: bool


def measure_round(
    session: Call,
    feeds: Feeds,
    *,
    min_samples: int = 20,
    min_seconds: float = 0.5,
    max_seconds: float = 10.0,
    max_warmup_seconds: float | None = None,
    load_ms: float = 0.0,
    contrast: Feeds | None = None,
    protocol: Protocol | None = None,
    meter: Meter | None = None,
    clock: Clock = time.perf_counter_ns,
    sleep: Sleep = time.sleep,
) -> Round:
    """Time one round: the first inference apart, warm-up until stationary, then N samples and T seconds.

    Args:
        session: Returns only when its outputs are readable.
        feeds: The inputs of every timed inference.
        min_samples: N; the timed phase holds at least so many, unless ``max_seconds`` ends it.
        min_seconds: T; the timed phase lasts at least so long.
        max_seconds: Ends the timed phase whatever it holds (it always holds one sample).
        max_warmup_seconds: Ends warm-up; by default ``max(min_seconds, 1)``.
        load_ms: How long the caller took to load the session; recorded as it is.
        contrast: Inputs that differ from ``feeds``; with them, `check_promise` follows the timed phase.
        protocol: What decides when the next inference begins; back to back by default.
        meter: Integrates the power over the timed phase, where sensors tell it.
        clock: Monotonic, in nanoseconds.
        sleep: Takes seconds.

    Raises:
        UsageError: The bounds cannot be met by any round.
        MeasurementError: The clock did not advance during an inference.
    """
    if min_samples < 1 or not 0 <= min_seconds <= max_seconds:
        raise UsageError(f"A round of {min_samples} samples and {min_seconds} to {max_seconds} s cannot be measured.")
    warmup_s = max(min_seconds, 1.0) if max_warmup_seconds is None else max_warmup_seconds
    between = (protocol or Protocol()).between(clock, sleep)
    with no_collection():
        first_ns = time_one(session, feeds, clock)
        warmup = warm_up(session, feeds, warmup_s, clock, between)
        before, begin = environment.counters(), clock()
        samples = sample(session, feeds, min_samples, min_seconds, max_seconds, clock, between)
        end, observed = clock(), environment.changes(before, environment.counters())
    observed |= meter.energy_j(begin, end) if meter else {}
    trace = between.trace.as_record() if between and between.trace else {}
    observed |= between.observed() if between else {}
    peak = environment.peak_rss_bytes()
    if min(samples) <= 0:
        raise MeasurementError("The clock stood still during an inference; it is too coarse for this session.")
    # After the timed phase: the check sleeps, and a rested core is not the one that was warmed up.
    flags = () if contrast is None else check_promise(session, feeds, contrast, clock=clock, sleep=sleep)
    settled = (warmup.inferences, warmup.stationary)
    return Round(tuple(samples), *settled, load_ms, first_ns / 1e6, peak, observed, flags, trace)


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
    """Run until latency is stationary or time is over.

    Stationary: the medians of the last two quarters of all warm-up inferences so far (`MIN_WINDOW` or more in each)
    agree within `TOLERANCE`, or within two standard errors of their difference where the samples scatter more than
    that. The windows grow with the warm-up, so that a slow trend has to fade before they agree. It is looked at after
    20 inferences and each time their number has grown by 30 %.
    """
    deadline = clock() + int(max_seconds * _SECOND_NS)
    samples: list[int] = []
    look = 4 * MIN_WINDOW
    if between is not None:
        between.restart()
    while not samples or clock() < deadline:
        if between is not None:
            between()
        samples.append(time_one(session, feeds, clock))
        if len(samples) >= look:
            if is_stationary(samples):
                return Warmup(len(samples), True)
            look = math.ceil(look * _WINDOW_GROWTH)
    # A session slower than a twentieth of the time allowed never gets to 20: half as many then decide.
    return Warmup(len(samples), len(samples) >= FEWEST_TO_TELL and is_stationary(samples))


def is_stationary(samples: Sequence[int]) -> bool:
    """Compare the third quarter of some samples with the last; see `warm_up`."""
    size = max(len(samples) // 4, MIN_WINDOW)
    last, third = np.array(samples[-size:], dtype=float), np.array(samples[-2 * size : -size], dtype=float)
    level = float(np.median(last))
    shift = abs(level - float(np.median(third)))
    scatter = float(np.median(np.concatenate([abs(last - level), abs(third - np.median(third))])))
    # MAD to sigma, sigma to the error of a median, and that of a difference of two.
    error = scatter * 1.4826 * 1.2533 * math.sqrt(2 / size)
    return shift <= max(TOLERANCE * level, 2 * error)


def sample(
    session: Call,
    feeds: Feeds,
    min_samples: int,
    min_seconds: float,
    max_seconds: float,
    clock: Clock,
    between: Between | None = None,
) -> list[int]:
    """Time inferences until both minima are met or the maximum is over; nanoseconds, in order.

    They follow back to back, or as ``between`` lets them: it is called before each, outside the timed part.
    """
    samples: list[int] = []
    append = samples.append
    begin = clock()
    enough, over = begin + int(min_seconds * _SECOND_NS), begin + int(max_seconds * _SECOND_NS)
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


def check_promise(
    session: Call,
    feeds_a: Feeds,
    feeds_b: Feeds,
    *,
    settle_seconds: float = 0.1,
    clock: Clock = time.perf_counter_ns,
    sleep: Sleep = time.sleep,
) -> tuple[str, ...]:
    """Return `EARLY_RETURN` for a session whose outputs are not final when it returns, else nothing.

    Three tests, on inferences that alternate between two inputs:

    - outputs are copied at once and compared with what the same arrays hold ``settle_seconds`` (or two latencies, if
      longer) later: any change means that something was still writing;
    - outputs for b right after a are compared with those for b after b: a session that hands out the results of the
      call before, or a stale copy of its buffer, gives those for a;
    - the first copy out of the outputs is timed against a second one: outputs that wait for the result when they are
      first touched make it slower by a quarter of the latency, every time.

    A session that returns the same outputs for both inputs cannot be judged by the second. Work that ends later than
    the settling time is not seen by the first. What returns early is quick to return, and its work may be over by
    chance before it is looked at: three tries. A session that is slow to return has that much work pending, if any:
    one try, of some twelve latencies.
    """
    latency_s = 1e-9 * time_one(session, feeds_a, clock)
    settle = max(settle_seconds, 2 * latency_s)
    lazy = True
    for _ in range(_TRIES if settle == settle_seconds else 1):
        references = []
        for feeds in (feeds_a, feeds_b):
            outputs, fresh, waited = _touch(session, feeds, clock)
            lazy = lazy and waited
            sleep(settle)
            if not _same(fresh, _copy(outputs)):
                return (EARLY_RETURN,)
            again = session(feeds)
            sleep(settle)
            references.append((fresh, _copy(again)))
        if _is_stale(*references):
            return (EARLY_RETURN,)
    # One slow copy may be an interruption.
    for _ in range(2 * (_TRIES - 1)):
        lazy = lazy and _touch(session, feeds_a, clock)[2]
    return (EARLY_RETURN,) if lazy else ()


def _touch(session: Call, feeds: Feeds, clock: Clock) -> tuple[Mapping[str, Any], list[Array], bool]:
    """Run once; returns the outputs, a copy of them taken at once, and whether taking it waited for the result."""
    start = clock()
    outputs = session(feeds)
    returned = clock()
    fresh = _copy(outputs)
    touched = clock()
    _copy(outputs)
    wait_ns = (touched - returned) - (clock() - touched)
    return outputs, fresh, wait_ns > max(_LAZY_FLOOR_NS, _LAZY_SHARE * (returned - start))


def _is_stale(a: tuple[list[Array], list[Array]], b: tuple[list[Array], list[Array]]) -> bool:
    # Threads may add up in another order each time: stale means nearer to the other input's outputs than to its own.
    (_, settled_a), (fresh_b, settled_b) = a, b
    return _distance(fresh_b, settled_b) > 0.5 * _distance(settled_a, settled_b) > 0


def _copy(outputs: Mapping[str, Any]) -> list[Array]:
    return [np.array(outputs[name]) for name in outputs]


def _same(left: list[Array], right: list[Array]) -> bool:
    return all(one.tobytes() == other.tobytes() for one, other in zip(left, right, strict=True))


def _distance(left: list[Array], right: list[Array]) -> float:
    pairs = zip(left, right, strict=True)
    return max(
        (float(np.max(np.abs(np.nan_to_num(a) * 1.0 - np.nan_to_num(b)), initial=0)) for a, b in pairs), default=0
    )


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
