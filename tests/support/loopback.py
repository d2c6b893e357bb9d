"""Run an sshd on 127.0.0.1 with separate keys, port and configuration, for tests and a benchmark.

Needs Debian's openssh-server and openssh-client.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from effbench.schema import Device

SSHD = shutil.which("sshd") or "/usr/sbin/sshd"


def missing() -> str | None:
    """Return a reason why no server can run here, or None."""
    if Path(SSHD).exists() and shutil.which("ssh-keygen"):
        return None
    return "sshd is not installed (Debian: openssh-server)"


@dataclass
class Server:
    """An sshd whose sessions are its child processes."""

    folder: Path
    port: int
    address: str = "127.0.0.1"
    prefix: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = None
    environment: dict[str, str] = field(default_factory=dict)

    def start(self) -> None:
        settings = {
            "Port": self.port,
            "ListenAddress": self.address,
            "HostKey": self.folder / "host",
            "AuthorizedKeysFile": self.folder / "me.pub",
            "PidFile": "none",
            "StrictModes": "no",
            "UsePAM": "no",
            "PasswordAuthentication": "no",
        }
        path = os.pathsep.join([str(Path(sys.executable).parent), "/usr/bin", "/bin"])
        variables = " ".join(f"{key}={value}" for key, value in {"PATH": path, **self.environment}.items())
        text = "".join(f"{key} {value}\n" for key, value in {**settings, "SetEnv": variables}.items())
        (self.folder / "config").write_text(text)
        command = [*self.prefix, SSHD, "-D", "-e", "-f", str(self.folder / "config")]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stderr=log, start_new_session=True)
        if not self.prefix:
            assert soon(self.answers), (self.folder / "log").read_text()

    def answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection((self.address, self.port), 1.0):
            return True
        return False

    def tree(self) -> list[int]:
        """Return the processes of the server and of all its sessions."""
        assert self.process is not None
        return descendants(self.process.pid)

    def power_off(self) -> None:
        """Kill all processes at once, as a power cut would."""
        for pid in reversed(self.tree()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert self.process is not None
        self.process.wait()

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.power_off()


def descendants(root: int) -> list[int]:
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    parents = [tuple(map(int, line.split())) for line in listed.splitlines()]
    pids = [root]
    for pid in pids:
        pids += [child for child, parent in parents if parent == pid]
    return pids


def soon(condition: Callable[[], bool], limit_s: float = 8.0) -> bool:
    """Wait until a condition is true, and return whether it became true in time."""
    deadline = time.monotonic() + limit_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def make(folder: Path) -> Server:
    """Return a server with new keys that trusts the key ``me``; it is not started yet."""
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    folder.mkdir(mode=0o700)
    for name in ("host", "me", "other"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    server = Server(folder, free_port())
    trust(server, "host")
    return server


def device_of(server: Server, home: Path) -> Device:
    """Return the server as a device that uses this interpreter."""
    connection = {
        "host": server.address,
        "port": server.port,
        "user": getpass.getuser(),
        "key": str(server.folder / "me"),
        "known_hosts": str(server.folder / "known"),
        "python": sys.executable,
        "home": str(home),
        "timeout_s": 10,
    }
    return Device("loopback", "host", "sshd on 127.0.0.1", "ssh", ("ort",), connection=connection)


def trust(server: Server, key: str) -> None:
    kind, public = (server.folder / f"{key}.pub").read_text().split()[:2]
    (server.folder / "known").write_text(f"[{server.address}]:{server.port} {kind} {public}\n")


def commands() -> dict[int, str]:
    """Return every process with its arguments."""
    arguments = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            arguments[int(folder.name)] = (
                (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            )
    return arguments
