"""Devices by name: one TOML file each, declared facts only; what was observed belongs to a measurement."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import Any

from effbench.codec import from_json
from effbench.errors import DataError, did_you_mean
from effbench.schema import FORMAT_VERSION, Device

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FOLDER = Path(__file__).parent


@cache
def devices() -> dict[str, Device]:
    """Return the devices that come with the package, by name.

    Raises:
        DataError: A file is not TOML, or not a device.
    """
    found = (read(path) for path in sorted(FOLDER.glob("*.toml")))
    return {device.name: device for device in found}


def read(path: Path) -> Device:
    """Read one device file.

    Raises:
        DataError: It is not TOML, or a field is missing, unknown or of another type.
    """
    try:
        data: dict[str, Any] = tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as error:
        raise DataError(f"{path}: {error}.") from error
    return from_json(Device, {"format": FORMAT_VERSION, **data}, str(path))


def get(name: str) -> Device:
    """Return a device by name.

    Raises:
        UsageError: The name is unknown.
    """
    found = devices()
    if name not in found:
        raise did_you_mean(name, found, "device")
    return found[name]
