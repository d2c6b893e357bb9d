"""This machine: jobs are child processes, and files stay where they are."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from effbench import process
from effbench.profiles.transports.link import Event
from effbench.schema import Device

CONNECTION: dict[str, str] = {}


class Local:
    """The link to this machine, which needs no connection."""

    def __init__(self, device: Device) -> None:
        self.name = device.name

    def put(self, files: Mapping[str, Path], folder: str) -> str:
        """Return the folder of the files; nothing is copied."""
        return str(next(iter(files.values())).resolve().parent)

    def run(self, module: str, job: Mapping[str, Any], *, time_limit_s: float) -> Iterator[Event]:
        """Run one job in a child process."""
        return process.run(module, job, time_limit_s=time_limit_s)

    def get(self, path: str, to: Path) -> None:
        """Copy a file."""
        shutil.copyfile(path, to)

    def facts(self) -> dict[str, Any]:
        """Return nothing: `environment.observe` describes this machine."""
        return {}

    def close(self) -> None:
        """Do nothing."""


TRANSPORT = Local
