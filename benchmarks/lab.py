"""A simulated lab: real Dask, many devices, injected failures; is the time used, is anything lost or stored twice?

``python benchmarks/lab.py [--devices 50] [--jobs 2000] [--seconds 20]``

Each device is a Dask worker in a process of its own on loopback; a job sleeps as long as a measurement would take. Some
attempts end in a fault of the device, some kill their worker (a nanny brings it back), and some devices never work. The
ideal schedule spreads all work, wasted attempts included, evenly over the devices that work, with no gap.

A job lasts 20 s on average because that is what `profile` spends on an artifact by default (``--budget``); then 2,000
jobs on 50 devices take 14 minutes. benchmarks/RESULTS.md has what came of it.
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
from pathlib import Path

from effbench.lab.cluster import Cluster
from effbench.lab.engine import Engine, Outcome
from effbench.lab.job import LabJob
from effbench.lab.results import Results

TESTS = Path(__file__).parent.parent / "tests" / "support"
FAULT_SHARE, KILL_SHARE, BROKEN_SHARE = 0.03, 0.005, 0.04
DEVICE = "device"
QUIET = {
    "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False",
    "DASK_DISTRIBUTED__ADMIN__SYSTEM_MONITOR__INTERVAL": "10s",
}
"""For workers beside a device (docs/how-to/lab.md). A worker's statistical profiler looks at its threads a hundred
times a second; of fifty workers on two cores those alone took all the time there was."""


def start(folder: Path, devices: int, broken: int) -> tuple[str, list[subprocess.Popen[bytes]]]:
    """Start a scheduler and its workers; the first ``broken`` of them never work."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    here = ["--host", "127.0.0.1", "--no-dashboard"]
    made = [_run(folder, "scheduler", "scheduler", *here, "--port", address.rpartition(":")[2])]
    time.sleep(3)
    for index in range(devices):
        options = [
            "--death-timeout",
            "60",
            "--nthreads",
            "1",
            "--memory-limit",
            "0",
            "--local-directory",
            str(folder / "dask"),
        ]
        options += ["--resources", f"{DEVICE}=1", "--name", f"unit-{index}"]
        extra = {"LAB_BROKEN": "1"} if index < broken else {}
        made.append(_run(folder, f"unit-{index}", "worker", address, *here, *options, **extra))
    return address, made


def _run(folder: Path, name: str, kind: str, *options: str, **extra: str) -> subprocess.Popen[bytes]:
    paths = os.pathsep.join([str(Path(__file__).parent), str(TESTS), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **QUIET, **extra}
    with (folder / f"{name}.log").open("wb") as log:
        command = [sys.executable, "-m", f"distributed.cli.dask_{kind}", *options]
        return subprocess.Popen(command, env=env, stdout=log, stderr=log)


def work(**arguments: object) -> object:
    """Do a job of the simulated lab, unless this device is one that never works."""
    import simulated

    if os.environ.get("LAB_BROKEN"):
        return simulated.broken(arguments["name"], arguments["folder"])
    return simulated.work(**arguments)


def plan(folder: Path, jobs: int, seconds: float) -> tuple[list[LabJob], float]:
    """Return the jobs, and how long they take together, wasted attempts included."""
    chance = random.Random(0)
    made, total = [], 0.0
    for index in range(jobs):
        lasts = seconds * chance.uniform(0.5, 1.5)
        roll = chance.random()
        faults = ["kill"] if roll < KILL_SHARE else ["fault"] if roll < KILL_SHARE + FAULT_SHARE else []
        total += lasts * (1 + sum(0.5 if fault == "kill" else 1.0 for fault in faults))
        arguments = {"name": str(index), "folder": str(folder), "seconds": lasts, "faults": faults}
        made.append(LabJob(DEVICE, "lab:work", arguments, limit_s=20 * seconds + 60))
    return made, total


def main() -> None:
    """Run the lab and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, default=50)
    parser.add_argument("--jobs", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--logs", type=Path, help="Keep what the scheduler and the workers say in this folder.")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the workers end with us
    broken = round(BROKEN_SHARE * asked.devices)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "runs").mkdir()
        jobs, total = plan(folder / "runs", asked.jobs, asked.seconds)
        address, processes = start(folder, asked.devices, broken)
        try:
            pool = Cluster(address, (DEVICE,))
            deadline = time.monotonic() + 300
            while len(pool.units()) < asked.devices:
                if time.monotonic() > deadline:
                    sys.exit(f"{len(pool.units())} of {asked.devices} workers after 5 minutes")
                time.sleep(0.5)
            said: list[str] = []
            begin = time.monotonic()
            engine = Engine(pool, str(folder / "store"), said.append)
            outcomes: list[Outcome] = list(engine.run(jobs))
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
        if asked.logs is not None:
            asked.logs.mkdir(parents=True, exist_ok=True)
            for log in folder.glob("*.log"):
                shutil.copy(log, asked.logs)
        _report(asked, folder, jobs, outcomes, total / (asked.devices - broken), wall, said)


def _report(
    asked: argparse.Namespace,
    folder: Path,
    jobs: list[LabJob],
    outcomes: list[Outcome],
    ideal: float,
    wall: float,
    said: list[str],
) -> None:
    kept = Results(folder / "store").keys()
    ended = Counter(one.job.key for one in outcomes)
    attempts = sum(len(path.read_text().splitlines()) for path in (folder / "runs").glob("*.runs"))
    print(f"devices {asked.devices}, jobs {asked.jobs} of {asked.seconds:g} s, attempts {attempts}")
    print(f"outcomes {dict(Counter(one.status for one in outcomes))}")
    print(f"workers lost {sum('is lost' in text for text in said)}, set aside {sum('set aside' in t for t in said)}")
    print(f"ideal {ideal:.1f} s, wall {wall:.1f} s, wall/ideal {wall / ideal:.3f}")
    print(f"stored or told twice {sum(count > 1 for count in ended.values())}")
    print(f"done again although it was stored {sum(one.cached for one in outcomes)}")
    print(f"lost {sum(job.key not in kept for job in jobs)} of {len(jobs)}")


if __name__ == "__main__":
    main()
