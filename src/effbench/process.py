"""Run work in a child process that speaks JSON lines, so that a crash, a hang or a kill becomes an error with a cause.

The parent sends one job (a JSON object) on the child's standard input and reads events from its standard output. A
library that prints cannot disturb them: the child redirects its standard output to its standard error, which is a log.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from effbench import errors, reading
from effbench.boundary import isolation

Emit = Callable[[dict[str, Any]], None]
Handler = Callable[[dict[str, Any], Emit], None]


CRASHED, TIME_LIMIT, MEMORY_LIMIT = "crashed", "time limit", "memory limit"
"""The causes of a `ChildFailure`; a child that was killed from outside counts as crashed."""

_SIGKILL = 9
"""By number: Windows has no such signal, and this module is imported there."""

PARENT = "EFFBENCH_PARENT_PID"
"""The variable that tells a child its parent, which may be dead before the child can ask."""

STAGE_CHARS, MESSAGE_CHARS = 200, 20_000
"""Of what a child, or a device, says of itself."""


class ChildFailure(errors.EffbenchError):
    """A child ended without its result: it crashed, was killed, or ran into a limit.

    Args:
        cause: `CRASHED`, `TIME_LIMIT` or `MEMORY_LIMIT`.
        message: One sentence.
        stage: The last stage that the child announced.
        log: The end of its standard error.
        exit_status: Its exit code, negative for a signal; None where it was stopped at a limit.
    """

    def __init__(self, cause: str, message: str, stage: str, log: str, exit_status: int | None = None) -> None:
        self.cause = cause
        self.stage = stage
        self.exit_status = exit_status
        last_line = next((line for line in reversed(log.strip().splitlines()) if line.strip()), "")
        super().__init__(message, hint=f"Its last line: {last_line.strip()[:300]}" if last_line else None)
        self.log = log

    @property
    def killed(self) -> bool:
        """Whether another process killed it, or the system for lack of memory."""
        return self.exit_status == -_SIGKILL


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


@contextlib.contextmanager
def reading_answer(of: str) -> Iterator[None]:
    """Turn what an answer lacks, or holds in another form, into one sentence: a device is not trusted to be right.

    Raises:
        MeasurementError: Code inside met a missing key or a value of another kind.
    """
    try:
        yield
    except errors.DataError as error:
        raise errors.MeasurementError(f"The answer of {of} is malformed: {error.message}") from error
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise errors.MeasurementError(f"The answer of {of} is malformed ({type(error).__name__}: {error}).") from error


def single(events: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Return the one event that a job answers with.

    Raises:
        MeasurementError: It answered with none, or with more than one.
        EffbenchError: See `run`.
    """
    events = iter(events)
    answer = next(events, None)
    if answer is None:
        raise errors.MeasurementError("The process ended without an answer.")
    for _ in events:
        raise errors.MeasurementError("The process answered more than once.")
    return answer


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


class EventReader:
    """Parses the lines of a child, here or on a device, and raises the error it ended with."""

    def __init__(self) -> None:
        self.stage = "start"
        self._has_result = False
        self._error: errors.EffbenchError | None = None

    def read(self, line: bytes | str) -> dict[str, Any] | None:
        """Return the event of a line, or None if it concerns this reader only."""
        try:
            event: dict[str, Any] = reading.json_value(line, self.stage, finite=False, longest=None)
            kind = event["event"]
        except (errors.DataError, KeyError, TypeError):
            self._error = self._error or errors.MeasurementError(f"{self.stage} sent no event: {line[:60]!r}.")
            return None
        self.stage = str(event.get("stage", self.stage))[:STAGE_CHARS]
        if kind == "error":
            self._error = self._error or _rebuild(event)
        self._has_result = self._has_result or kind == "done"
        return None if kind in ("done", "stage", "error") else event

    def finish(self, code: int | None, limit_s: float | None, log: str) -> None:
        """Raise the error that the child ended with, if any.

        Args:
            code: The exit code, negative for a signal; None if the child was still running.
            limit_s: The time limit that it exceeded, or None.
            log: The end of its standard error.

        Raises:
            EffbenchError: The child reported it.
            ChildFailure: It ended without its result.
        """
        if self._error is not None:
            self._error.log = log
            raise self._error
        if limit_s is not None:
            raise ChildFailure(TIME_LIMIT, f"{self.stage} was stopped after {round(limit_s, 1):g} s", self.stage, log)
        if not self._has_result:
            status = code or 0
            raise ChildFailure(CRASHED, f"{self.stage} ended with {exit_text(status)}", self.stage, log, status)


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


def exit_text(status: int) -> str:
    """Describe how a child without a result ended: by which signal (negative), or with which exit code."""
    if status == -_SIGKILL:
        return "SIGKILL (out of memory, or killed)"
    if status < 0:
        names = {item.value: item.name for item in signal.Signals}
        return f"{names.get(-status, f'signal {-status}')} (a crash in native code)"
    return f"exit code {status} and no result"


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


def _rebuild(event: Mapping[str, Any]) -> errors.EffbenchError:
    """Return the error that the child reported, with its class and so its exit code."""
    hint, details = event.get("hint"), event.get("details")
    message = str(event.get("message", "it failed without a reason"))[:MESSAGE_CHARS]
    error = errors.rebuilt(str(event.get("kind")), message, None if hint is None else str(hint)[:MESSAGE_CHARS])
    for name, value in details.items() if isinstance(details, dict) else ():
        if name in errors.DETAILS and (value is None or isinstance(value, (str, int))):
            setattr(error, name, value)
    return error


def serve(handlers: Mapping[str, Handler]) -> None:
    """Read one job, run the handler that its ``op`` names, and report the result; the main function of a child.

    A handler emits events. An `EffbenchError` is reported with its class, any other exception with its last line.
    """
    die_with_parent()
    _prefer_for_oom_kill()
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def emit(event: dict[str, Any]) -> None:
        channel.write(json.dumps(event) + "\n")
        channel.flush()

    job = reading.json_value(sys.stdin.readline(), "the job", finite=False, longest=None)
    try:
        handlers[job["op"]](job, emit)
        emit({"event": "done"})
    except errors.EffbenchError as error:
        details = {key: value for key, value in vars(error).items() if key not in ("message", "hint")}
        kind = next(cls.__name__ for cls in type(error).__mro__ if hasattr(errors, cls.__name__))
        emit({"event": "error", "kind": kind, "message": error.message, "hint": error.hint, "details": details})
    except MemoryError:
        emit({"event": "error", "kind": "EffbenchError", "message": f"{job['op']} ran out of memory"})
    except Exception as error:
        traceback.print_exc()
        emit({"event": "stage", "stage": f"{job['op']} ({type(error).__name__}: {str(error).splitlines()[:1]})"})
        raise
    finally:
        channel.close()


def _prefer_for_oom_kill() -> None:
    """Ask Linux to kill this process, not its parent, when memory runs out: the parent records the failure."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")


def die_with_parent() -> None:
    """Ask Linux to kill this process when its parent dies; elsewhere writing to the closed pipe ends it.

    A parent that died before the request is noticed by its number: the process ends at once.
    """
    if sys.platform.startswith("linux"):
        pr_set_pdeathsig = 1
        ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL)
        parent = os.environ.pop(PARENT, "")
        if parent.isdecimal() and os.getppid() != int(parent):
            os._exit(1)
