"""Devices by name: one TOML file each, with declared facts only; observed facts belong to a measurement.

Users declare devices in a file (``--device path/to/NAME.toml``) or in ``effbench.toml`` as ``[devices.NAME]``, which
extends the device of that name, or the one that ``base`` names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from effbench import reading
from effbench.codec import from_json, plain
from effbench.errors import DataError, unknown_name
from effbench.schema import DECLARED, FORMAT_VERSION, Device

FOLDER = Path(__file__).parent
SUITE = "effbench.toml"


@cache
def packaged() -> dict[str, Device]:
    """Return the devices that come with the package, by name.

    Raises:
        DataError: A file is not TOML, or not a device.
    """
    devices_read = (read(path) for path in sorted(FOLDER.glob("*.toml")))
    return {device.name: device for device in devices_read}


def devices(folder: Path | None = None) -> dict[str, Device]:
    """Return the packaged devices and those declared in ``effbench.toml`` of a folder (default: the current one).

    Raises:
        DataError: The file is not TOML, or an entry is not a device.
        UsageError: An entry builds on a device that does not exist.
    """
    path = (folder or Path()) / SUITE
    entries = _toml(path).get("devices", {}) if path.is_file() else {}
    devices_by_name = dict(packaged())
    for name, entry in entries.items():
        location = f"{path}: [devices.{name}]"
        if not isinstance(entry, dict):
            raise DataError(f"{location} is not a table.")
        devices_by_name[name] = _merged(name, entry, devices_by_name, location)
    return devices_by_name


def read(path: Path) -> Device:
    """Read one device file; it may build on a packaged device with ``base``.

    Raises:
        DataError: It is not TOML, or a field is missing, unknown or of another type.
    """
    data = _toml(path)
    if "base" in data:
        return _merged(str(data.get("name", path.stem)), data, packaged(), str(path))
    return from_json(Device, {"format": FORMAT_VERSION, **data}, str(path))


def get(name: str) -> Device:
    """Return a device by name, or from a user's file.

    Raises:
        UsageError: The name is unknown.
        DataError: The file is not a device.
    """
    if name.endswith(".toml"):
        return _declared(read(Path(name)))
    known = devices()
    if name not in known:
        raise unknown_name(name, known, "device")
    return known[name]


def _merged(name: str, entry: Mapping[str, Any], known: Mapping[str, Device], location: str) -> Device:
    rest = {key: value for key, value in entry.items() if key not in ("base", "name")}
    base = str(entry.get("base", name))
    if base not in known:
        if "base" in entry:
            raise unknown_name(base, known, f"device that {location} builds on:")
        data: dict[str, Any] = {"kind": "host", "description": f"Declared in {SUITE}", "targets": ["ort"]}
        return _declared(from_json(Device, {"format": FORMAT_VERSION, **data, **rest, "name": name}, location))
    data = plain(known[base])
    for key, value in rest.items():
        data[key] = {**data[key], **value} if isinstance(data.get(key), dict) and isinstance(value, dict) else value
    return _declared(replace(from_json(Device, {"format": FORMAT_VERSION, **data}, location), name=name))


def _declared(device: Device) -> Device:
    """Return a device with the evidence that a declaration has: nobody but this package says *run on hardware*."""
    imitation = device.evidence in ("emulated", "replayed from a recording")
    return device if imitation or device.transport == "local" else replace(device, evidence=DECLARED)


def _toml(path: Path) -> dict[str, Any]:
    try:
        return reading.toml_file(path)
    except DataError as error:
        raise DataError(error.message, hint=error.hint or "`effbench devices` lists the known ones.") from error
