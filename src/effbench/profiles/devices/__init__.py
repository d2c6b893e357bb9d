"""Devices by name: one TOML file each, with declared facts only; observed facts belong to a measurement.

Users declare devices in a file (``--device path/to/NAME.toml``), in `user_file`, or in ``effbench.toml`` as
``[devices.NAME]``, which extends the device of that name, or the one that ``base`` names. `allowed` says what a project
file may declare.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from effbench import reading
from effbench.codec import from_json, plain
from effbench.errors import DataError, UsageError, unknown_name
from effbench.profiles.devices import allowed
from effbench.schema import DECLARED, FORMAT_VERSION, Device

FOLDER = Path(__file__).parent
SUITE, LOCAL = "effbench.toml", "local"


@cache
def packaged() -> dict[str, Device]:
    """Return the devices that come with the package, by name.

    Raises:
        DataError: A file is not TOML, or not a device.
    """
    devices_read = (read(path) for path in sorted(FOLDER.glob("*.toml")))
    return {device.name: device for device in devices_read}


def devices(folder: Path | None = None) -> dict[str, Device]:
    """Return the packaged devices, those of the user, and those that the ``effbench.toml`` of a folder declares.

    The user's are in `user_file`. What a project file declares and its user has not allowed is left out; `get` explains
    that. Inside `declared_by` other entries stand in for those of the folder.

    Args:
        folder: None means the current one.

    Raises:
        DataError: A file is not TOML, or an entry is not a device.
        UsageError: An entry redefines this machine, or builds on a device that does not exist.
    """
    devices_by_name = dict(packaged())
    for path, entries in (_of_user(), _of_project(folder)):
        if not isinstance(entries, Mapping):
            raise DataError(f"{path}: devices = {str(entries)[:60]} is no table.", hint="Write [devices.NAME].")
        for name, entry in entries.items():
            location = f"{path}: [devices.{name}]"
            if not isinstance(entry, dict):
                raise DataError(f"{location} is not a table.")
            if name == LOCAL:
                raise UsageError(f"{location}: this machine cannot be redefined.", hint="Give the device another name.")
            devices_by_name[name] = _merged(name, entry, devices_by_name, location)
    return devices_by_name


def user_file() -> Path:
    """Return the file of devices that the user declares for all folders."""
    return allowed.config_folder() / "devices.toml"


def project_file(folder: Path | None = None) -> tuple[Path, dict[str, Any]] | None:
    """Return the path and the content of a folder's ``effbench.toml``, or None if there is none."""
    path = (folder or Path()) / SUITE
    return (path, _toml(path)) if path.is_file() else None


@contextmanager
def declared_by(entries: Mapping[str, Any], location: str) -> Iterator[None]:
    """Take the devices of a gate from its base: inside, they stand in for those of the current folder.

    Args:
        entries: The table ``[devices]`` of the base's file.
        location: That file, for messages.
    """
    token = _BASE.set((location, entries))
    try:
        yield
    finally:
        _BASE.reset(token)


_BASE: ContextVar[tuple[str, Mapping[str, Any]] | None] = ContextVar("devices of the base", default=None)


def _of_user() -> tuple[str, Mapping[str, Any]]:
    path = user_file()
    return str(path), _toml(path).get("devices", {}) if path.is_file() else {}


def _of_project(folder: Path | None) -> tuple[str, Mapping[str, Any]]:
    base = _BASE.get()
    if base is not None:
        return base
    declared = project_file(folder)
    if declared is None:
        return SUITE, {}
    path, data = declared
    entries, parts = data.get("devices", {}), allowed.sensitive_parts(data)
    if parts and not allowed.is_allowed(path, data):
        entries = {name: entry for name, entry in entries.items() if name == LOCAL or f"devices.{name}" not in parts}
    return str(path), entries


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
        UsageError: The name is unknown, or a project file declares it that is not allowed.
        DataError: The file is not a device.
    """
    if name.endswith(".toml"):
        return _declared(read(Path(name)))
    if name == LOCAL:
        return packaged()[LOCAL]
    if _BASE.get() is None and (declared := project_file()) is not None:
        allowed.check(*declared, f"devices.{name}")
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
