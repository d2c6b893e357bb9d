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
"""Of the machine's memory, for all stages that run at the same time."""
EXPORT_WORKER = "effbench.api.export.worker"


def silent(message: str) -> None:
    """Discard progress messages."""


def memory_bytes() -> int | None:
    """Return the memory this process may use, in bytes: the smaller of the machine's and the control group's.

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
    """Return the memory limit of each stage in bytes, if ``workers`` stages run at a time; None if it is unknown."""
    total = memory_bytes()
    return None if total is None else int(total * MEMORY_SHARE / workers)


@dataclass(frozen=True)
class Limits:
    """Limits of a stage; ``until`` (of `time.monotonic`) ends all stages of a cell."""

    stage_s: float = STAGE_LIMIT_S
    memory_bytes: int | None = None
    until: float = math.inf

    @classmethod
    def of(cls, stage_s: float, memory: int | None = None, total_s: float | None = None) -> Limits:
        """Return limits that start now; the default memory limit is `memory_share`."""
        until = math.inf if total_s is None else time.monotonic() + total_s
        return cls(stage_s, memory_share() if memory is None else memory, until)

    def seconds(self) -> float:
        """Return the seconds that the next stage may take."""
        return max(0.0, min(self.stage_s, self.until - time.monotonic()))


def run(module: str, job: Mapping[str, Any], limits: Limits, home: Path, name: str) -> list[dict[str, Any]]:
    """Run one stage in a child; a failure is recorded below ``home`` before it is raised.

    Args:
        module: `EXPORT_WORKER` or `effbench.device.AGENT`.
        job: A JSON object; ``op`` names the stage.
        limits: Of time and memory.
        home: Where records belong.
        name: Of the artifact, for the record of a failure.

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
