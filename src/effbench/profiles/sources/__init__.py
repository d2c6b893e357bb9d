"""State and power of devices: one module per kind of device, each ends in ``SOURCE``.

A source reads files below a root (``/``, except in tests) or calls one tool, in milliseconds; an unknown value is
absent, never an error. Shared keys: ``power_mode``, ``power_source`` (mains or battery), ``thermal_status`` (none if
all is well) and ``throttle_reasons``; two measurements that differ in the first three are not compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple, Protocol

from effbench.registry import constants_in

Value = str | int | float | None

STATE = ("power_mode", "power_source", "thermal_status", "throttle_reasons")
"""Keys that exist on every machine, None if unknown."""

_ENERGY, _WRAP, _UNIT = "energy_", "_wrap", "_j"


class Total(NamedTuple):
    """A running total of energy; ``wraps_j`` is the value at which the counter wraps, None if it never does."""

    joules: float
    wraps_j: float | None = None


class StateSource(Protocol):
    """One kind of device, sensor or tool."""

    name: str

    def state(self, root: Path) -> Mapping[str, Value]:
        """Return settings and conditions, keys with units in their names."""

    def energy(self, root: Path) -> Mapping[str, Total]:
        """Return the running totals of energy, by component."""

    def power_w(self, root: Path) -> Mapping[str, float]:
        """Return the present power, by component; it is sampled if there is no running total."""


class Silent:
    """A source without state, energy or power; subclasses override what they provide."""

    def state(self, root: Path) -> Mapping[str, Value]:
        """Return nothing."""
        return {}

    def energy(self, root: Path) -> Mapping[str, Total]:
        """Return nothing."""
        return {}

    def power_w(self, root: Path) -> Mapping[str, float]:
        """Return nothing."""
        return {}


@cache
def sources() -> tuple[StateSource, ...]:
    """Return the sources of this package."""
    return tuple(constants_in(__name__, "SOURCE"))


def state(root: Path) -> dict[str, Value]:
    """Return the state from all sources; the keys of `STATE` always exist."""
    values: dict[str, Value] = dict.fromkeys(STATE)
    for source in sources():
        values.update(source.state(root))
    return values


def energy_counters(root: Path) -> dict[str, float]:
    """Return the running totals as flat numbers, for `energy_changes`."""
    counters: dict[str, float] = {}
    for source in sources():
        for name, total in source.energy(root).items():
            counters[f"{_ENERGY}{name}{_UNIT}"] = total.joules
            if total.wraps_j is not None:
                counters[f"{_ENERGY}{name}{_WRAP}{_UNIT}"] = total.wraps_j
    return counters


def energy_changes(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """Return the energy used between two readings, ``energy_NAME_j``; a single wrap of a counter is corrected."""
    changes = {}
    for key, value in after.items():
        if not key.startswith(_ENERGY) or key.endswith(f"{_WRAP}{_UNIT}") or key not in before:
            continue
        joules = value - before[key]
        if joules < 0:
            joules += after.get(key.removesuffix(_UNIT) + _WRAP + _UNIT, 0.0)
        if joules >= 0:
            changes[key] = joules
    return changes


def power_w(root: Path) -> dict[str, float]:
    """Return the present power from all sources, by component."""
    return {name: value for source in sources() for name, value in source.power_w(root).items()}


def text(path: Path) -> str | None:
    """Return a file's text, stripped, or None: sensors come and go, and some cannot be read."""
    try:
        return path.read_text(errors="replace").strip("\0 \n\t")
    except OSError:
        return None


def number(path: Path, factor: float = 1.0) -> float | None:
    """Return the number in a file times a factor, or None."""
    content = text(path)
    try:
        return None if content is None else float(content) * factor
    except ValueError:
        return None
