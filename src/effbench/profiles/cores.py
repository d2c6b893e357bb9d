"""Which kind of core this process may run on, on machines that have several kinds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

PERFORMANCE, EFFICIENCY, MIXED = "performance", "efficiency", "mixed"


def core_type(system: Path, cpus: Sequence[int]) -> str | None:
    """Return the kind of the allowed cores, or None where all cores are alike or nothing tells.

    Args:
        system: The folder ``/sys``.
        cpus: The allowed cores.

    Source: Linux: ``/sys/devices/cpu_atom/cpus`` (hybrid x86), ``cpu_capacity`` (Arm, 1024 for the fastest core).
    """
    slow = _efficiency_cores(system)
    if not slow or not cpus:
        return None
    allowed = slow & set(cpus)
    return PERFORMANCE if not allowed else EFFICIENCY if allowed == set(cpus) else MIXED


def _efficiency_cores(system: Path) -> set[int]:
    try:
        return _listed((system / "devices/cpu_atom/cpus").read_text())
    except (OSError, ValueError):
        pass
    capacities = {}
    for path in (system / "devices/system/cpu").glob("cpu[0-9]*/cpu_capacity"):
        try:
            capacities[int(path.parent.name.removeprefix("cpu"))] = int(path.read_text())
        except (OSError, ValueError):
            continue
    fastest = max(capacities.values(), default=0)
    return {cpu for cpu, capacity in capacities.items() if capacity < fastest}


def _listed(text: str) -> set[int]:
    """Return the numbers of a list such as ``8-15,20``."""
    ranges = (part.partition("-") for part in text.strip().split(",") if part)
    return {cpu for first, _, last in ranges for cpu in range(int(first), int(last or first) + 1)}
