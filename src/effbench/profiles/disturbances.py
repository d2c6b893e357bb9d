"""Disturbances that make a latency longer, each with its thresholds; they add up.

Each is a share of time or speed that the machine took from the model. One alone grades B or C above its thresholds;
many that are each below theirs may together be as long, so that their shares of the C threshold are added.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from effbench.profiles.reference import KERNELS
from effbench.schema import Samples

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class TrustThresholds:
    """The values above which a check grades B, C and D."""

    b: float
    c: float
    d: float = float("inf")

    def grade(self, value: float) -> str:
        """Return the grade of a value."""
        return "D" if value > self.d else "C" if value > self.c else "B" if value > self.b else "A"


OTHER_CPU_PCT = TrustThresholds(15, 40)
"""CPU time of other processes, percent of one core of two, mean over rounds. An idle system with its services and the
reading of the counters (10 ms ticks in rounds of half a second: 4 %) stays below 15; one busy process uses 100."""

SHARED_CORES = 2
"""The machine that these thresholds are for: a busy process takes a core, or half of what two cores share. On a machine
of more cores it takes that much less of what the model shares with it."""

STEAL_PCT = TrustThresholds(2, 8, 50)
"""Time the hypervisor gave to other guests, percent of one core: it appears in the samples as latency."""

RUN_DELAY_PCT = TrustThresholds(1, 5, 50)
"""Time this process's threads were ready but not running, percent of wall time; below 1 % it moves p50 by under 2 %."""

FREQUENCY_DROP_PCT = TrustThresholds(3, 10)
"""Fall of the highest core frequency over a round, median over rounds: latency follows frequency one to one."""

REFERENCE_LOSS_PCT = TrustThresholds(5, 10, 100)
"""How much slower the reference kernels were than the best ever seen on this machine, median over rounds."""

TOGETHER_PCT = TrustThresholds(75, 100)
"""The sum of all disturbances, each in percent of its C threshold."""


class Disturbance(NamedTuple):
    """One disturbance of a measurement: its size, its thresholds, and how it is reported."""

    size: float
    thresholds: TrustThresholds
    text: str


def disturbances(samples: Samples, before: Mapping[str, Any]) -> Iterator[Disturbance]:
    """Yield the disturbances that a record shows, each with its size, zero or above.

    Args:
        samples: The rounds and their observations.
        before: The state of the machine before the first round.
    """
    other = observed(samples, "other_cpu_pct") * core_share(before)
    if len(other):
        text = f"other load: other processes used {other.mean():.0f} % of a core of two"
        yield Disturbance(float(other.mean()), OTHER_CPU_PCT, text)
    stolen = observed(samples, "steal_pct")
    if len(stolen):
        yield Disturbance(
            float(stolen.mean()), STEAL_PCT, f"stolen time: the hypervisor took {stolen.mean():.1f} % of a core"
        )
    delay = observed(samples, "run_delay_pct")
    if len(delay):
        yield Disturbance(
            float(delay.mean()), RUN_DELAY_PCT, f"preempted: threads waited for a core {delay.mean():.1f} % of the time"
        )
    drops = [
        1 - one.observed["cpu_mhz_after"] / one.observed["cpu_mhz_before"]
        for one in samples.rounds
        if {"cpu_mhz_before", "cpu_mhz_after"} <= one.observed.keys()
    ]
    if drops:
        drop = max(0.0, 100 * float(np.median(drops)))
        yield Disturbance(drop, FREQUENCY_DROP_PCT, f"throttled: the clock frequency fell {drop:.0f} % during a round")
    yield from _lost_speed(samples, before)


def _lost_speed(samples: Samples, before: Mapping[str, Any]) -> Iterator[Disturbance]:
    """Yield the loss of the kernel that lost more: both are signs of one machine's state."""
    losses = {}
    for name in KERNELS:
        key = f"reference_{name}_us"
        times = observed(samples, key)
        if len(times) and times.min() > 0:
            best = min(float(times.min()), float(before.get(f"{key}_best") or np.inf))
            losses[name] = 100 * (float(np.median(times)) / best - 1)
    if losses:
        name = max(losses, key=lambda kernel: losses[kernel])
        text = f"slow machine: the {name} kernel took {losses[name]:.0f} % longer than the best seen here"
        yield Disturbance(losses[name], REFERENCE_LOSS_PCT, text)


def core_share(before: Mapping[str, Any]) -> float:
    """Return what one core's load takes of the shared parts of this machine, against one of two cores."""
    return SHARED_CORES / max(SHARED_CORES, int(before.get("cores_online") or SHARED_CORES))


def observed(samples: Samples, key: str) -> Floats:
    """Return an observation of all rounds that have it."""
    return np.array([one.observed[key] for one in samples.rounds if key in one.observed])
