"""A stream of bytes to a supervisor at the other end, and the command that starts it.

The command is a constant: paths, arguments and the interpreter are sent as JSON over the channel, and no command line
is ever assembled from parts.
"""

from __future__ import annotations

import contextlib
import os
import queue
import select
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from typing import Protocol

from effbench import process
from effbench.errors import DeviceError

BOOT = ("python3", "-I", "-u", "-c", "import sys,json;exec(json.loads(sys.stdin.buffer.readline()))")
"""Run the supervisor, whose source is the first line of the input; ``-I``: no module comes from the login folder."""

COMMAND = """python3 -I -u -c "import sys,json;exec(json.loads(sys.stdin.buffer.readline()))\""""
"""`BOOT` for a login shell: ssh sends one string, not a list."""


INBOX_PIECES = 4096
"""Received and not yet read: 256 MiB in pieces of 64 KiB."""


class LostError(DeviceError):
    """The connection ended, or the device stopped answering; the next request needs a new connection."""


class Channel(Protocol):
    """Bytes in both directions."""

    def send(self, data: bytes, timeout_s: float) -> None:
        """Send all bytes.

        Raises:
            LostError: The connection ended, or the other end read nothing in that time.
        """

    def receive(self, timeout_s: float) -> bytes | None:
        """Return the received bytes, empty bytes at the end, or None if nothing arrived in that time.

        Raises:
            LostError: The connection broke.
        """

    def log(self) -> str:
        """Return what the other end wrote to its standard error."""

    def close(self) -> None:
        """End the connection and its process or thread on this side."""


class Pipe:
    """A channel to a program on this machine: an interpreter, an emulator, or a command that connects elsewhere."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        process.require_posix("A connection through a program")
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the channel
        try:
            self._child = subprocess.Popen(
                list(argv),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                env={**os.environ, **(env or {})},
                start_new_session=True,
            )
        except OSError as error:
            self._log.close()
            raise DeviceError(f"Cannot start {argv[0]}: {error.strerror}.") from error
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._in, self._out = self._child.stdin.fileno(), self._child.stdout.fileno()
        os.set_blocking(self._in, False)

    def send(self, data: bytes, timeout_s: float) -> None:
        """Write to its standard input."""
        view = memoryview(data)
        while view:
            if not select.select([], [self._in], [], timeout_s)[1]:
                raise LostError(f"The device read no data for {timeout_s:g} s.")
            try:
                view = view[os.write(self._in, view) :]
            except OSError as error:
                raise LostError(f"The connection is closed: {error.strerror}.", hint=self.log() or None) from error

    def receive(self, timeout_s: float) -> bytes | None:
        """Read from its standard output."""
        if not select.select([self._out], [], [], max(0.0, timeout_s))[0]:
            return None
        return os.read(self._out, 1 << 20)

    def log(self) -> str:
        """Return its standard error."""
        size = os.fstat(self._log.fileno()).st_size
        start = max(0, size - 4000)
        return os.pread(self._log.fileno(), size - start, start).decode(errors="replace").strip()

    def close(self) -> None:
        """Close the program's input, which ends it; kill it if it does not end."""
        for stream in (self._child.stdin, self._child.stdout):
            with contextlib.suppress(OSError):
                stream.close()  # type: ignore[union-attr]
        try:
            self._child.wait(1.0)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._child.pid, signal.SIGKILL)
            self._child.wait()
        self._log.close()


class Inbox:
    """Bytes received by a channel in another thread, followed by the reason of the end; at most so many pieces."""

    def __init__(self, pieces: int = INBOX_PIECES) -> None:
        self._queue: queue.Queue[bytes | Exception] = queue.Queue()
        self._pieces = pieces
        self._full = False

    def add(self, item: bytes | Exception) -> None:
        """Add a piece, empty bytes for the end, or what broke the connection; a flood that nobody reads is the end."""
        if self._full:
            return
        self._full = self._queue.qsize() >= self._pieces
        self._queue.put(OSError("the device sends more than is read") if self._full else item)

    def next(self, timeout_s: float) -> bytes | None:
        """Return the next piece; see `Channel.receive`."""
        try:
            item = self._queue.get(timeout=max(0.0, timeout_s))
        except queue.Empty:
            return None
        if item == b"" or isinstance(item, Exception):
            self._queue.put(item)  # later calls see the end too
        if isinstance(item, Exception):
            raise LostError(f"The connection broke: {item}.") from item
        return item
