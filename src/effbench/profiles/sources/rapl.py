"""Running totals of energy of Intel and AMD processors (RAPL), if the user may read them.

StateSource: the kernel's documentation of the power capping framework (Documentation/power/powercap/powercap.rst).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from effbench.profiles.sources import Silent, Total, number, text


class Rapl(Silent):
    """``/sys/class/powercap``: since 2020, only root may read it on most systems."""

    name = "rapl"

    def energy(self, root: Path) -> Mapping[str, Total]:
        """Return the totals by zone, such as ``package-0`` or ``dram``; subzones are parts of their zone."""
        totals = {}
        for zone in sorted((root / "sys/class/powercap").glob("intel-rapl:*")):
            name, joules = text(zone / "name"), number(zone / "energy_uj", 1e-6)
            if name and joules is not None:
                label = name if name not in totals else f"{name}-{zone.name.partition(':')[2]}"
                totals[label] = Total(joules, number(zone / "max_energy_range_uj", 1e-6))
        return totals


SOURCE = Rapl()
