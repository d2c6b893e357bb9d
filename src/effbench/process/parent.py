"""The side of the parent: it starts a child, bounds its time and memory, and ends it."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from effbench import errors, reading
from effbench.boundary import isolation
from effbench.process.answers import CRASHED, MEMORY_LIMIT, TIME_LIMIT, ChildFailure, EventReader
from effbench.process.child import PARENT


def require_posix(task: str) -> None:
    """Refuse a task that needs POSIX process groups and pipes, on a system that lacks them.

    Raises:
        UnavailableError: This is Windows.
    """
    if sys.platform == "win32":
        raise errors.UnavailableError(
            f"{task} needs Linux or macOS; this is Windows.", hint="Run effbench in WSL, or on another machine."
        )


_LIVE: set[subprocess.Popen[bytes]] = set()


def kill_all() -> None:
    """Kill the child processes of all threads of this process; an interrupt calls it."""
    for child in tuple(_LIVE):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)


@dataclass(frozen=True)
class Python:
    """The Python interpreter that runs a child.

    Attributes:
        command: The interpreter and its options.
        env: Environment variables in addition to those of this process.
        cwd: The working folder; None keeps that of this process. No module is imported from it.
        root: The folder or archive that effbench is imported from.
        trusted: Whether it gets the secrets in the environment of this process; code of a tree under test does not.
    """

    command: tuple[str, ...] = (sys.executable,)
    env: Mapping[str, str] | None = None
    cwd: Path | None = None
    root: str = isolation.ROOT
    trusted: bool = True

    @property
    def environment(self) -> dict[str, str]:
        """All environment variables of the child."""
        inherited = dict(os.environ) if self.trusted else isolation.without_secrets(os.environ)
        return {**inherited, **(self.env or {})}


THIS_PYTHON = Python()


def run(
    module: str,
    job: Mapping[str, Any],
    *,
    time_limit_s: float,
    limit_silence: bool = False,
    memory_limit_bytes: int | None = None,
    python: Python = THIS_PYTHON,
) -> Iterator[dict[str, Any]]:
    """Run one job in a fresh process and yield its events.

    Args:
        module: The module that the child runs, isolated (`boundary.isolation`); its main function calls `serve`.
        job: A JSON object.
        time_limit_s: The child is killed after this time.
        limit_silence: Restart the time limit at every event, for work of unknown length.
        memory_limit_bytes: The child is killed when its resident memory exceeds this.
        python: The interpreter that runs it.

    Raises:
        EffbenchError: The child reported it; it has the class that it has there.
        ChildFailure: It crashed, was killed, or ran into a limit.
        UnavailableError: This is Windows.
    """
    require_posix("A child process with limits")
    with tempfile.TemporaryFile() as log:
        child = subprocess.Popen(
            isolation.command(module, python=python.command, root=python.root),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env={**python.environment, PARENT: str(os.getpid())},
            cwd=python.cwd,
            start_new_session=True,  # Ctrl-C interrupts the parent alone, which then kills the child
        )
        _LIVE.add(child)
        try:
            yield from _events(child, job, log, time_limit_s, limit_silence, memory_limit_bytes)
        finally:
            _end(child)
            _LIVE.discard(child)


def _events(
    child: subprocess.Popen[bytes],
    job: Mapping[str, Any],
    log: IO[bytes],
    time_limit_s: float,
    limit_silence: bool,
    memory: int | None,
) -> Iterator[dict[str, Any]]:
    assert child.stdin is not None
    assert child.stdout is not None
    deadline = time.monotonic() + time_limit_s
    reader, buffer = EventReader(), reading.LineBuffer()
    unsent = memoryview(json.dumps(job).encode() + b"\n")
    os.set_blocking(child.stdin.fileno(), False)  # a child that does not read must not hold this process
    # Memory can grow by gigabytes a second; without a memory limit, two checks a second are enough.
    poll_s = 0.5 if memory is None else 0.1
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        selector.register(child.stdin, selectors.EVENT_WRITE)
        while True:
            ready = {key.fileobj for key, _ in selector.select(min(poll_s, max(0.0, deadline - time.monotonic())))}
            if time.monotonic() >= deadline:
                reader.finish(None, time_limit_s, _tail(log))
            _check_memory(child, reader.stage, log, memory)
            if child.stdin in ready:
                unsent = _send(child.stdin, unsent)
                if not unsent:
                    selector.unregister(child.stdin)
            if child.stdout not in ready:
                continue
            chunk = os.read(child.stdout.fileno(), 1 << 20)
            deadline = time.monotonic() + time_limit_s if limit_silence else deadline
            for line in buffer.add(chunk):
                if time.monotonic() >= deadline:
                    reader.finish(None, time_limit_s, _tail(log))
                event = reader.read(line)
                if event is not None:
                    yield event
            if not chunk:
                break
    reader.finish(child.wait(), None, _tail(log))


def _send(stream: IO[bytes], data: memoryview) -> memoryview:
    """Write what a child takes without waiting, and return the rest; one that closed its input takes nothing."""
    try:
        return data[os.write(stream.fileno(), data) :]
    except BlockingIOError:
        return data
    except BrokenPipeError:
        return data[:0]


def output(
    command: Sequence[str],
    *,
    time_limit_s: float,
    stdin: bytes = b"",
    limit_bytes: int = 64 << 20,
    cwd: Path | None = None,
) -> Output:
    """Run a program to its end and return what it printed; it is ended with its own children at either limit.

    Raises:
        OSError: It cannot be started.
        ChildFailure: It ran into the time limit, or printed more than so many bytes.
    """
    name = Path(command[0]).name
    with tempfile.TemporaryFile() as stdin_file, tempfile.TemporaryFile() as printed, tempfile.TemporaryFile() as log:
        stdin_file.write(stdin)
        stdin_file.seek(0)
        child = subprocess.Popen(command, stdin=stdin_file, stdout=printed, stderr=log, start_new_session=True, cwd=cwd)
        _LIVE.add(child)
        deadline, pause_s = time.monotonic() + time_limit_s, 0.001
        try:
            while child.poll() is None:
                if time.monotonic() >= deadline:
                    raise ChildFailure(TIME_LIMIT, f"{name} was stopped after {time_limit_s:g} s", name, _tail(log))
                if sum(os.fstat(file.fileno()).st_size for file in (printed, log)) > limit_bytes:
                    raise ChildFailure(CRASHED, f"{name} printed more than {limit_bytes >> 20} MiB", name, _tail(log))
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, 0.1)
        finally:
            _end(child)
            _LIVE.discard(child)
        return Output(child.returncode, _tail(printed, limit_bytes), _tail(log, limit_bytes))


@dataclass(frozen=True)
class Output:
    """What a program ended with, and what it printed."""

    returncode: int
    text: str
    errors: str


def _check_memory(child: subprocess.Popen[bytes], stage: str, log: IO[bytes], memory: int | None) -> None:
    resident = _resident_bytes(child.pid) if memory is not None else 0
    if memory is not None and resident > memory:
        message = f"{stage} was stopped at {resident / 2**20:.0f} MiB of memory, the limit is {memory / 2**20:.0f} MiB"
        raise ChildFailure(MEMORY_LIMIT, message, stage, _tail(log))


def _resident_bytes(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def _tail(log: IO[bytes], size: int = 20_000) -> str:
    length = log.seek(0, os.SEEK_END)
    log.seek(max(0, length - size))
    return log.read().decode(errors="replace")


def _end(child: subprocess.Popen[bytes]) -> None:
    """Kill the child with its own children: it leads a process group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    for stream in (child.stdin, child.stdout):
        if stream is not None:
            with contextlib.suppress(BrokenPipeError):
                stream.close()
