"""How inferences follow each other: back to back, paced as a camera would, sustained for minutes, cooled down between.

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
"""Above it the period is shorter than what a sleeping process takes to wake up."""

TRACE_EVERY_S = 2.0
"""How often a sustained round looks at the machine: heat moves in seconds, and a look costs about a millisecond."""

COOL_WITHIN_C = 1.0
"""Sensors tell whole or half degrees: nearer than this to the start temperature is back at it."""

COOL_LIMIT_S = 900.0
_LOOK_EVERY_S = 1.0
_SECOND_NS = 1_000_000_000


@dataclass(frozen=True)
class Protocol:
    """What decides when the next inference begins, and for how long.

    ``rate_hz`` paces the inferences (None: back to back); ``minutes`` makes a round last so long (None: as long as its
    budget says).
    """

    rate_hz: float | None = None
    minutes: float | None = None

    def __post_init__(self) -> None:
        if self.rate_hz is not None and not 0 < self.rate_hz <= FASTEST_HZ:
            raise UsageError(f"--rate {self.rate_hz:g}: a rate lies above 0 and at or below {FASTEST_HZ:g} a second.")
        if self.minutes is not None and not 0 < self.minutes <= LONGEST_MINUTES:
            raise UsageError(f"--minutes {self.minutes:g}: give more than 0 and at most {LONGEST_MINUTES}.")

    @property
    def name(self) -> str:
        """Return what `Samples.protocol` holds: ``back-to-back``, ``paced 30/s``, ``sustained 10 min, paced 30/s``."""
        paced = None if self.rate_hz is None else f"paced {self.rate_hz:g}/s"
        sustained = None if self.minutes is None else f"sustained {self.minutes:g} min"
        return ", ".join(text for text in (sustained, paced) if text) or "back-to-back"

    @classmethod
    def of(cls, job: Mapping[str, Any]) -> Protocol:
        """Read the protocol of a job."""
        return cls(job.get("rate_hz"), job.get("minutes"))

    def between(self, clock: Clock, sleep: Sleep) -> Between | None:
        """Return what to do before each inference, or None where nothing is to be done."""
        pace = None if self.rate_hz is None else Pace(self.rate_hz, clock, sleep)
        trace = None if self.minutes is None else Trace(clock)
        return None if pace is None and trace is None else Between(pace, trace)


class Pace:
    """Frames at a fixed rate: an inference begins when the next frame is there, and frames it was busy for are missed.

    The wait is a sleep, as that of an application which waits for a camera: the processor may idle and slow down, which
    is what this protocol is for.
    """

    def __init__(self, rate_hz: float, clock: Clock = time.perf_counter_ns, sleep: Sleep = time.sleep) -> None:
        self._period_ns = _SECOND_NS / rate_hz
        self._clock, self._sleep = clock, sleep
        self.restart()

    def restart(self) -> None:
        """Begin to count frames now."""
        self._begin, self._frame = self._clock(), 0
        self.taken = 0

    @property
    def missed(self) -> int:
        """How many frames went by while an inference was under way."""
        return self._frame - self.taken

    def __call__(self) -> None:
        """Wait for the first frame that is still to come."""
        elapsed = self._clock() - self._begin
        self._frame = max(self._frame + 1, math.ceil(elapsed / self._period_ns))
        due = self._begin + self._frame * self._period_ns
        while (left := due - self._clock()) > 0:
            self._sleep(left / _SECOND_NS)
        self.taken += 1


@dataclass
class Trace:
    """The machine's clock frequency and temperature along a long round, and how many samples there were by then."""

    clock: Clock = time.perf_counter_ns
    every_s: float = TRACE_EVERY_S
    found: dict[str, list[float]] = field(default_factory=dict)
    _begin: int | None = None
    _next: int = 0
    _samples: int = -1

    def restart(self) -> None:
        """Forget what was seen and begin to count samples now."""
        self.found, self._samples = {"time_s": [], "samples": []}, -1
        self._begin = self._next = self.clock()

    def __call__(self) -> None:
        """Look at the machine when it is time; called before each inference."""
        self._samples += 1
        now = self.clock()
        if self._begin is None or now < self._next:
            return
        self._next = now + int(self.every_s * _SECOND_NS)
        look = {"cpu_mhz": environment.cpu_mhz(), "temperature_c": environment.temperature_c()}
        for key, value in look.items():
            if value is not None:
                self.found.setdefault(key, []).append(float(value))
        self.found["time_s"].append((now - self._begin) / _SECOND_NS)
        self.found["samples"].append(float(self._samples))

    def as_record(self) -> dict[str, tuple[float, ...]]:
        """Return the series, all of one length; a sensor that fell silent in between is left out."""
        count = len(self.found.get("time_s", ()))
        return {key: tuple(values) for key, values in self.found.items() if count and len(values) == count}


@dataclass
class Between:
    """What happens before each inference: look at the machine, then wait for the frame."""

    pace: Pace | None
    trace: Trace | None

    def restart(self) -> None:
        """Begin anew, when warm-up is over."""
        for one in (self.pace, self.trace):
            if one is not None:
                one.restart()

    def __call__(self) -> None:
        """Do what is to be done before an inference."""
        if self.trace is not None:
            self.trace()
        if self.pace is not None:
            self.pace()

    def observed(self) -> dict[str, float]:
        """Return what a `Round` keeps of the pacing."""
        if self.pace is None or not self.pace.taken:
            return {}
        return {"missed_frames_pct": 100 * self.pace.missed / (self.pace.missed + self.pace.taken)}


def cool_down(
    to_c: float, *, limit_s: float = COOL_LIMIT_S, clock: Clock = time.perf_counter_ns, sleep: Sleep = time.sleep
) -> dict[str, float]:
    """Wait until the machine is back at a temperature, or the time is over.

    Returns:
        ``cool_down_s``, and ``above_start_c``: how far above it the machine still is.

    Raises:
        UnavailableError: The machine tells no temperature.
    """
    begin = clock()
    while True:
        now_c = environment.temperature_c()
        if now_c is None:
            raise UnavailableError(
                "This machine tells no temperature, so that nothing says when it has cooled down.",
                hint="Leave --cool-down out.",
            )
        waited_s = (clock() - begin) / _SECOND_NS
        if now_c <= to_c + COOL_WITHIN_C or waited_s >= limit_s:
            return {"cool_down_s": waited_s, "above_start_c": max(now_c - to_c, 0.0)}
        sleep(_LOOK_EVERY_S)
