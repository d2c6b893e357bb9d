"""The lab on a real Dask scheduler with workers in separate processes, which are killed."""

import socket
import subprocess
import sys

import pytest

from effbench.errors import DeviceError, UnavailableError, UsageError
from effbench.lab.engine import JobEngine
from effbench.lab.job import OK, LabJob
from effbench.lab.results import Results

distributed = pytest.importorskip("distributed")

from scheduler import Lab  # noqa: E402

from effbench.lab.cluster import Cluster  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("lab"),
    # distributed leaves event loops and sockets to the garbage collector if its scheduler is killed.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def lab(tmp_path):
    running = Lab(tmp_path)
    yield running
    running.close()


def job(name, folder, device="orin", **more):
    return LabJob(device, "simulated:work", {"name": name, "folder": str(folder), **more}, limit_s=60)


def sweep(lab, jobs, store, devices=("orin",), messages=None):
    pool = Cluster(lab.address, devices)
    try:
        yield from JobEngine(pool, str(store), (messages if messages is not None else []).append).run(jobs)
    finally:
        pool.close()


def runs(folder):
    return {path.stem: len(path.read_text().splitlines()) for path in folder.glob("*.runs")}


def test_jobs_go_where_their_device_is(lab, tmp_path):
    lab.worker("orin-a", "orin")
    lab.worker("pixel-a", "pixel")
    jobs = [job(f"o{i}", tmp_path) for i in range(4)] + [job(f"p{i}", tmp_path, "pixel") for i in range(4)]
    outcomes = list(sweep(lab, jobs, tmp_path / "lab", ("orin", "pixel")))
    assert [OK] * 8 == [outcome.status for outcome in outcomes]
    by_device = {
        device: {outcome.result["pid"] for outcome in outcomes if outcome.job.device == device}
        for device in ("orin", "pixel")
    }
    assert {lab.processes["orin-a"].pid} == by_device["orin"]
    assert {lab.processes["pixel-a"].pid} == by_device["pixel"]
    assert set(runs(tmp_path).values()) == {1}


def test_the_job_of_a_killed_worker_runs_elsewhere_and_is_stored_once(lab, tmp_path):
    lab.worker("a", "orin")
    lab.worker("b", "orin")
    jobs = [
        job("0", tmp_path, seconds=0.2, faults=("kill",)),
        *(job(str(i), tmp_path, seconds=0.2) for i in range(1, 8)),
    ]
    messages = []
    outcomes = list(sweep(lab, jobs, tmp_path / "lab", messages=messages))
    assert [OK] * 8 == [outcome.status for outcome in outcomes]
    assert 8 == len(Results(tmp_path / "lab").keys())
    assert {"0": 2, **{str(i): 1 for i in range(1, 8)}} == runs(tmp_path)
    assert any("is lost; its job is tried elsewhere" in text for text in messages)


def test_a_killed_scheduler_ends_the_sweep_and_the_next_sweep_completes_it(lab, tmp_path):
    lab.worker("a", "orin")
    jobs = [job(str(i), tmp_path, seconds=0.3) for i in range(6)]
    running = sweep(lab, jobs, tmp_path / "lab")
    finished = [next(running), next(running)]
    lab.kill("scheduler")
    with pytest.raises(DeviceError, match="is lost"):
        finished += running
    recorded = Results(tmp_path / "lab").keys()
    assert {item.job.key for item in finished} <= recorded
    (tmp_path / "second").mkdir()
    second = Lab(tmp_path / "second")
    try:
        second.worker("c", "orin")
        outcomes = list(sweep(second, jobs, tmp_path / "lab"))
    finally:
        second.close()
    assert [OK] * 6 == [item.status for item in outcomes]
    assert {item.key for item in jobs} == Results(tmp_path / "lab").keys()
    assert {True} == {item.cached for item in outcomes if item.job.key in recorded}


def test_a_killed_sweep_loses_what_was_in_flight_and_stores_nothing_twice(lab, tmp_path):
    lab.worker("a", "orin")
    lab.worker("b", "orin")
    script = f"""
from effbench.lab.cluster import Cluster
from effbench.lab.engine import JobEngine
from effbench.lab.job import LabJob
arguments = [{{"name": str(i), "folder": {str(tmp_path)!r}, "seconds": 0.3}} for i in range(12)]
jobs = [LabJob("orin", "simulated:work", one, limit_s=60) for one in arguments]
for one in JobEngine(Cluster({lab.address!r}, ("orin",)), {str(tmp_path / "lab")!r}, print).run(jobs):
    print(one.status, flush=True)
"""
    first = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None
    for _ in range(4):
        assert "ok\n" == first.stdout.readline()
    first.kill()
    first.wait()
    first.stdout.close()
    jobs = [job(str(i), tmp_path, seconds=0.3) for i in range(12)]
    outcomes = list(sweep(lab, jobs, tmp_path / "lab"))
    assert [OK] * 12 == [outcome.status for outcome in outcomes]
    assert 12 == len(Results(tmp_path / "lab").keys())
    # With two workers, at most two jobs were in flight and run again.
    assert 12 <= sum(runs(tmp_path).values()) <= 14


def test_without_a_scheduler_the_message_names_the_command(tmp_path, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setattr("effbench.lab.cluster.CONNECT_S", 1.0)
    with pytest.raises(UnavailableError, match="No scheduler answers at tcp://127"):
        Cluster(f"tcp://127.0.0.1:{port}", ("orin",))


def test_encryption_without_certificates_is_refused():
    with pytest.raises(UsageError, match="no certificates are configured"):
        Cluster("tls://lab.example:8786", ("orin",))
