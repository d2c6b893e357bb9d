"""The protocol of a link to a device, and the connection settings of a transport."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from effbench.errors import UsageError
from effbench.schema import Device

Event = dict[str, Any]


class Link(Protocol):
    """A connection to a device. Each method raises `DeviceError` if the device is lost, refuses, or does not answer."""

    def put(self, files: Mapping[str, Path], folder: str) -> str:
        """Copy files (name -> local path) into a folder of this session; return the folder's path on the device."""

    def run(self, module: str, job: Mapping[str, Any], *, time_limit_s: float) -> Iterator[Event]:
        """Run one job in a fresh process on the device and yield its events, like `effbench.process.run`."""

    def get(self, path: str, to: Path) -> None:
        """Fetch a file of this session."""

    def facts(self) -> dict[str, Any]:
        """Return the facts of the other end: ``python``, ``machine``, ``free_bytes``, ``boot_id``, ..."""

    def close(self) -> None:
        """End the session; only the agent's file is left on the device."""


def required(device: Device, key: str, example: str) -> Any:
    """Return a required value of ``[connection]``.

    Raises:
        UsageError: It is not declared; the hint shows how to declare it.
    """
    value = device.connection.get(key)
    if value in (None, ""):
        text = f'devices.{device.name}.connection.{key} = "{example}"'
        raise UsageError(f"The {key} of '{device.name}' is not declared.", hint=f"In effbench.toml: {text}")
    return value
