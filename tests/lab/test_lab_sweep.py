"""A sweep over devices from the command line: an interpreter behind a pipe, this machine, and a lost device."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from effbench.lab.results import Results
from effbench.lab.sweep import fetch_rounds
from effbench.store import Store

pytestmark = pytest.mark.xdist_group("export")
LINE = ["sweep", "toy:net", "--res", "64", "-t", "ort", "--rounds", "2", "--budget", "2", "--threads", "1"]


@pytest.fixture
def lab(own: Any, pipe: Any) -> Any:
    """Return a command line in a folder that declares two working devices and a lost one."""
    gone = '[devices.gone]\ntransport = "pipe"\nconnection = { command = ["false"] }\n'
    (own.folder / "effbench.toml").write_text(pipe("bench", own.folder) + gone)
    return own


def rounds(folder: Path) -> list[tuple[str, int]]:
    """Return the device and the number of rounds of every measurement in the store."""
    return sorted((measurement.device, len(measurement.samples.rounds)) for measurement in Store(folder / "runs"))


def test_every_device_is_measured_and_a_second_sweep_runs_nothing(lab: Any):
    first = lab(*LINE, "--devices", "bench,local", "--json")
    assert 0 == first.returncode, first.stderr
    jobs = json.loads(first.stdout)["data"]["jobs"]
    assert [("bench", "ok", 2), ("local", "ok", 2)] == [(job["device"], job["status"], job["rounds"]) for job in jobs]
    assert [("bench", 2), ("local", 2)] == rounds(lab.folder)
    assert 2 == len(list((lab.folder / "runs/lab/rounds").glob("*/0001.json")))
    second = lab(*LINE, "--devices", "bench,local")
    assert "2 jobs: 2 ok (2 of them from an earlier sweep)" in second.stdout
    assert [("bench", 2), ("local", 2)] == rounds(lab.folder)
    assert "bench" in lab("report").stdout
    for path in (lab.folder / "runs/lab/rounds").iterdir():
        for home in (lab.folder / "runs", lab.folder / "elsewhere", lab.folder / "elsewhere"):
            brought = fetch_rounds(str(lab.folder / "runs/lab"), [path.name], home)
            assert 2 == len(brought[path.name].samples.rounds)
    assert [("bench", 2), ("local", 2)] == rounds(lab.folder)


def test_a_lost_device_does_not_block_the_others(lab: Any):
    process = lab(*LINE, "--devices", "gone,bench", "--store", f"local://{lab.folder}/far", "--format", "csv")
    assert 4 == process.returncode, process.stderr
    assert "2 jobs: 1 ok, 1 unavailable" in process.stdout
    assert "gone was set aside" in process.stdout
    assert [("bench", 2)] == rounds(lab.folder)
    assert {"jobs", "rounds"} == {path.name for path in (lab.folder / "far").iterdir()}
    assert (lab.folder / "runs/lab.csv").read_text().startswith("device,model,resolution")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--devices", "bensh"], 2, "Did you mean bench"),
        (["--devices", "iphone-13"], 4, "effbench cannot drive 'iphone-13'"),
        (["--devices", "bench", "--store", "x", "--scheduler", "tcp://lab.example:8786"], 2, "tls://"),
        (["--devices", "bench", "--scheduler", "tls://lab.example:8786"], 2, "all hosts share"),
        (["--scheduler", "tcp://127.0.0.1:1"], 2, "Add --devices"),
        (["--devices", "bench", "--no-profile"], 2, "--no-profile does not go with --devices"),
    ],
)
def test_invalid_arguments_are_refused_before_any_work(lab: Any, words: list[str], code: int, message: str):
    process = lab(*LINE, *words)
    assert (code, True) == (process.returncode, message in process.stderr), process.stderr
    assert not (lab.folder / "runs/lab").exists()


@pytest.mark.slow
def test_a_target_that_a_device_does_not_run_is_reported(lab: Any):
    process = lab(*LINE, "-t", "ov", "--devices", "bench")
    assert (4, True) == (process.returncode, "'bench' runs ort, not ov" in process.stdout), (
        process.stdout + process.stderr
    )


@pytest.mark.slow
def test_a_killed_sweep_loses_only_the_rounds_in_flight(lab: Any):
    line = [*LINE[:5], "ort", "--rounds", "8", "--budget", "8", "--devices", "bench,local"]
    sweep = subprocess.Popen([sys.executable, "-m", "effbench.cli", *line], cwd=lab.folder, stdout=subprocess.DEVNULL)
    stored: list[str] = []
    deadline = time.monotonic() + 120
    while len(stored) < 5 and time.monotonic() < deadline:
        time.sleep(0.05)
        stored = [str(path) for path in (lab.folder / "runs/lab/rounds").glob("*/*.json")]
    sweep.send_signal(signal.SIGKILL)
    sweep.wait()
    before = {path: Path(path).read_bytes() for path in stored}
    process = lab(*line)
    assert 0 == process.returncode, process.stderr
    assert [("bench", 8), ("local", 8)] == rounds(lab.folder)
    assert before == {path: Path(path).read_bytes() for path in stored}
    runs = Counter(path.parent.name for path in (lab.folder / "runs/lab/rounds").glob("*/*.json"))
    assert [8, 8] == list(runs.values())
    assert 2 == len(Results(lab.folder / "runs/lab/jobs").keys())
