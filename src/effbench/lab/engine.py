"""Distribute jobs to devices, one at a time each; retry lost jobs elsewhere and set failing devices aside."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from effbench.errors import DataError
from effbench.lab.job import FAULT, OK, LabJob
from effbench.lab.results import Results

Notify = Callable[[str], None]

FAULTS = 3
"""Consecutive faults after which a device is set aside; a single fault may be a loose cable."""

ATTEMPTS = 4
"""Faults after which a job is given up: then the job is the likely cause."""

PATIENCE_S = 60.0
"""How long jobs wait for a device of their name before they end as unavailable."""

POLL_S = 0.2
LOST = "lost"


@dataclass(frozen=True)
class JobOutcome:
    """The outcome of a job: ok, failed, unsupported or unavailable; ``cached`` if it was in the store."""

    job: LabJob
    status: str
    result: Any = None
    reason: str = ""
    next_step: str = ""
    unit: str = ""
    attempts: int = 0
    seconds: float = 0.0
    cached: bool = False


class Pool(Protocol):
    """A set of units that run jobs; each unit is one device."""

    def units(self) -> Mapping[str, str]:
        """Return the present units: address -> name of the device."""

    def start(self, job: LabJob, unit: str, store: str | None) -> None:
        """Start a job on a unit, without waiting for it."""

    def finished(self, timeout_s: float) -> list[tuple[str, dict[str, Any]]]:
        """Return the units whose jobs have ended, each with the answer of `effbench.lab.job.run`."""

    def abandon(self, unit: str) -> None:
        """Drop the job of a unit that is lost or overdue."""

    def close(self) -> None:
        """Release all resources; remote jobs end on their own."""


class JobEngine:
    """One sweep over the devices of a pool."""

    def __init__(
        self,
        pool: Pool,
        store: str | None,
        notify: Notify,
        clock: Callable[[], float] = time.monotonic,
        usable: Callable[[Any], bool] = lambda result: True,
    ) -> None:
        """Prepare a sweep; a stored result that is not usable counts as none, and its job runs again."""
        self._pool, self._store, self._notify, self._clock, self._usable = pool, store, notify, clock, usable
        self._waiting: dict[str, deque[LabJob]] = {}
        self._running: dict[str, tuple[LabJob, float]] = {}
        self._attempts: Counter[str] = Counter()
        self._faults: Counter[str] = Counter()
        self._last_seen: dict[str, float] = {}
        self._tried: dict[str, set[str]] = {}
        self.set_aside: dict[str, str] = {}
        """Unit -> why it gets no more jobs."""

    def run(self, jobs: Iterable[LabJob]) -> Iterator[JobOutcome]:
        """Yield the outcome of every job as it ends; stored outcomes come first."""
        recorded = Results(self._store).keys() if self._store is not None else set()
        keys: set[str] = set()
        for job in jobs:
            if job.key in keys:
                continue
            keys.add(job.key)
            result = self._stored(job.key) if job.key in recorded else None
            if result is not None:
                yield JobOutcome(job, OK, result, cached=True)
            else:
                self._waiting.setdefault(job.device, deque()).append(job)
        begin = self._clock()
        self._last_seen = dict.fromkeys(self._waiting, begin)
        while self._running or any(self._waiting.values()):
            units = self._pool.units()
            yield from self._lose(units)
            self._deal(units)
            yield from self._give_up(units)
            for unit, answer in self._pool.finished(POLL_S):
                yield from self._ended(unit, answer)
            yield from self._overdue()

    def _stored(self, key: str) -> Any:
        """Return a stored result, or None if it is damaged or not usable."""
        assert self._store is not None
        try:
            result = Results(self._store).get(key)
        except DataError as error:
            self._notify(f"{error.message} The job runs again.")
            return None
        return result if self._usable(result) else None

    def _deal(self, units: Mapping[str, str]) -> None:
        for unit, device in units.items():
            if unit in self.set_aside:
                continue
            self._last_seen[device] = self._clock()
            if unit not in self._running and (job := self._next(unit, device, units)) is not None:
                self._attempts[job.key] += 1
                self._running[unit] = (job, self._clock())
                self._pool.start(job, unit, self._store)

    def _next(self, unit: str, device: str, units: Mapping[str, str]) -> LabJob | None:
        """Return the next job for a unit; a job with a fault on this unit waits for another unit, if there is one."""
        queue = self._waiting.get(device, deque())
        healthy = {address for address, name in units.items() if name == device and address not in self.set_aside}
        for job in queue:
            tried = self._tried.get(job.key, set())
            if unit not in tried or not healthy - tried:
                queue.remove(job)
                return job
        return None

    def _ended(self, unit: str, answer: Mapping[str, Any]) -> Iterator[JobOutcome]:
        if unit not in self._running:
            return
        job, begin = self._running.pop(unit)
        if answer["status"] == FAULT:
            yield from self._fault(job, unit, str(answer["reason"]), str(answer.get("next_step", "")))
            return
        self._faults[unit] = 0
        yield JobOutcome(
            job,
            answer["status"],
            answer.get("result"),
            answer.get("reason", ""),
            answer.get("next_step", ""),
            unit,
            self._attempts[job.key],
            self._clock() - begin,
            answer.get("new") is False,
        )

    def _fault(self, job: LabJob, unit: str, reason: str, next_step: str = "") -> Iterator[JobOutcome]:
        self._faults[unit] += 1
        self._tried.setdefault(job.key, set()).add(unit)
        if self._faults[unit] >= FAULTS and unit not in self.set_aside:
            self.set_aside[unit] = reason
            self._notify(f"{_named(unit, job.device)} is set aside after {FAULTS} faults in a row: {reason}")
        if self._attempts[job.key] < ATTEMPTS:
            self._waiting[job.device].appendleft(job)
            return
        yield self._unavailable(job, f"{reason} (after {ATTEMPTS} attempts)", next_step)

    def _lose(self, units: Mapping[str, str]) -> Iterator[JobOutcome]:
        for unit in [unit for unit in self._running if unit not in units]:
            job, _ = self._running.pop(unit)
            self._pool.abandon(unit)
            self._notify(f"{_named(unit, job.device)} is lost; its job is tried elsewhere")
            yield from self._fault(job, unit, f"the worker {unit} was lost")

    def _overdue(self) -> Iterator[JobOutcome]:
        now = self._clock()
        for unit, (job, begin) in list(self._running.items()):
            if now - begin > job.limit_s:
                del self._running[unit]
                self._pool.abandon(unit)
                # The job may still be running there, so this unit gets no more jobs.
                self.set_aside[unit] = f"did not answer within {job.limit_s:g} s"
                self._notify(f"{_named(unit, job.device)} is set aside: {self.set_aside[unit]}")
                yield from self._fault(job, unit, self.set_aside[unit])

    def _give_up(self, units: Mapping[str, str]) -> Iterator[JobOutcome]:
        """End jobs without a unit: all units of their device are set aside, or none has appeared for a while."""
        now = self._clock()
        for device, queue in self._waiting.items():
            present = [unit for unit, name in units.items() if name == device]
            aside = {unit: self.set_aside[unit] for unit in present if unit in self.set_aside}
            if not queue or len(aside) < len(present) or any(job.device == device for job, _ in self._running.values()):
                continue
            if not present and now - self._last_seen.get(device, now) < PATIENCE_S:
                continue
            reasons = "; ".join(f"{unit}: {reason}" for unit, reason in aside.items())
            reason = f"every '{device}' is set aside ({reasons})" if aside else f"no worker offers '{device}'"
            while queue:
                yield self._unavailable(queue.popleft(), reason, "Reconnect the device, then run the sweep again.")

    def _unavailable(self, job: LabJob, reason: str, next_step: str) -> JobOutcome:
        return JobOutcome(job, "unavailable", None, reason, next_step, attempts=self._attempts[job.key])


def _named(unit: str, device: str) -> str:
    return unit if unit == device else f"{unit} ({device})"
