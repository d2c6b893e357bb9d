"""The protocol of a link to a device, and what each transport needs to build one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from effbench.errors import UsageError
from effbench.schema import Device

Event = dict[str, Any]


class Link(Protocol):
    """A connection to a device. Each method raises `DeviceError` when the device is lost, refuses, or stays silent."""

    def put(self, files: Mapping[str, Path], folder: str) -> str:
        """Bring files (name -> local path) into a folder of this session; returns the folder's path over there."""

    def run(self, module: str, job: Mapping[str, Any], *, time_limit_s: float) -> Iterator[Event]:
        """Run one job in a fresh process over there and yield its events; `effbench.process.run` for a device."""

    def get(self, path: str, to: Path) -> None:
        """Fetch a file of this session."""

    def facts(self) -> dict[str, Any]:
        """Return what the other end says of itself: ``python``, ``machine``, ``free_bytes``, ``boot_id``, ..."""

    def close(self) -> None:
        """End the session; nothing is left running or lying over there but the agent."""


def required(device: Device, key: str, example: str) -> Any:
    """Return a value of ``[connection]`` that the transport cannot do without.

    Raises:
        UsageError: It is not declared; the message shows how.
    """
    value = device.connection.get(key)
    if value in (None, ""):
        text = f'devices.{device.name}.connection.{key} = "{example}"'
        raise UsageError(f"Where is '{device.name}'? Its {key} is not declared.", hint=f"In effbench.toml: {text}")
    return value
