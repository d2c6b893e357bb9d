"""macOS: thermal pressure, power source and low power mode, from the output of system tools.

Written from Apple's manual pages and from recorded outputs; not run on a Mac so far.

StateSource: manual pages pmset(1) and notifyutil(1); thermal pressure levels from OSThermalNotification.h.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from effbench.profiles.sources import Silent, Value

PRESSURE = ("nominal", "moderate", "heavy", "trapping", "sleeping")
LIMIT_S = 5.0


class MacOs(Silent):
    """The state from pmset and notifyutil; empty on other systems."""

    name = "macos"

    def state(self, root: Path) -> Mapping[str, Value]:
        """Return thermal status, power source and power mode."""
        if sys.platform != "darwin":
            return {}
        pressure = _say("notifyutil", "-g", "com.apple.system.thermalpressurelevel")
        return parse(pressure, _say("pmset", "-g", "therm"), _say("pmset", "-g", "batt"), _say("pmset", "-g"))


def parse(pressure: str, therm: str, batt: str, settings: str) -> dict[str, Value]:
    """Read the texts of ``notifyutil -g``, ``pmset -g therm``, ``pmset -g batt`` and ``pmset -g``."""
    state: dict[str, Value] = {}
    if level := re.search(r"thermalpressurelevel\s+(\d+)", pressure):
        index = int(level[1])
        state["thermal_status"] = PRESSURE[index] if index < len(PRESSURE) else level[1]
    if limit := re.search(r"CPU_Speed_Limit\s*=\s*(\d+)", therm):
        state["cpu_speed_limit_pct"] = int(limit[1])
        if int(limit[1]) < 100:
            state["throttle_reasons"] = f"CPU speed limit {limit[1]} %"
    if source := re.search(r"drawing from '(AC|Battery) Power'", batt):
        state["power_source"] = "mains" if source[1] == "AC" else "battery"
    if mode := re.search(r"^[ \t]*(?:lowpowermode|powermode)\s+(\d)", settings, re.MULTILINE):
        state["power_mode"] = {"0": "normal", "1": "low power", "2": "high power"}.get(mode[1], mode[1])
    return state


def _say(*command: str) -> str:
    try:
        process = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return process.stdout


SOURCE = MacOs()
