"""Jobs of a simulated lab: they take a scripted time, and their first attempts fail in scripted ways.

Worker processes import this module; each run adds a line to a file in a shared folder.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from effbench.errors import DeviceError, UsageError


def work(
    name: str, folder: str, seconds: float = 0.0, faults: Sequence[str] = (), fails: bool = False
) -> dict[str, Any]:
    """Do one job; ``faults`` names the failure of each first attempt: ``fault``, ``kill`` or ``hang``."""
    log = Path(folder) / f"{name}.runs"
    with log.open("a") as stream:
        stream.write(f"{time.time()} {os.getpid()}\n")
    attempt = len(log.read_text().splitlines())
    fault = faults[attempt - 1] if attempt <= len(faults) else None
    if fault == "kill":
        time.sleep(seconds / 2)
        os._exit(1)
    if fault == "hang":
        time.sleep(3600)
    time.sleep(seconds)
    if fault == "fault":
        raise DeviceError("the cable came loose")
    if fails:
        raise UsageError("this job is invalid")
    return {"name": name, "pid": os.getpid()}


def broken(name: str, folder: str, **_: Any) -> NoReturn:
    """Run on a device that never works."""
    with (Path(folder) / f"{name}.runs").open("a") as stream:
        stream.write(f"{time.time()} {os.getpid()}\n")
    raise DeviceError("no answer from the device")


def bug(name: str) -> NoReturn:
    """Fail with an error that is not effbench's."""
    raise ZeroDivisionError(name)
