"""A Dask scheduler and workers on loopback, each in a separate process, for tests that kill them."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

HERE = str(Path(__file__).parent)


class Lab:
    """A scheduler and workers that end with the test, with logs in ``folder``."""

    def __init__(self, folder: Path, cwd: Path | None = None, env: Mapping[str, str] | None = None, scheme="tcp"):
        self.folder, self.cwd, self.env = folder, cwd, dict(env or {})
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"{scheme}://127.0.0.1:{self.port}"
        self.scheduler()

    def scheduler(self):
        host = ["--host", self.address.rpartition(":")[0]]
        self._start("scheduler", "scheduler", *host, "--port", str(self.port), "--no-dashboard")
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            time.sleep(0.1)
        raise AssertionError("no scheduler after 60 s")

    def worker(self, name: str, device: str):
        host = ["--host", self.address.rpartition(":")[0]]
        options = [*host, "--nthreads", "1", "--no-nanny", "--no-dashboard", "--memory-limit", "0"]
        options += ["--resources", f"{device}=1", "--name", name, "--local-directory", str(self.folder / "dask")]
        self._start(name, "worker", self.address, *options)

    def _start(self, name: str, kind: str, *options: str):
        env = {**os.environ, "PYTHONPATH": os.pathsep.join([HERE, os.environ.get("PYTHONPATH", "")]), **self.env}
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "distributed.cli.dask_" + kind, *options],
                env=env,
                cwd=self.cwd,
                stdout=log,
                stderr=log,
            )

    def kill(self, name: str):
        self.processes[name].send_signal(signal.SIGKILL)
        self.processes[name].wait()

    def close(self):
        for process in self.processes.values():
            process.kill()
            process.wait()
