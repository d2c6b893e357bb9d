"""Processes, devices and files that do what they should not for ever: each has to end at its limit, in one sentence."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from effbench import drafts, process, reading, store
from effbench.errors import EffbenchError
from effbench.profiles.transports.channel import Pipe
from effbench.profiles.transports.session import Supervised
from effbench.schema import Device

LIMIT_S = 1.0
FOREVER = "import signal, subprocess, time\n"

CHILDREN = {
    "a child that does not read": "import time; time.sleep(600)",
    "a child without line ends": "import os\nwhile True: os.write(1, b'x' * 65536)",
    "a child of nothing but line ends": "import os\nwhile True: os.write(1, b'\\n' * 65536)",
    "a child that stays with its events": 'import os\nwhile True: os.write(1, b\'{"event": "x"}\\n\' * 999)',
    "a child that ignores signals": FOREVER + "for n in (1, 2, 15): signal.signal(n, signal.SIG_IGN)\ntime.sleep(600)",
    "a child whose child holds its output": FOREVER + "subprocess.Popen(['sleep', '600']); time.sleep(600)",
    "a child that writes logs": FOREVER + "import os\nfor _ in range(3000): os.write(2, b'x' * 65536)\ntime.sleep(600)",
}
GREETING = "import sys, os, time\nline = sys.stdin.buffer.readline()\n"
READY = 'def say(text): os.write(1, b"effbench1 " + text + b"\\n")\nsay(b\'{"ready": true}\')\n'
HELLO = (
    "sys.stdin.buffer.readline()\n"
    'say(b\'{"home": "/h", "session": "/h/s", "executable": "x", "free_bytes": 1}\')\n'
    'sys.stdin.buffer.readline()\nsay(b\'{"have": ["x"]}\')\nsys.stdin.buffer.readline()\n'
)
DEVICES = {
    "a device that is silent": GREETING + "time.sleep(600)",
    "a device that does not read": "import time; time.sleep(600)",
    "a device without line ends": GREETING + "while True: os.write(1, b'x' * 65536)",
    "a device of nothing but line ends": GREETING + "while True: os.write(1, b'\\n' * 65536)",
    "a device that greets for ever": GREETING + "while True: os.write(1, b'welcome\\n' * 999)",
    "a device that answers for ever": GREETING + READY + "while True: say(b'{}')",
    "a device that is silent in a job": GREETING + READY + HELLO + "time.sleep(600)",
    "a device without line ends in a job": GREETING + READY + HELLO + "while True: os.write(1, b'x' * 65536)",
    "a device that answers for ever in a job": GREETING
    + READY
    + HELLO
    + 'while True: say(b\'{"line": "{\\\\\\"event\\\\\\": \\\\\\"x\\\\\\"}"}\')',
    "a device whose answer is cut": GREETING + READY + "os.write(1, b'effbench1 {\"a')\ntime.sleep(600)",
}
PROGRAMS = {
    "a tool that prints for ever": "import os\nwhile True: os.write(1, b'x' * 65536)",
    "a tool that hangs": "import time; time.sleep(600)",
    "a tool whose child holds its output": FOREVER + "subprocess.Popen(['sleep', '600']); time.sleep(600)",
}


def _child(code: str) -> Callable[[Path], None]:
    def run(folder: Path) -> None:
        (folder / "some_child.py").write_text(code)
        command = ("env", f"PYTHONPATH={folder}", sys.executable)
        job = {"op": "x", "labels": list(range(200_000))}
        for _ in process.run("some_child", job, time_limit_s=LIMIT_S, python=process.Python(command)):
            pass

    return run


def _device(code: str) -> Callable[[Path], None]:
    def run(folder: Path) -> None:
        device = Device("d", "board", "x", "pipe", ("ort",), connection={"timeout_s": LIMIT_S})
        link = Supervised(device, lambda: Pipe([sys.executable, "-u", "-c", code]))
        try:
            for _ in link.run("m", {"op": "x"}, time_limit_s=LIMIT_S):
                pass
        finally:
            link.close()

    return run


def _program(code: str) -> Callable[[Path], None]:
    return lambda folder: _ignored(process.output([sys.executable, "-c", code], time_limit_s=LIMIT_S))


def _ignored(value: object) -> None:
    return None


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    before, store.LOCK_S = store.LOCK_S, LIMIT_S
    try:
        with drafts.file_lock(folder / "x.lock", 1):
            yield
    finally:
        store.LOCK_S = before


def _lock(folder: Path) -> None:
    with _held(folder):
        store.append_line(folder / "x.jsonl", b"{}")


def _pipe(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    reading.json_file(folder / "pipe")


def _pipe_to_append(folder: Path) -> None:
    os.mkfifo(folder / "pipe.jsonl")
    store.append_line(folder / "pipe.jsonl", b"{}")


FAULTS: dict[str, Callable[[Path], None]] = {
    **{name: _child(code) for name, code in CHILDREN.items()},
    **{name: _device(code) for name, code in DEVICES.items()},
    **{name: _program(code) for name, code in PROGRAMS.items()},
    "a lock that is held": _lock,
    "a pipe instead of a file": _pipe,
    "a pipe instead of a store": _pipe_to_append,
}


def ends(name: str, folder: Path) -> str:
    """Run into a fault and return the sentence that it ends with.

    Raises:
        AssertionError: It ended without an error.
    """
    try:
        FAULTS[name](folder)
    except EffbenchError as error:
        return error.message
    raise AssertionError(f"{name} ended without an error")
