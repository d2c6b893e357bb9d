"""Jobs of a simulated lab: they take a scripted time, and fail in scripted ways on their first attempts.

Imported by workers in processes of their own: what happened is written to files below a folder, one line a run.
"""

import os
import time
from pathlib import Path

from effbench.errors import DeviceError, UsageError


def work(name, folder, seconds=0.0, faults=(), fails=False):
    """Do one job; ``faults`` says what befalls its first attempts: ``fault``, ``kill`` or ``hang``."""
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
        raise UsageError("this job means nothing")
    return {"name": name, "pid": os.getpid()}


def broken(name, folder):
    """Run on a device that never works."""
    with (Path(folder) / f"{name}.runs").open("a") as stream:
        stream.write(f"{time.time()} {os.getpid()}\n")
    raise DeviceError("no answer from the device")


def bug(name):
    """Fail as nobody foresaw."""
    raise ZeroDivisionError(name)
