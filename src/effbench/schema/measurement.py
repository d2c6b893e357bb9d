"""Latencies: raw samples in rounds, tied to an artifact and to the observed state of a device."""

from __future__ import annotations

import math
import typing
from dataclasses import dataclass, field
from typing import Any

from effbench.errors import DataError
from effbench.schema.artifact import Subject

LONGEST_NS = 24 * 3600 * 10**9
"""Of one sample: a day. What is longer is no latency, and sums of it would not fit into 64 bits."""

QUANTITIES = ("_c", "_pct", "_bytes", "_mhz", "_s", "_ms", "_1m")
"""Endings of what a machine is observed by that stand for a number."""

COUNTS = ("cores_online", "cores_allowed", "cgroup_cpus", "reference_earlier_runs")
"""The other numbers that a machine is observed by."""


@dataclass(frozen=True)
class Start:
    """The parts of loading an artifact in a fresh process, in milliseconds; the first inference is `Round.first_ms`.

    ``import_ms`` is for importing the runtime (numpy is imported before), ``read_ms`` for reading and checking the
    artifact's files, ``session_ms`` for the runtime to open them. If ``cold``, the files of the artifact and of the
    runtime were dropped from the system's file cache before. ``disk_bytes`` were read from the disk during the round;
    None if the system does not count them. ``still_cached`` names what could not be dropped.
    """

    import_ms: float
    read_ms: float
    session_ms: float
    cold: bool = False
    disk_bytes: int | None = None
    still_cached: tuple[str, ...] = ()


@dataclass(frozen=True)
class Round:
    """One fresh process: its raw samples in nanoseconds, in order, and what was seen while it ran.

    ``load_ms`` is the time of loading as a whole, ``start`` its parts; None if they were not timed apart.
    ``observed`` holds plain numbers (other_cpu_pct, steal_pct, involuntary_switches, cpu_mhz, ...); a key that the
    machine cannot tell is absent. ``trace`` holds series of one length along a sustained round: ``time_s``, ``samples``
    (how many there were by then), ``cpu_mhz``, ``temperature_c``.
    """

    samples_ns: tuple[int, ...]
    warmup: int
    stationary: bool
    load_ms: float
    first_ms: float
    peak_rss_bytes: int
    observed: dict[str, float] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    trace: dict[str, tuple[float, ...]] = field(default_factory=dict)
    start: Start | None = None

    def __post_init__(self) -> None:
        if not self.samples_ns:
            raise DataError("A round holds no samples.")
        if min(self.samples_ns) <= 0:
            raise DataError(f"A round holds a sample of {min(self.samples_ns)} ns; a latency is above zero.")
        if max(self.samples_ns) > LONGEST_NS:
            raise DataError(f"A round holds a sample of {max(self.samples_ns)} ns; a latency is below a day.")
        for name in ("warmup", "load_ms", "first_ms", "peak_rss_bytes"):
            if not _is_number(value := getattr(self, name)) or value < 0:
                raise DataError(f"A round has {name} = {value}, which is no amount.")
        if len({len(series) for series in self.trace.values()}) > 1:
            raise DataError("A round's trace holds series of different lengths.")


@dataclass(frozen=True)
class Samples:
    """Rounds of one artifact under one protocol (``back-to-back``, ``paced 30/s``, ``sustained 10 min``).

    ``scope`` is ``end-to-end`` (host arrays in, host arrays out) or ``device-only``; the two are never ranked together.
    ``aggregate`` names the statistic of a tool that gave no raw times (``median of 30 runs``); each round then holds
    that one figure.
    """

    rounds: tuple[Round, ...]
    protocol: str = "back-to-back"
    scope: str = "end-to-end"
    aggregate: str = ""

    def __post_init__(self) -> None:
        if not self.rounds:
            raise DataError("A measurement holds no rounds.")
        if self.scope not in ("end-to-end", "device-only"):
            raise DataError(f"Scope '{self.scope}' is neither end-to-end nor device-only.")

    @property
    def cached_starts(self) -> tuple[Round, ...]:
        """The rounds that did not start cold: those that load and first inference are stated for. All, if none."""
        return tuple(item for item in self.rounds if item.start is None or not item.start.cold) or self.rounds


@dataclass(frozen=True)
class Measurement:
    """Samples tied to the digest of an artifact and to the observed state of a device.

    The store keeps one JSON line per round, so that a kill loses the round in flight and no more; lines of one ``run``
    are read back as one measurement.

    Two measurements may be compared only where `must_match` agrees.
    """

    digest: str
    subject: Subject
    device: str
    settings: dict[str, str]
    samples: Samples
    before: dict[str, Any]
    after: dict[str, Any]
    time: str
    run: str = ""
    placement: dict[str, Any] = field(default_factory=dict)
    origin: str = "measured"
    notes: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    """Why it may not be what it says, kept with ``--force``: another machine than the device's, no valid signature."""

    def __post_init__(self) -> None:
        for state in (self.before, self.after):
            if not isinstance(state, dict):
                raise DataError(f"The state of the machine is {str(state)[:60]!r}, which is no object.")
            for key, value in state.items():
                numeric = key.endswith(QUANTITIES) or key in COUNTS
                if numeric and value is not None and not _is_number(value):
                    raise DataError(f"The state of the machine has {key} = {str(value)[:60]!r}, which is no number.")

    MUST_MATCH: typing.ClassVar[tuple[str, ...]] = (
        "cpu_model",
        "machine",
        "governor",
        "cgroup_cpus",
        "cgroup_memory_bytes",
        "power_mode",
        "power_source",
        "thermal_status",
        "runtime",
    )

    def must_match(self) -> dict[str, Any]:
        """Return the keys that have to agree before this measurement may be compared with another."""
        state = {key: self.before.get(key) for key in self.MUST_MATCH}
        return {
            "device": self.device,
            **self.settings,
            "protocol": self.samples.protocol,
            "scope": self.samples.scope,
            **state,
        }


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def finite(value: float | None) -> float | None:
    """Return the value, or None where it is NaN or infinite: JSON has no words for those."""
    return value if value is not None and math.isfinite(value) else None
