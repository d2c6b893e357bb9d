"""What a device tells of its state and power, a module for each kind of device, each ends in ``SOURCE``.

A source reads files below a root (``/`` but in tests) or asks one tool, in milliseconds; what a machine does not tell
is absent, never an error. Shared keys: ``power_mode``, ``power_source`` (mains or battery), ``thermal_status`` (none
where nothing is wrong) and ``throttle_reasons``; two measurements that differ in the first three are not compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple, Protocol

from effbench.registry import constants_in

Value = str | int | float | None

STATE = ("power_mode", "power_source", "thermal_status", "throttle_reasons")
"""Keys that are there on every machine, None where it does not tell."""

_ENERGY, _WRAP, _UNIT = "energy_", "_wrap", "_j"


class Total(NamedTuple):
    """A running total of energy; ``wraps_j`` is where the counter begins again, None where it never does."""

    joules: float
    wraps_j: float | None = None


class Source(Protocol):
    """One kind of device, sensor or tool."""

    name: str

    def state(self, root: Path) -> Mapping[str, Value]:
        """Return settings and conditions, keys with units in their names."""

    def energy(self, root: Path) -> Mapping[str, Total]:
        """Return the running totals of energy, by what they cover."""

    def power_w(self, root: Path) -> Mapping[str, float]:
        """Return the power drawn now, by what it covers; sampled where there is no running total."""


class Silent:
    """A source that tells no energy and no power; others override what they know."""

    def state(self, root: Path) -> Mapping[str, Value]:
        """Tell nothing."""
        return {}

    def energy(self, root: Path) -> Mapping[str, Total]:
        """Tell nothing."""
        return {}

    def power_w(self, root: Path) -> Mapping[str, float]:
        """Tell nothing."""
        return {}


@cache
def sources() -> tuple[Source, ...]:
    """Return the sources of this package."""
    return tuple(constants_in(__name__, "SOURCE"))


def state(root: Path) -> dict[str, Value]:
    """Return what all sources tell together; `STATE` is always there."""
    found: dict[str, Value] = dict.fromkeys(STATE)
    for source in sources():
        found.update(source.state(root))
    return found


def energy_counters(root: Path) -> dict[str, float]:
    """Return the running totals as flat numbers, for `energy_changes`."""
    found: dict[str, float] = {}
    for source in sources():
        for name, total in source.energy(root).items():
            found[f"{_ENERGY}{name}{_UNIT}"] = total.joules
            if total.wraps_j is not None:
                found[f"{_ENERGY}{name}{_WRAP}{_UNIT}"] = total.wraps_j
    return found


def energy_changes(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """Return the energy used between two readings, ``energy_NAME_j``; a counter that began again once is mended."""
    found = {}
    for key, value in after.items():
        if not key.startswith(_ENERGY) or key.endswith(f"{_WRAP}{_UNIT}") or key not in before:
            continue
        used = value - before[key]
        if used < 0:
            used += after.get(key.removesuffix(_UNIT) + _WRAP + _UNIT, 0.0)
        if used >= 0:
            found[key] = used
    return found


def power_w(root: Path) -> dict[str, float]:
    """Return the power that sensors tell now, by what it covers."""
    return {name: value for source in sources() for name, value in source.power_w(root).items()}


def text(path: Path) -> str | None:
    """Return a file's text, stripped, or None: sensors come and go, and some refuse to be read."""
    try:
        return path.read_text(errors="replace").strip("\0 \n\t")
    except OSError:
        return None


def number(path: Path, factor: float = 1.0) -> float | None:
    """Return the number in a file times a factor, or None."""
    found = text(path)
    try:
        return None if found is None else float(found) * factor
    except ValueError:
        return None
