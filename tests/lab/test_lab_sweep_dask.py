"""``effbench sweep --scheduler`` on a real Dask scheduler: workers, the scheduler and the sweep are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("distributed")

from scheduler import Lab

from effbench.store import Store

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("lab")]
ROUNDS = 10
LINE = ["sweep", "toy:net", "--res", "64", "-t", "ort", "--rounds", str(ROUNDS), "--budget", "10", "--threads", "1"]


@pytest.fixture
def lab(own: Any, tmp_path: Path) -> Any:
    """Start a scheduler, and a worker for each of two devices, which their folder declares."""
    command = json.dumps(["env", f"PATH={Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"])
    entries = [
        f'[devices.{name}]\ntransport = "pipe"\nconnection = {{ command = {command}, home = "{tmp_path}/{name}" }}\n'
        for name in ("orin", "pixel")
    ]
    (own.folder / "effbench.toml").write_text("".join(entries))
    running = Lab(tmp_path, own.folder, {"PYTHONPATH": str(own.folder), "EFFBENCH_HOME": str(own.folder / "runs")})
    running.own = own
    running.worker("orin-a", "orin")
    running.worker("pixel-a", "pixel")
    yield running
    running.close()


def start(lab: Any) -> subprocess.Popen[str]:
    words = [*LINE, "--devices", "orin,pixel", "--scheduler", lab.address]
    return subprocess.Popen(
        [sys.executable, "-m", "effbench.cli", *words],
        cwd=lab.own.folder,
        env={**os.environ, "EFFBENCH_PROGRESS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def stored(lab: Any) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in (lab.own.folder / "runs/lab/rounds").glob("*/*.json")}


def wait_for_rounds(lab: Any, number: int) -> dict[Path, bytes]:
    deadline = time.monotonic() + 180
    while len(rounds := stored(lab)) < number:
        assert time.monotonic() < deadline, f"{len(rounds)} of {number} rounds"
        time.sleep(0.05)
    return rounds


def check(lab: Any, before: dict[Path, bytes], runs: int = 2) -> None:
    """Compare the result with the rounds stored before the kill: none is lost, changed or stored twice."""
    after = stored(lab)
    assert before == {path: after[path] for path in before}
    assert {runs} == {len(Counter(path.parent.name for path in after))}
    home = sorted(
        (measurement.device, len(measurement.samples.rounds)) for measurement in Store(lab.own.folder / "runs")
    )
    assert [("orin", ROUNDS), ("pixel", ROUNDS)] == home


def test_a_killed_worker_s_job_continues_when_its_device_returns(lab: Any):
    sweep = start(lab)
    before = wait_for_rounds(lab, 4)
    lab.kill("orin-a")
    lab.worker("orin-b", "orin")
    output, _ = sweep.communicate(timeout=240)
    assert 0 == sweep.returncode, output
    assert "is lost; its job is tried elsewhere" in output
    check(lab, before)


@pytest.mark.parametrize("victim", ["sweep", "scheduler"])
def test_a_killed_sweep_or_scheduler_loses_only_the_rounds_in_flight(lab: Any, victim: str):
    sweep = start(lab)
    before = wait_for_rounds(lab, 4)
    if victim == "sweep":
        sweep.send_signal(signal.SIGKILL)
        sweep.communicate(timeout=60)
    else:
        lab.kill("scheduler")
        output, _ = sweep.communicate(timeout=120)
        assert 4 == sweep.returncode, output
        assert "is lost" in output
        assert "Traceback" not in output
        for name in ("orin-a", "pixel-a"):
            lab.kill(name)
        lab.scheduler()
        lab.worker("orin-b", "orin")
        lab.worker("pixel-b", "pixel")
    second = start(lab)
    output, _ = second.communicate(timeout=240)
    assert 0 == second.returncode, output
    check(lab, before)


def certificates(folder: Path) -> dict[str, str]:
    """Create a certificate authority and a certificate; return the settings of Dask that name them."""
    lines = """
        req -x509 -newkey rsa:2048 -nodes -days 2 -keyout ca.key -out ca.pem -subj /CN=lab-ca
        req -newkey rsa:2048 -nodes -keyout lab.key -out lab.csr -subj /CN=lab
        x509 -req -in lab.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -out lab.pem
    """
    for line in lines.strip().splitlines():
        subprocess.run(["openssl", *line.split()], cwd=folder, check=True, capture_output=True)
    settings = {"DASK_DISTRIBUTED__COMM__TLS__CA_FILE": str(folder / "ca.pem")}
    for role in ("CLIENT", "SCHEDULER", "WORKER"):
        settings[f"DASK_DISTRIBUTED__COMM__TLS__{role}__CERT"] = str(folder / "lab.pem")
        settings[f"DASK_DISTRIBUTED__COMM__TLS__{role}__KEY"] = str(folder / "lab.key")
    return settings


def test_a_lab_with_certificates(own: Any, tmp_path: Path):
    names = certificates(tmp_path)
    command = json.dumps(["env", f"PATH={Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"])
    toml = f'[devices.orin]\ntransport = "pipe"\nconnection = {{ command = {command}, home = "{tmp_path}/orin" }}\n'
    (own.folder / "effbench.toml").write_text(toml)
    home = {"PYTHONPATH": str(own.folder), "EFFBENCH_HOME": str(own.folder / "runs")}
    lab = Lab(tmp_path, own.folder, {**home, **names}, scheme="tls")
    try:
        lab.worker("orin-a", "orin")
        line = [*LINE[:5], "ort", "--rounds", "1", "--budget", "1", "--devices", "orin", "--scheduler"]
        process = own(*line, lab.address, **names)
        assert 0 == process.returncode, process.stdout + process.stderr
        assert "1 job: 1 ok" in process.stdout
        refused = own(*line, lab.address)
        assert (2, True) == (refused.returncode, "no certificates are configured" in refused.stderr), refused.stderr
    finally:
        lab.close()
