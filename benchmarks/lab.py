"""A simulated lab: real Dask, many devices, injected failures. Does it keep devices busy, and lose or repeat no job?

    python benchmarks/lab.py [--devices 50] [--jobs 2000] [--seconds 20]

Each device is a Dask worker process on loopback; a job sleeps for the length of a measurement. Some attempts end in a
fault of the device, some kill their worker (a nanny restarts it), and some devices never work. The ideal schedule
spreads all work, wasted attempts included, evenly over the working devices, without gaps.

A job lasts 20 s on average, like a measurement with the default ``--budget``; then 2,000 jobs on 50 devices take 14
minutes. benchmarks/RESULTS.md has the results.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

from effbench.lab.cluster import Cluster
from effbench.lab.engine import JobEngine, JobOutcome
from effbench.lab.job import LabJob
from effbench.lab.results import Results

TESTS = Path(__file__).parent.parent / "tests" / "support"
FAULT_SHARE, KILL_SHARE, BROKEN_SHARE = 0.03, 0.005, 0.04
DEVICE = "device"
QUIET = {
    "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False",
    "DASK_DISTRIBUTED__ADMIN__SYSTEM_MONITOR__INTERVAL": "10s",
}
"""For workers beside a device (docs/how-to/lab.md). A worker's statistical profiler samples its threads a hundred times
a second; the profilers of fifty workers take all the time of two cores."""


def start(folder: Path, devices: int, broken: int) -> tuple[str, list[subprocess.Popen[bytes]]]:
    """Start a scheduler and its workers; the first ``broken`` of them never work."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    common = ["--host", "127.0.0.1", "--no-dashboard"]
    processes = [_run(folder, "scheduler", "scheduler", *common, "--port", address.rpartition(":")[2])]
    time.sleep(3)
    for index in range(devices):
        options = ["--death-timeout", "60", "--nthreads", "1", "--memory-limit", "0"]
        options += ["--local-directory", str(folder / "dask")]
        options += ["--resources", f"{DEVICE}=1", "--name", f"unit-{index}"]
        extra = {"LAB_BROKEN": "1"} if index < broken else {}
        processes.append(_run(folder, f"unit-{index}", "worker", address, *common, *options, **extra))
    return address, processes


def _run(folder: Path, name: str, kind: str, *options: str, **extra: str) -> subprocess.Popen[bytes]:
    paths = os.pathsep.join([str(Path(__file__).parent), str(TESTS), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **QUIET, **extra}
    with (folder / f"{name}.log").open("wb") as log:
        command = [sys.executable, "-m", f"distributed.cli.dask_{kind}", *options]
        return subprocess.Popen(command, env=env, stdout=log, stderr=log)


def work(**arguments: Any) -> object:
    """Do a job of the simulated lab; fail if this device is one that never works."""
    import simulated

    if os.environ.get("LAB_BROKEN"):
        return simulated.broken(arguments["name"], arguments["folder"])
    return simulated.work(**arguments)


def plan(folder: Path, jobs: int, seconds: float) -> tuple[list[LabJob], float]:
    """Return the jobs and their total seconds, wasted attempts included."""
    rng = random.Random(0)
    planned, total = [], 0.0
    for index in range(jobs):
        duration = seconds * rng.uniform(0.5, 1.5)
        roll = rng.random()
        faults = ["kill"] if roll < KILL_SHARE else ["fault"] if roll < KILL_SHARE + FAULT_SHARE else []
        total += duration * (1 + sum(0.5 if fault == "kill" else 1.0 for fault in faults))
        arguments = {"name": str(index), "folder": str(folder), "seconds": duration, "faults": faults}
        planned.append(LabJob(DEVICE, "lab:work", arguments, limit_s=20 * seconds + 60))
    return planned, total


def main() -> None:
    """Run the lab and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=50)
    parser.add_argument("--jobs", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=20.0, help="mean length of a job")
    parser.add_argument("--logs", type=Path, help="copy the logs of the scheduler and the workers to this folder")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the workers end with this process
    broken = round(BROKEN_SHARE * options.devices)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "runs").mkdir()
        jobs, total = plan(folder / "runs", options.jobs, options.seconds)
        address, processes = start(folder, options.devices, broken)
        try:
            pool = Cluster(address, (DEVICE,))
            deadline = time.monotonic() + 300
            while len(pool.units()) < options.devices:
                if time.monotonic() > deadline:
                    sys.exit(f"{len(pool.units())} of {options.devices} workers after 5 minutes")
                time.sleep(0.5)
            messages: list[str] = []
            begin = time.monotonic()
            engine = JobEngine(pool, str(folder / "store"), messages.append)
            outcomes: list[JobOutcome] = list(engine.run(jobs))
            wall = time.monotonic() - begin
            pool.close()
        finally:
            for process in reversed(processes):
                process.terminate()
            for process in processes:
                try:
                    process.wait(15)
                except subprocess.TimeoutExpired:
                    process.kill()
        if options.logs is not None:
            options.logs.mkdir(parents=True, exist_ok=True)
            for log in folder.glob("*.log"):
                shutil.copy(log, options.logs)
        ideal = total / (options.devices - broken)
        attempts = sum(len(path.read_text().splitlines()) for path in (folder / "runs").glob("*.runs"))
        print(f"devices {options.devices}, jobs {options.jobs} of {options.seconds:g} s, attempts {attempts}")
        print(f"ideal {ideal:.1f} s, wall {wall:.1f} s, wall/ideal {wall / ideal:.3f}")
        report(jobs, outcomes, Results(folder / "store").keys(), messages)


def report(jobs: list[LabJob], outcomes: list[JobOutcome], stored: Collection[str], messages: list[str]) -> None:
    """Print the outcomes, and how many jobs and workers were lost or repeated."""
    lost, set_aside = (sum(words in text for text in messages) for words in ("is lost", "set aside"))
    outcomes_by_job = Counter(outcome.job.key for outcome in outcomes)
    print(f"outcomes {dict(Counter(outcome.status for outcome in outcomes))}")
    print(f"workers lost {lost}, set aside {set_aside}")
    print(f"stored or reported twice {sum(count > 1 for count in outcomes_by_job.values())}")
    print(f"run again although it was stored {sum(outcome.cached for outcome in outcomes)}")
    print(f"lost {sum(job.key not in stored for job in jobs)} of {len(jobs)}")


if __name__ == "__main__":
    main()
