"""A machine behind an ssh server. Its host key is always verified and never accepted automatically.

asyncssh runs in a separate thread; it reads ``~/.ssh/config`` and ``~/.ssh/known_hosts`` like OpenSSH.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from concurrent.futures import TimeoutError as FutureTimeoutError
from pathlib import Path
from typing import Any, TypeVar

from effbench.errors import DeviceError, MissingDependencyError, UsageError
from effbench.profiles.transports import session
from effbench.profiles.transports.channel import COMMAND, Inbox, LostError
from effbench.profiles.transports.link import required
from effbench.profiles.transports.session import Supervised, timeout_of
from effbench.schema import Device

CONNECTION = {
    **session.CONNECTION,
    "host": "name or address, or a Host of ~/.ssh/config",
    "port": "port of the ssh server (default: 22)",
    "user": "user name on the device (default: as in ~/.ssh/config, else yours)",
    "key": "file of the private key (default: keys of ssh-agent and the usual files)",
    "known_hosts": "file of trusted host keys (default: ~/.ssh/known_hosts)",
}
REQUIRED = {"host": "192.168.1.20"}
KEEPALIVE_S = 15.0
T = TypeVar("T")


class SshChannel:
    """One command at the other end of an ssh connection."""

    def __init__(self, device: Device) -> None:
        try:
            import asyncssh  # noqa: F401
        except ImportError as error:
            raise MissingDependencyError("Transport 'ssh'", "asyncssh", "ssh") from error
        self._device = device
        self._host = str(required(device, "host", REQUIRED["host"]))
        self._timeout_s = timeout_of(device)
        self._inbox = Inbox()
        self._log = b""
        self._connection: Any = None
        self._process: Any = None
        self._tasks: list[asyncio.Task[None]] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        try:
            self._wait(self._open(), self._timeout_s)
        except BaseException:
            self.close()
            raise

    def send(self, data: bytes, timeout_s: float) -> None:
        """Write to the command's standard input."""
        import asyncssh

        async def write() -> None:
            self._process.stdin.write(data)
            await self._process.stdin.drain()

        try:
            self._wait(write(), timeout_s)
        except (asyncssh.Error, OSError) as error:
            raise LostError(f"The connection to '{self._device.name}' is closed: {_reason(error)}.") from error

    def receive(self, timeout_s: float) -> bytes | None:
        """Read from the command's standard output."""
        return self._inbox.next(timeout_s)

    def log(self) -> str:
        """Return the standard error of the command or the login shell."""
        return self._log.decode(errors="replace").strip()

    def close(self) -> None:
        """End the connection and the thread; a second call does nothing."""
        if self._loop.is_closed() or not self._thread.is_alive():
            return
        with contextlib.suppress(DeviceError):
            self._wait(self._end(), 3.0)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(3.0)
        if not self._thread.is_alive():
            self._loop.close()

    def _wait(self, work: Coroutine[Any, Any, T], timeout_s: float) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(timeout_s)
        except (FutureTimeoutError, asyncio.TimeoutError):
            future.cancel()
            device = f"'{self._device.name}' ({self._host})"
            raise LostError(
                f"{device} did not answer within {timeout_s:g} s.", hint="Is it on, and in this network?"
            ) from None

    async def _open(self) -> None:
        import asyncssh

        try:
            self._connection = await asyncssh.connect(self._host, **self._options())
            self._process = await self._connection.create_process(COMMAND, encoding=None)
        except asyncssh.HostKeyNotVerifiable as error:
            raise self._untrusted() from error
        except asyncssh.PermissionDenied as error:
            hint = "Log in once by hand (ssh HOST), or set user and key in [connection]."
            raise DeviceError(
                f"'{self._device.name}' ({self._host}) refused the login: {error.reason}.", hint=hint
            ) from error
        except (asyncssh.Error, OSError) as error:
            text = f"'{self._device.name}' ({self._host}) does not answer: {_reason(error)}."
            raise LostError(text, hint="Is it on, is its ssh server running, and are host and port right?") from error
        self._tasks = [
            asyncio.ensure_future(self._pump(self._process.stdout)),
            asyncio.ensure_future(self._drain(self._process.stderr)),
        ]

    def _options(self) -> dict[str, Any]:
        connection = self._device.connection
        options: dict[str, Any] = {"connect_timeout": self._timeout_s, "login_timeout": self._timeout_s}
        options |= {"keepalive_interval": KEEPALIVE_S, "keepalive_count_max": 3}
        if "port" in connection:
            port = connection["port"]
            if not isinstance(port, int) or not 0 < port < 65536:
                raise UsageError(f"The port of '{self._device.name}' is {port!r}, which is no number from 1 to 65535.")
            options["port"] = port
        if "user" in connection:
            options["username"] = str(connection["user"])
        if "key" in connection:
            options["client_keys"] = [str(Path(connection["key"]).expanduser())]
        if "known_hosts" in connection:
            options["known_hosts"] = str(Path(connection["known_hosts"]).expanduser())
        return options

    def _untrusted(self) -> DeviceError:
        file = self._device.connection.get("known_hosts", "~/.ssh/known_hosts")
        hint = (
            "If it is new, log in once by hand (ssh HOST), compare the fingerprint and accept it. If it was known, the "
            "connection may be intercepted, or the host was reinstalled; effbench never accepts a key automatically."
        )
        return DeviceError(f"The host key of '{self._device.name}' ({self._host}) is not the one in {file}.", hint=hint)

    async def _pump(self, stream: Any) -> None:
        import asyncssh

        try:
            while data := await stream.read(1 << 16):
                self._inbox.add(data)
        except (asyncssh.Error, OSError) as error:
            self._inbox.add(error)
        self._inbox.add(b"")

    async def _drain(self, stream: Any) -> None:
        import asyncssh

        with contextlib.suppress(asyncssh.Error, OSError):
            while data := await stream.read(1 << 14):
                self._log = (self._log + data)[-4000:]

    async def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._process is not None:
            self._process.stdin.write_eof() if not self._process.stdin.is_closing() else None
            self._process.close()
        if self._connection is not None:
            self._connection.close()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._connection.wait_closed(), 1.0)
            self._connection.abort()
        remaining_tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in remaining_tasks:
            task.cancel()
        await asyncio.gather(*remaining_tasks, return_exceptions=True)
        await asyncio.sleep(0.01)  # the loop closes its sockets in its next iteration


def _reason(error: Exception) -> str:
    text = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
    return str(text or type(error).__name__)


def _link(device: Device) -> Supervised:
    return Supervised(device, lambda: SshChannel(device))


TRANSPORT = _link
