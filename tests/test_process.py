from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from effbench import process
from effbench.errors import ConversionError, DataError
from effbench.process import answers, parent

CHILD = """
import os, signal, sys, time
from effbench import errors, process

def fine(job, emit):
    print("a library that prints")
    os.write(1, b"and one that writes to the descriptor")
    emit({"event": "result", "double": 2 * job["value"]})

def rejects(job, emit):
    raise errors.ConversionError("translate", "no such thing", node="n1", op="Foo", hint="do that")

def surprised(job, emit):
    emit({"event": "stage", "stage": "thinking"})
    raise ValueError("an accident")

def crashes(job, emit):
    emit({"event": "stage", "stage": "native code"})
    os.kill(os.getpid(), signal.SIGSEGV)

def hangs(job, emit):
    emit({"event": "stage", "stage": "waiting"})
    time.sleep(600)

def eats(job, emit):
    hoard = []
    while True:
        hoard.append(bytearray(b"x" * (1 << 24)))
        time.sleep(0.02)

def chatters(job, emit):
    while True:
        emit({"event": "stage", "stage": "talking"})

def has_a_child(job, emit):
    import subprocess
    child = subprocess.Popen(["sleep", "600"])
    emit({"event": "result", "pid": child.pid})
    time.sleep(600)

process.serve({f.__name__: f for f in (fine, rejects, surprised, crashes, hangs, eats, chatters, has_a_child)})
"""


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "somechild.py").write_text(CHILD)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "somechild"


def test_prints_of_a_library_do_not_disturb_the_events(child: str) -> None:
    (event,) = process.run(child, {"op": "fine", "value": 21}, time_limit_s=60)
    assert event == {"event": "result", "double": 42}


def test_an_error_keeps_its_class_and_attributes(child: str) -> None:
    with pytest.raises(ConversionError, match="node n1") as caught:
        list(process.run(child, {"op": "rejects"}, time_limit_s=60))
    assert (caught.value.op, caught.value.hint, caught.value.exit_code) == ("Foo", "do that", 5)


def test_an_exception_is_reported_with_its_stage_and_log(child: str) -> None:
    with pytest.raises(process.ChildFailure, match="an accident") as caught:
        list(process.run(child, {"op": "surprised"}, time_limit_s=60))
    assert (process.CRASHED, 1, False) == (caught.value.cause, caught.value.exit_status, caught.value.killed)
    assert "Traceback" in caught.value.log


def test_a_crash_in_native_code_is_named(child: str) -> None:
    with pytest.raises(process.ChildFailure, match="native code ended with SIGSEGV") as caught:
        list(process.run(child, {"op": "crashes"}, time_limit_s=60))
    assert (-signal.SIGSEGV, False) == (caught.value.exit_status, caught.value.killed)


def test_a_signal_without_a_name_is_a_number() -> None:
    assert "signal 99 (a crash in native code)" == process.exit_text(-99)


def test_a_hang_ends_at_its_limit(child: str) -> None:
    start = time.monotonic()
    with pytest.raises(process.ChildFailure, match="waiting was stopped after 2 s") as caught:
        list(process.run(child, {"op": "hangs"}, time_limit_s=2))
    assert (process.TIME_LIMIT, None) == (caught.value.cause, caught.value.exit_status)
    assert time.monotonic() - start < 60


def test_too_much_memory_ends_at_its_limit(child: str) -> None:
    with pytest.raises(process.ChildFailure, match="the limit is 200 MiB") as caught:
        list(process.run(child, {"op": "eats"}, time_limit_s=60, memory_limit_bytes=200 << 20))
    assert (process.MEMORY_LIMIT, None) == (caught.value.cause, caught.value.exit_status)


def test_a_child_that_emits_forever_ends_at_its_limit(child: str) -> None:
    with pytest.raises(process.ChildFailure, match="talking was stopped after 2 s"):
        list(process.run(child, {"op": "chatters"}, time_limit_s=2))


def test_an_error_carries_the_log_of_the_child(child: str) -> None:
    with pytest.raises(process.ChildFailure) as caught:
        list(process.run(child, {"op": "surprised"}, time_limit_s=60))
    assert "ValueError: an accident" in caught.value.log


def test_children_of_other_threads_are_killed(child: str) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(lambda: list(process.run(child, {"op": "hangs"}, time_limit_s=600)))
        while not parent._LIVE:
            time.sleep(0.01)
        process.kill_all()
        with pytest.raises(process.ChildFailure, match="SIGKILL") as caught:
            waiting.result(timeout=60)
    assert caught.value.killed
    assert parent._LIVE == set()


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def test_grandchildren_are_killed(child: str) -> None:
    events = process.run(child, {"op": "has_a_child"}, time_limit_s=60)
    pid = next(events)["pid"]
    assert _alive(pid)
    events.close()
    for _ in range(100):  # the kernel takes a moment to remove a killed process
        if not _alive(pid):
            break
        time.sleep(0.05)
    assert not _alive(pid)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="uses /proc and PR_SET_PDEATHSIG")
def test_a_killed_parent_leaves_no_child(child: str) -> None:
    code = f"from effbench import process\nfor _ in process.run({child!r}, {{'op': 'hangs'}}, time_limit_s=600): pass\n"
    parent = subprocess.Popen([sys.executable, "-c", code])
    children: list[int] = []
    for _ in range(200):
        listing = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
        children = [int(pid) for pid in listing]
        if children and b"somechild" in Path(f"/proc/{children[0]}/cmdline").read_bytes():
            break
        time.sleep(0.05)
    assert children
    time.sleep(1)  # until it has set PR_SET_PDEATHSIG
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    for _ in range(100):
        if not any(_alive(pid) for pid in children):
            break
        time.sleep(0.05)
    assert not any(_alive(pid) for pid in children)


def test_an_unknown_error_class_is_still_an_error(child: str) -> None:
    error = answers._rebuild({"kind": "NoSuchClass", "message": "m"})
    assert str(error) == "m"
    assert isinstance(answers._rebuild({"kind": "DataError", "message": "m"}), DataError)
