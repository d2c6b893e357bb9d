"""What the stages of an export share: the child processes they run in, and their limits."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effbench import process
from effbench.api.export import failures
from effbench.errors import EffbenchError

Notify = Callable[[str], None]

STAGE_LIMIT_S = 600.0
MEMORY_SHARE = 0.8
"""Of the machine's memory, for all stages that run at a time; the rest is the user's."""
EXPORT_WORKER, AGENT = "effbench.api.export.worker", "effbench.device.agent"


def silent(message: str) -> None:
    """Report progress to nobody."""


def memory_bytes() -> int | None:
    """Return how much memory this process may use: the machine's, or the control group's where that is less.

    None on Windows, which has no ``sysconf``.
    """
    if sys.platform == "win32":
        return None
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        return min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):
        return total


def memory_share(workers: int = 1) -> int | None:
    """Return the memory limit of each of so many stages at a time, in bytes; None where the memory is unknown."""
    total = memory_bytes()
    return None if total is None else int(total * MEMORY_SHARE / workers)


@dataclass(frozen=True)
class Limits:
    """What a stage may take; ``until`` (of `time.monotonic`) ends all stages of a cell together."""

    stage_s: float = STAGE_LIMIT_S
    memory_bytes: int | None = None
    until: float = math.inf

    @classmethod
    def of(cls, stage_s: float, memory: int | None = None, total_s: float | None = None) -> Limits:
        """Return limits that begin now; without a memory limit it is `MEMORY_SHARE` of what there is."""
        until = math.inf if total_s is None else time.monotonic() + total_s
        return cls(stage_s, memory_share() if memory is None else memory, until)

    def seconds(self) -> float:
        """Return what the next stage may take."""
        return max(0.0, min(self.stage_s, self.until - time.monotonic()))


def run(module: str, job: Mapping[str, Any], limits: Limits, home: Path, name: str) -> list[dict[str, Any]]:
    """Run one stage in a child; a failure is recorded below ``home`` before it is raised.

    Args:
        module: `EXPORT_WORKER` or `AGENT`.
        job: A JSON object; ``op`` names the stage.
        limits: Of time and memory.
        home: Where records belong.
        name: Of what was being made.

    Raises:
        EffbenchError: As the child reported it, or a `ChildFailure`.
    """
    seconds = limits.seconds()
    try:
        return list(process.run(module, job, time_limit_s=seconds, memory_limit_bytes=limits.memory_bytes))
    except OSError as error:
        # A full disk stops a child before it begins: its log is a file.
        raise EffbenchError(f"{job['op']} could not be started: {error.strerror}.", hint="Free some space.") from error
    except EffbenchError as error:
        failures.keep(home, f"{name}-{job['op']}", module, {**job, "time_limit_s": seconds}, error)
        raise
