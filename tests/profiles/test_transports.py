"""A supervised agent at the other end of a pipe: its answers, and every way to lose it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from effbench.device import supervisor
from effbench.errors import DataError, DeviceError, UsageError
from effbench.process import ChildFailure
from effbench.profiles import transports
from effbench.profiles.transports import session, zipapp
from effbench.profiles.transports.channel import LostError
from effbench.schema import Device

OBSERVE = {"op": "observe"}


def device(home: Path, *command: str, **connection: Any) -> Device:
    # `python3` of the boot line must be an existing interpreter, for any PATH of this machine.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    home.mkdir(exist_ok=True)
    (home.parent / "endless.py").write_text("import time\nwhile True:\n    time.sleep(1)\n")
    pipe = ["env", f"PATH={path}", f"PYTHONPATH={home.parent}", *command]
    settings = {"command": pipe, "home": str(home), "timeout_s": 20, "python": sys.executable, **connection}
    return Device("bench", "host", "a test", "pipe", ("ort",), connection=settings)


def left(home: Path) -> list[str]:
    """Return the files in a device's home, except the agent."""
    return [path.name for path in home.iterdir() if path.name != "agents"]


def living(home: Path) -> list[str]:
    """Return the processes whose command line contains this home."""
    processes = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            processes.append(file.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return [line for line in processes if f"{home}/" in line]


def soon(condition: Callable[[], bool], limit_s: float = 5.0) -> bool:
    end = time.monotonic() + limit_s
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


@pytest.fixture
def link(tmp_path: Path) -> Iterator[transports.Link]:
    connected = transports.connect(device(tmp_path / "home"))
    yield connected
    connected.close()


def test_the_agent_answers(link: transports.Link):
    (answer,) = link.run("effbench.device.agent", OBSERVE, time_limit_s=60)
    assert {"ort", "ov", "trt"} <= answer["targets"].keys()
    assert answer["environment"]["machine"] == link.facts()["machine"]


def test_an_error_of_the_agent_keeps_its_type_and_the_link_stays_usable(link: transports.Link):
    with pytest.raises(DataError, match="manifest"):
        list(link.run("effbench.device.agent", {"op": "measure", "artifact": "nowhere"}, time_limit_s=60))
    assert 1 == len(list(link.run("effbench.device.agent", OBSERVE, time_limit_s=60)))


def test_the_agent_is_small_and_copied_once(tmp_path: Path):
    assert len(zipapp.agent().data) < 1_000_000
    home = tmp_path / "home"
    for _ in range(2):
        transports.connect(device(home)).close()
    (only,) = (home / "agents").iterdir()
    assert zipapp.agent().data == only.read_bytes()


def test_files_are_copied_and_fetched(link: transports.Link, tmp_path: Path):
    source = tmp_path / "big.bin"
    source.write_bytes(os.urandom(3_000_000))
    folder = link.put({"big.bin": source, "sub/other.bin": source}, "model")
    link.get("model/sub/other.bin", tmp_path / "back.bin")
    assert source.read_bytes() == Path(folder, "big.bin").read_bytes() == (tmp_path / "back.bin").read_bytes()


@pytest.mark.parametrize("path", ["../outside", "agents/../../outside"])
def test_no_file_is_written_outside_the_session(link: transports.Link, tmp_path: Path, path: str):
    source = tmp_path / "x"
    source.write_bytes(b"x")
    with pytest.raises(DeviceError, match="lies outside"):
        link.put({path: source}, ".")


def test_a_session_leaves_only_the_agent(tmp_path: Path):
    home = tmp_path / "home"
    link = transports.connect(device(home))
    link.put({"x": Path(__file__)}, "model")
    assert 1 == len(left(home))
    link.close()
    assert soon(lambda: left(home) == [])
    assert soon(lambda: living(home) == [])


def test_the_device_ends_a_job_at_its_time_limit(link: transports.Link):
    start = time.monotonic()
    with pytest.raises(ChildFailure, match="stopped after 1 s"):
        list(link.run("endless", {}, time_limit_s=1))
    assert time.monotonic() - start < 6
    assert 1 == len(list(link.run("effbench.device.agent", OBSERVE, time_limit_s=60)))


def test_a_killed_supervisor_is_a_lost_device_and_ends_its_agent(tmp_path: Path):
    home = tmp_path / "home"
    link = transports.connect(device(home))
    running = link.run("endless", {}, time_limit_s=30)
    supervisor = int(left(home)[0].split("-")[1])
    import threading

    threading.Timer(0.7, os.kill, (supervisor, signal.SIGKILL)).start()
    with pytest.raises(LostError, match="closed the connection"):
        list(running)
    assert soon(lambda: living(home) == []), "the agent goes with its supervisor"
    with pytest.raises(LostError):
        list(link.run("effbench.device.agent", OBSERVE, time_limit_s=60))
    transports.connect(device(home)).close()
    assert soon(lambda: left(home) == []), "what a session that is gone left is swept by the next"


def test_a_device_that_never_answers_is_given_up(tmp_path: Path):
    start = time.monotonic()
    with pytest.raises(DeviceError, match="did not answer within 1 s"):
        transports.connect(device(tmp_path / "home", "sh", "-c", "exec sleep 60", timeout_s=1))
    assert time.monotonic() - start < 6


@pytest.mark.slow
def test_a_frozen_device_is_given_up(tmp_path: Path):
    home = tmp_path / "home"
    link = transports.connect(device(home))
    supervisor = int(left(home)[0].split("-")[1])
    os.kill(supervisor, signal.SIGSTOP)
    start = time.monotonic()
    try:
        with pytest.raises(LostError, match="did not answer within"):
            list(link.run("effbench.device.agent", OBSERVE, time_limit_s=1))
        assert time.monotonic() - start < 1 + 5
    finally:
        link.close()
    assert soon(lambda: living(home) == [])


def test_a_greeting_of_the_login_shell_is_ignored(tmp_path: Path):
    script = 'echo Welcome; echo to this machine >&2; exec "$@"'
    connected = transports.connect(device(tmp_path / "home", "sh", "-c", script, "sh"))
    assert 1 == len(list(connected.run("effbench.device.agent", OBSERVE, time_limit_s=60)))
    connected.close()


def test_garbage_on_the_channel_ends_the_connection(tmp_path: Path):
    script = '(sleep 2; echo \'{"line": "x"}\') & exec "$@"'
    connected = transports.connect(device(tmp_path / "home", "sh", "-c", script, "sh"))
    with pytest.raises(LostError, match="not effbench's protocol"):
        list(connected.run("endless", {}, time_limit_s=30))
    connected.close()
    assert soon(lambda: living(tmp_path / "home") == [])


def test_the_output_of_a_device_without_python_is_reported(tmp_path: Path):
    with pytest.raises(DeviceError, match="no such thing") as caught:
        transports.connect(device(tmp_path / "home", "sh", "-c", "echo no such thing >&2; exit 127"))
    assert "does not start python3" in caught.value.message


def test_a_changed_agent_is_not_run(tmp_path: Path):
    home = tmp_path / "home"
    link = transports.connect(device(home))
    (home / zipapp.agent().path).write_bytes(b"something else")
    with pytest.raises(DeviceError, match="was changed or removed"):
        list(link.run("effbench.device.agent", OBSERVE, time_limit_s=60))
    link.close()
    link = transports.connect(device(home))
    assert 1 == len(list(link.run("effbench.device.agent", OBSERVE, time_limit_s=60))), (
        "the next session pushes it again"
    )
    link.close()


def test_the_supervisor_ends_if_the_work_station_is_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    home = tmp_path / "home"
    text = session.SUPERVISOR.read_text()
    impatient = tmp_path / "supervisor.py"
    impatient.write_text(text.replace("PATIENCE_S = 30.0", "PATIENCE_S = 0.5"))
    monkeypatch.setattr(session, "SUPERVISOR", impatient)
    monkeypatch.setattr(session, "PING_S", 60.0)
    link = transports.connect(device(home))
    assert soon(lambda: left(home) == [])
    with pytest.raises(LostError):
        list(link.run("effbench.device.agent", OBSERVE, time_limit_s=60))
    link.close()


@pytest.mark.slow
def test_an_idle_link_stays_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    text = session.SUPERVISOR.read_text()
    impatient = tmp_path / "supervisor.py"
    impatient.write_text(text.replace("PATIENCE_S = 30.0", "PATIENCE_S = 1.0"))
    monkeypatch.setattr(session, "SUPERVISOR", impatient)
    monkeypatch.setattr(session, "PING_S", 0.2)
    link = transports.connect(device(tmp_path / "home"))
    time.sleep(2.0)
    assert 1 == len(list(link.run("effbench.device.agent", OBSERVE, time_limit_s=60)))
    link.close()


def test_a_recording_replays_the_same_answers(tmp_path: Path):
    file = tmp_path / "exchange.jsonl"
    link = transports.connect(device(tmp_path / "home"), record=file)
    expected = list(link.run("effbench.device.agent", OBSERVE, time_limit_s=60))
    with pytest.raises(DataError, match="manifest") as caught:
        list(link.run("effbench.device.agent", {"op": "measure", "artifact": "nowhere"}, time_limit_s=60))
    folder = link.put({"x": Path(__file__)}, "model")
    link.close()
    replayed = transports.connect(Device("bench", "host", "", "replay", ("ort",), connection={"file": str(file)}))
    assert expected == list(replayed.run("effbench.device.agent", OBSERVE, time_limit_s=1))
    with pytest.raises(DataError) as repeated:
        list(replayed.run("effbench.device.agent", {"op": "measure", "artifact": "elsewhere"}, time_limit_s=1))
    assert str(caught.value) == str(repeated.value)
    assert folder == replayed.put({"x": Path(__file__)}, "model")
    with pytest.raises(DeviceError, match="no further call"):
        list(replayed.run("effbench.device.agent", OBSERVE, time_limit_s=1))


def test_a_replay_refuses_another_job(tmp_path: Path):
    file = tmp_path / "exchange.jsonl"
    link = transports.connect(device(tmp_path / "home"), record=file)
    list(link.run("effbench.device.agent", OBSERVE, time_limit_s=60))
    link.close()
    replayed = transports.connect(Device("bench", "host", "", "replay", ("ort",), connection={"file": str(file)}))
    with pytest.raises(DeviceError, match="job differs"):
        list(replayed.run("effbench.device.agent", {"op": "load", "target": "ort"}, time_limit_s=1))


@pytest.mark.parametrize("text", ["", "{}", "no json", json.dumps({"format": 99})])
def test_a_file_that_is_no_recording_is_refused(tmp_path: Path, text: str):
    file = tmp_path / "exchange.jsonl"
    file.write_text(text)
    with pytest.raises(DataError, match="not a recording"):
        transports.connect(Device("bench", "host", "", "replay", ("ort",), connection={"file": str(file)}))


@pytest.mark.parametrize(
    ("transport", "connection", "message"),
    [
        ("shh", {}, "ssh"),
        ("ssh", {"hots": "x"}, "host"),
        ("ssh", {}, r"devices.bench.connection.host ="),
        ("pipe", {"command": "docker exec -i x"}, "not a list"),
    ],
)
def test_a_wrong_declaration_is_refused_with_a_reason(transport: str, connection: dict[str, Any], message: str):
    with pytest.raises(UsageError, match=message):
        transports.connect(Device("bench", "host", "", transport, ("ort",), connection=connection))


def test_a_session_that_starts_is_not_swept_by_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The other one looks for ended sessions between the first one's folder and its lock."""
    answers: list[dict[str, Any]] = []
    take = fcntl.flock

    def sweep_before(handle: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", take)
        other = supervisor.Supervisor(supervisor.Input())
        other.home = tmp_path
        other.sweep()
        take(handle, operation)

    monkeypatch.setattr(supervisor, "answer", lambda **fields: answers.append(fields))
    monkeypatch.setattr(fcntl, "flock", sweep_before)
    own = supervisor.Supervisor(supervisor.Input())
    own.hello({"home": str(tmp_path)})
    assert Path(answers[0]["session"]).is_dir()
    os.close(own.lock)
