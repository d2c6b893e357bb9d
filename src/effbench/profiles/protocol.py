"""Measurement protocols: inferences back to back, paced like a camera, or sustained for minutes; cooling down.

A protocol acts between inferences, never inside the timed part; the clock is that of `effbench.profiles.measure`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from effbench.errors import UnavailableError, UsageError
from effbench.profiles import environment

Clock = Callable[[], int]
Sleep = Callable[[float], None]

LONGEST_MINUTES = 24 * 60
FASTEST_HZ = 10_000.0
"""At a higher rate, the period is shorter than the wake-up time of a sleeping process."""

TRACE_EVERY_S = 2.0
"""How often a sustained round reads the sensors: temperature changes in seconds, and a reading takes about 1 ms."""

COOL_WITHIN_C = 1.0
"""Sensors report whole or half degrees; within this distance of the start temperature, the machine is cool."""

COOL_LIMIT_S = 900.0
_LOOK_EVERY_S = 1.0
_SECOND_NS = 1_000_000_000


@dataclass(frozen=True)
class Protocol:
    """The pace of inferences and the duration of a round.

    ``rate_hz`` paces the inferences (None: back to back); ``minutes`` is the duration of a round (None: its budget).
    """

    rate_hz: float | None = None
    minutes: float | None = None

    def __post_init__(self) -> None:
        if self.rate_hz is not None and not 0 < self.rate_hz <= FASTEST_HZ:
            raise UsageError(f"--rate {self.rate_hz:g}: give more than 0 and at most {FASTEST_HZ:g}.")
        if self.minutes is not None and not 0 < self.minutes <= LONGEST_MINUTES:
            raise UsageError(f"--minutes {self.minutes:g}: give more than 0 and at most {LONGEST_MINUTES}.")

    @property
    def name(self) -> str:
        """Return the text of `Samples.protocol`: ``back-to-back``, ``paced 30/s``, ``sustained 10 min, paced 30/s``."""
        paced = None if self.rate_hz is None else f"paced {self.rate_hz:g}/s"
        sustained = None if self.minutes is None else f"sustained {self.minutes:g} min"
        return ", ".join(text for text in (sustained, paced) if text) or "back-to-back"

    @classmethod
    def of(cls, job: Mapping[str, Any]) -> Protocol:
        """Read the protocol of a job."""
        return cls(job.get("rate_hz"), job.get("minutes"))

    def between(self, clock: Clock, sleep: Sleep) -> Between | None:
        """Return what runs before each inference, or None if nothing does."""
        pace = None if self.rate_hz is None else Pace(self.rate_hz, clock, sleep)
        trace = None if self.minutes is None else Trace(clock)
        return None if pace is None and trace is None else Between(pace, trace)


BACK_TO_BACK = Protocol()


class Pace:
    """Frames at a fixed rate: an inference begins with the next frame, and frames during an inference are missed.

    The wait is a sleep, as in an application that waits for a camera: the processor may idle and slow down, which this
    protocol is meant to show.
    """

    def __init__(self, rate_hz: float, clock: Clock = time.perf_counter_ns, sleep: Sleep = time.sleep) -> None:
        self._period_ns = _SECOND_NS / rate_hz
        self._clock, self._sleep = clock, sleep
        self.restart()

    def restart(self) -> None:
        """Begin to count frames now."""
        self._begin, self._frame = self._clock(), 0
        self.processed = 0

    @property
    def missed(self) -> int:
        """The number of frames that passed during an inference."""
        return self._frame - self.processed

    def __call__(self) -> None:
        """Wait for the next frame."""
        elapsed = self._clock() - self._begin
        self._frame = max(self._frame + 1, math.ceil(elapsed / self._period_ns))
        due = self._begin + self._frame * self._period_ns
        while (remaining_ns := due - self._clock()) > 0:
            self._sleep(remaining_ns / _SECOND_NS)
        self.processed += 1


@dataclass
class Trace:
    """Clock frequency and temperature during a long round, and the number of samples at each reading."""

    clock: Clock = time.perf_counter_ns
    every_s: float = TRACE_EVERY_S
    series: dict[str, list[float]] = field(default_factory=dict)
    _begin: int | None = None
    _next: int = 0
    _samples: int = -1

    def restart(self) -> None:
        """Discard all readings and begin to count samples now."""
        self.series, self._samples = {"time_s": [], "samples": []}, -1
        self._begin = self._next = self.clock()

    def __call__(self) -> None:
        """Read the sensors if the period has passed; called before each inference."""
        self._samples += 1
        now = self.clock()
        if self._begin is None or now < self._next:
            return
        self._next = now + int(self.every_s * _SECOND_NS)
        readings = {"cpu_mhz": environment.cpu_mhz(), "temperature_c": environment.temperature_c()}
        for key, value in readings.items():
            if value is not None:
                self.series.setdefault(key, []).append(float(value))
        self.series["time_s"].append((now - self._begin) / _SECOND_NS)
        self.series["samples"].append(float(self._samples))

    def as_record(self) -> dict[str, tuple[float, ...]]:
        """Return the series, all of one length; a sensor that failed in between is omitted."""
        count = len(self.series.get("time_s", ()))
        return {key: tuple(values) for key, values in self.series.items() if count and len(values) == count}


@dataclass
class Between:
    """Run before each inference: read the sensors, then wait for the frame."""

    pace: Pace | None
    trace: Trace | None

    def restart(self) -> None:
        """Restart pace and trace, at the start of warm-up and of the timed phase."""
        for part in (self.pace, self.trace):
            if part is not None:
                part.restart()

    def __call__(self) -> None:
        """Read the sensors and wait, as configured."""
        if self.trace is not None:
            self.trace()
        if self.pace is not None:
            self.pace()

    def observed(self) -> dict[str, float]:
        """Return the share of missed frames for a `Round`; empty without a pace."""
        if self.pace is None or not self.pace.processed:
            return {}
        return {"missed_frames_pct": 100 * self.pace.missed / (self.pace.missed + self.pace.processed)}


def cool_down(
    to_c: float, *, limit_s: float = COOL_LIMIT_S, clock: Clock = time.perf_counter_ns, sleep: Sleep = time.sleep
) -> dict[str, float]:
    """Wait until the machine has cooled to a temperature, or the time limit has passed.

    Returns:
        ``cool_down_s``, and ``above_start_c``: how far the machine is still above it.

    Raises:
        UnavailableError: The machine reports no temperature.
    """
    begin = clock()
    while True:
        now_c = environment.temperature_c()
        if now_c is None:
            raise UnavailableError(
                "This machine reports no temperature, so cooling down cannot be observed.",
                hint="Leave --cool-down out.",
            )
        waited_s = (clock() - begin) / _SECOND_NS
        if now_c <= to_c + COOL_WITHIN_C or waited_s >= limit_s:
            return {"cool_down_s": waited_s, "above_start_c": max(now_c - to_c, 0.0)}
        sleep(_LOOK_EVERY_S)
