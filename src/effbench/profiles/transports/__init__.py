"""How a device is reached: one link per device, whatever carries it.

A transport is a module of this package that ends in ``TRANSPORT``, a function from a device to a `Link`; ``CONNECTION``
says what a device's ``[connection]`` may hold. What runs at the other end is the agent (`effbench.device.agent`) or, on
Android, a vendor's runner; both answer in the events of `effbench.process`.
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
"""Of a device that only its owner can drive: `effbench kit` and `effbench import` serve it."""


Connect = Callable[[Device], Link]


@cache
def transports() -> dict[str, Any]:
    """Return the transport modules by name; none of them imports its library before it connects."""
    return {name: import_module(f"{__name__}.{name}") for name in NAMES}


def check(device: Device) -> None:
    """Refuse a transport or a key of ``[connection]`` that means nothing.

    Raises:
        UsageError: With the valid names.
    """
    if device.transport == NONE:
        return
    known = transports()
    if device.transport not in known:
        raise unknown_name(device.transport, (*known, NONE), f"transport of device '{device.name}':")
    keys = known[device.transport].CONNECTION
    for key in device.connection:
        if key not in keys:
            raise unknown_name(key, keys, f"key of [connection] of device '{device.name}' ({device.transport}):")


def check_connection(device: Device) -> None:
    """Refuse a device whose place is not declared, before any work is done for it.

    Raises:
        UsageError: With the line that declares it.
    """
    check(device)
    for key, example in getattr(transports()[device.transport], "REQUIRED", {}).items():
        required(device, key, example)


def connect(device: Device, record: Path | None = None) -> Link:
    """Open a link to a device.

    Args:
        device: What is declared of it.
        record: Write the whole exchange there, for the transport ``replay``.

    Raises:
        DeviceError: It cannot be reached.
        UnavailableError: effbench cannot run anything there.
        UsageError: Its connection is not declared, or declared wrongly.
    """
    check(device)
    if device.transport == NONE:
        raise UnavailableError(f"effbench cannot drive '{device.name}'.", hint="effbench kit MODEL --device NAME")
    link: Link = transports()[device.transport].TRANSPORT(device)
    if record is None:
        return link
    return Recorder(link, device, record)


__all__ = ["NONE", "Connect", "Event", "Link", "check", "check_connection", "connect", "required", "transports"]
