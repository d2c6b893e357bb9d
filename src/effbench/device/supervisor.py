"""The device's side of a connection: receive files, run agents, and end with the connection.

The work station sends the source of this file over the connection, so nothing is installed and no port is opened. It
uses only the standard library and no other part of effbench; POSIX, Python 3.7 or newer (the agent needs 3.10).

Requests are JSON lines on standard input; the bytes of the file follow ``put``. Answers are lines that begin with
`MARK`, which distinguishes them from a greeting of the login shell. While an agent runs, this process sleeps in
``select`` and uses no CPU time.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import json
import os
import platform
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Iterator  # noqa: UP035 - Python 3.7

MARK = b"effbench1 "

PATIENCE_S = 30.0
"""After this time without a request the connection is considered lost; an idle work station sends pings."""

ACK_S = 4.0
"""After the end of an agent the work station must answer within this time, or the connection is considered lost."""

CHUNK = 1 << 20
LOCK = ".lock"
"""A lock held by the process of a session; a pid could be reused after a reboot, or belong to a zombie."""

LOG_BYTES = 20_000
LINE_BYTES = 64 << 20
"""Of one line of a request, or of a program's output."""


class GoneError(Exception):
    """The connection ended, or the work station does not answer."""


class Input:
    """Standard input, read without a buffer of the library, so that ``select`` sees all pending data."""

    def __init__(self, file: int = 0) -> None:
        self.file, self.pending = file, b""

    def fill(self, timeout_s: float) -> None:
        """Wait for more bytes.

        Raises:
            GoneError: The connection ended, or nothing arrived in time.
        """
        if not select.select([self.file], [], [], timeout_s)[0]:
            raise GoneError(f"no word for {timeout_s:g} s")
        data = os.read(self.file, CHUNK)
        if not data:
            raise GoneError("the connection was closed")
        self.pending += data

    def line(self, timeout_s: float) -> bytes:
        """Return the next line."""
        parts = [self.pending]
        while b"\n" not in self.pending:
            self.pending = b""
            self.fill(timeout_s)
            parts.append(self.pending)
            if sum(map(len, parts)) > LINE_BYTES:
                raise GoneError("a request without end")
        *_, last = parts
        end, _, self.pending = last.partition(b"\n")
        return b"".join([*parts[:-1], end])

    def take(self, size: int) -> Iterator[bytes]:
        """Yield ``size`` bytes in pieces."""
        while size:
            if not self.pending:
                self.fill(PATIENCE_S)
            piece, self.pending = self.pending[:size], self.pending[size:]
            size -= len(piece)
            yield piece


def answer(**fields: Any) -> None:
    """Send one line to the work station."""
    data = MARK + json.dumps(fields).encode() + b"\n"
    try:
        while data:
            data = data[os.write(1, data) :]
    except OSError as error:
        raise GoneError(str(error)) from None


class Supervisor:
    """One connection: a persistent home folder, and a session folder that is removed at the end."""

    def __init__(self, stream: Input) -> None:
        self.stream = stream
        self.home = Path()
        self.session: Path | None = None
        self.patience_s = PATIENCE_S

    def hello(self, request: dict[str, Any]) -> None:
        """Create the folders, remove those of ended sessions, and describe the machine."""
        import fcntl

        self.home = Path(request["home"]).expanduser()
        try:
            (self.home / "agents").mkdir(mode=0o700, parents=True, exist_ok=True)
            self.sweep()
            self.session = Path(tempfile.mkdtemp(prefix=f"session-{os.getpid()}-", dir=self.home))
            # Locked before it has its name: a session that starts meanwhile removes what it finds unlocked.
            draft = self.session / f"{LOCK}.new"
            self.lock = os.open(draft, os.O_CREAT | os.O_RDWR)
            fcntl.flock(self.lock, fcntl.LOCK_EX)
            draft.rename(self.session / LOCK)
            free = os.statvfs(self.home)
        except OSError as error:
            answer(error=f"{self.home}: {words(error)}")
            return
        answer(
            home=str(self.home),
            session=str(self.session),
            free_bytes=free.f_bavail * free.f_frsize,
            python=platform.python_version(),
            executable=sys.executable,
            machine=platform.machine(),
            system=platform.system(),
            boot_id=first_line(Path("/proc/sys/kernel/random/boot_id")),
            time_s=time.time(),
        )

    def sweep(self) -> None:
        """Remove the session folders that no process holds, left by a kill or a reboot."""
        import fcntl

        for folder in self.home.glob("session-*"):
            try:
                lock = os.open(folder / LOCK, os.O_RDWR)
            except OSError:
                continue  # being created or removed
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            except OSError:
                pass  # held: that session is active
            finally:
                os.close(lock)

    def place(self, path: str) -> Path:
        """Return the path of a file: ``agents/`` in the home, everything else in the session's folder."""
        root = self.home if path.startswith("agents/") or self.session is None else self.session
        full = Path(os.path.realpath(root / path))
        if Path(os.path.realpath(root)) not in full.parents:
            raise ValueError(f"{path} lies outside {root}")
        return full

    def put(self, request: dict[str, Any]) -> None:
        """Receive a file; it is moved into place only if it is complete and has the expected hash."""
        rest = self.stream.take(int(request["size"]))
        draft = None
        try:
            path = self.place(request["path"])
            path.parent.mkdir(parents=True, exist_ok=True)
            draft = (self.session or path.parent) / f"{os.urandom(8).hex()}.part"  # it goes with the session
            digest = hashlib.sha256()
            with draft.open("wb") as file:
                for piece in rest:
                    digest.update(piece)
                    file.write(piece)
            if digest.hexdigest() != request["sha256"]:
                raise ValueError(f"{request['path']} arrived damaged")
            draft.replace(path)
            answer(path=str(path))
        except (OSError, ValueError) as error:
            for _ in rest:
                pass
            if draft is not None and draft.exists():
                draft.unlink()
            answer(error=words(error), errno=getattr(error, "errno", None))

    def have(self, request: dict[str, Any]) -> None:
        """Answer with the files that exist with the expected hash."""
        present = []
        for path, sha256 in request["files"].items():
            target = self.place(path)
            if target.is_file() and file_sha256(target) == sha256:
                present.append(path)
        answer(have=present)

    def get(self, request: dict[str, Any]) -> None:
        """Send a file of the session in pieces."""
        try:
            with self.place(request["path"]).open("rb") as file:
                for piece in iter(lambda: file.read(CHUNK // 4), b""):
                    answer(data=base64.b64encode(piece).decode())
            answer(end=True)
        except (OSError, ValueError) as error:
            answer(error=words(error))

    def run(self, request: dict[str, Any]) -> None:
        """Run one program and forward its output lines; it ends at its time limit or with the connection."""
        for path, sha256 in request.get("check", {}).items():
            target = self.place(path)
            if not target.is_file() or file_sha256(target) != sha256:
                answer(error=f"{target} was changed or removed since it was copied", changed=True)
                return
        argv = [str(Path(part).expanduser()) if part.startswith("~") else part for part in request["argv"]]
        with tempfile.TemporaryFile(dir=self.session) as log:
            try:
                child = subprocess.Popen(
                    argv,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    cwd=self.session,
                    env=dict(os.environ, **request.get("env", {})),
                    start_new_session=True,
                    preexec_fn=functools.partial(die_together, os.getpid()),
                )
            except OSError as error:
                answer(error=f"{argv[0]}: {words(error)}")
                return
            try:
                timed_out = self.forward(child, request)
            finally:
                end(child)
            size = log.seek(0, os.SEEK_END)
            log.seek(max(0, size - LOG_BYTES))
            text = log.read().decode(errors="replace")
        answer(exit=child.returncode, timed_out=timed_out, log=text)
        self.patience_s = ACK_S

    def forward(self, child: subprocess.Popen[bytes], request: dict[str, Any]) -> bool:
        """Forward a program's output until it ends; return whether it hit its time limit."""
        assert child.stdin is not None
        assert child.stdout is not None
        unsent, pending, size = request.get("stdin", "").encode(), [b""], 0
        os.set_blocking(child.stdin.fileno(), False)  # a program that does not read must not hold this process
        deadline = time.monotonic() + float(request["limit_s"])
        output = child.stdout.fileno()
        while True:
            remaining_s = deadline - time.monotonic()
            if remaining_s <= 0 or size > LINE_BYTES:
                return True
            taking = [] if child.stdin.closed else [child.stdin.fileno()]
            readable, writable, _ = select.select([output, self.stream.file], taking, [], remaining_s)
            if writable:
                unsent = feed(child, unsent)
            if self.stream.file in readable:
                self.stream.fill(0.0)  # a busy device gets no requests: this is the end of the connection, or a ping
            if output in readable:
                data = os.read(output, CHUNK)
                *lines, rest = data.split(b"\n")
                if lines:
                    lines[0] = b"".join([*pending, lines[0]])
                    pending, size = [], 0
                pending.append(rest)
                size += len(rest)
                for line in lines:
                    answer(line=line.decode(errors="replace"))
                if not data:
                    child.wait()
                    return False

    def serve(self) -> None:
        """Answer requests until the connection ends, then remove the session's folder."""
        try:
            while True:
                try:
                    request = json.loads(self.stream.line(self.patience_s))
                    op = request["op"]
                except (ValueError, KeyError, TypeError, RecursionError):
                    answer(error="a request that is none")
                    return
                self.patience_s = PATIENCE_S
                if op in ("hello", "put", "have", "get", "run"):
                    getattr(self, op)(request)
                elif op == "bye":
                    return
        except GoneError:
            pass
        finally:
            if self.session is not None:
                shutil.rmtree(self.session, ignore_errors=True)


def feed(child: subprocess.Popen[bytes], data: bytes) -> bytes:
    """Write what a program takes without waiting, and return the rest; close its input after the last byte."""
    assert child.stdin is not None
    try:
        data = data[os.write(child.stdin.fileno(), data) :]
    except BlockingIOError:
        return data
    except OSError:
        data = b""
    if not data:
        with contextlib.suppress(OSError):
            child.stdin.close()
    return data


def die_together(parent: int) -> None:
    """Make Linux end the child when this process is killed; on other systems, its closed output ends it later."""
    if sys.platform.startswith("linux"):
        import ctypes

        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
        if os.getppid() != parent:  # killed before the request
            os._exit(1)


def end(child: subprocess.Popen[bytes]) -> None:
    """Kill a program and its child processes."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    for stream in (child.stdin, child.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for piece in iter(lambda: file.read(CHUNK), b""):
            digest.update(piece)
    return digest.hexdigest()


def first_line(path: Path) -> str:
    """Return the first line of a file, or an empty string if it cannot be read."""
    try:
        with path.open() as file:
            return file.readline().strip()
    except OSError:
        return ""


def words(error: Exception) -> str:
    """Return the message of an error, without its number."""
    return getattr(error, "strerror", None) or str(error)


def main() -> None:
    """Serve one connection."""
    if sys.platform == "win32":
        sys.exit("effbench measures on devices with Linux, Android or macOS; this is Windows")
    signal.signal(
        signal.SIGHUP, signal.SIG_IGN
    )  # the end of the input has the same meaning, and leaves time to clean up
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    answer(ready=True)  # earlier requests would be lost in the buffer of the boot line
    Supervisor(Input()).serve()


if __name__ == "__main__":
    main()
