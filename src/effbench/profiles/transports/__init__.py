"""Connections to devices: one link per device, over any transport.

A transport is a module of this package that ends in ``TRANSPORT``, a function from a device to a `Link`; ``CONNECTION``
lists the keys of a device's ``[connection]``. The other end runs the agent (`effbench.device.agent`) or, on Android, a
vendor's runner; both answer in the events of `effbench.process`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from effbench.errors import UnavailableError, unknown_name
from effbench.profiles.transports.link import Event, Link, required
from effbench.profiles.transports.replay import Recorder
from effbench.schema import Device

NAMES = ("local", "pipe", "ssh", "adb", "replay")


NONE = "none"
"""The transport of a device that only its owner can drive; `effbench kit` and `effbench import` serve it."""


Connect = Callable[[Device], Link]


@cache
def transports() -> dict[str, Any]:
    """Return the transport modules by name; none of them imports its library before it connects."""
    return {name: import_module(f"{__name__}.{name}") for name in NAMES}


def check(device: Device) -> None:
    """Refuse an unknown transport or an unknown key of ``[connection]``.

    Raises:
        UsageError: It lists the valid names.
    """
    if device.transport == NONE:
        return
    modules = transports()
    if device.transport not in modules:
        raise unknown_name(device.transport, (*modules, NONE), f"transport of device '{device.name}':")
    keys = modules[device.transport].CONNECTION
    for key in device.connection:
        if key not in keys:
            raise unknown_name(key, keys, f"key of [connection] of device '{device.name}' ({device.transport}):")


def check_connection(device: Device) -> None:
    """Refuse a device without its required connection settings, before any work for it starts.

    Raises:
        UsageError: It shows the line that declares the setting.
    """
    check(device)
    for key, example in getattr(transports()[device.transport], "REQUIRED", {}).items():
        required(device, key, example)


def connect(device: Device, record: Path | None = None) -> Link:
    """Open a link to a device.

    Args:
        device: The declared device.
        record: A file for the whole exchange, which the transport ``replay`` reads.

    Raises:
        DeviceError: The device does not answer.
        UnavailableError: effbench cannot run anything on it.
        UsageError: Its connection is not declared, or the declaration is wrong.
    """
    check(device)
    if device.transport == NONE:
        hint = f"effbench kit MODEL --device {device.name}"
        raise UnavailableError(f"effbench cannot drive '{device.name}'.", hint=hint)
    link: Link = transports()[device.transport].TRANSPORT(device)
    if record is None:
        return link
    return Recorder(link, device, record)


__all__ = ["NONE", "Connect", "Event", "Link", "check", "check_connection", "connect", "required", "transports"]
