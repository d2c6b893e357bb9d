"""Android: thermal status, temperatures and battery, from the text of dumpsys.

This is not a source: no Python runs on the phone, so its host calls ``adb shell`` and passes the text.
Written from Android's documentation and from published outputs; not run on a phone so far.

StateSource: Android documentation of PowerManager (thermal status) and of the thermal HAL (temperature types).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from effbench.profiles.sources import Value

QUESTIONS: dict[str, tuple[str, ...]] = {
    "thermal": ("dumpsys", "thermalservice"),
    "battery": ("dumpsys", "battery"),
    "governors": ("cat", "/sys/devices/system/cpu/cpufreq/policy*/scaling_governor"),
}
"""Commands for the phone's shell, by the name under which `parse` expects their output."""

STATUS = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")
TYPES = {0: "cpu", 1: "gpu", 2: "battery", 3: "skin", 9: "npu"}


def parse(answers: Mapping[str, str]) -> dict[str, Value]:
    """Read the answers to `QUESTIONS`; an unknown value is absent.

    Returns:
        ``thermal_status``, ``temperature_NAME_c`` (the hottest sensor of each kind), ``power_source``, ``battery_pct``,
        ``governor``.
    """
    state: dict[str, Value] = {}
    thermal = answers.get("thermal", "")
    if status := re.search(r"Thermal Status:\s*(\d+)", thermal):
        index = int(status[1])
        state["thermal_status"] = STATUS[index] if index < len(STATUS) else status[1]
    # Cached values may be hours old; only those of the HAL are current.
    now = thermal.partition("Current temperatures from HAL:")[2].partition("Current cooling devices")[0]
    for degrees, kind in re.findall(r"mValue=(-?[\d.]+), mType=(-?\d+)", now):
        name = TYPES.get(int(kind))
        if name and float(degrees) > 0:
            key = f"temperature_{name}_c"
            state[key] = max(float(degrees), float(state.get(key) or 0.0))
    battery = answers.get("battery", "")
    powered = re.findall(r"(?:AC|USB|Wireless|Dock) powered:\s*(true|false)", battery)
    if powered:
        state["power_source"] = "mains" if "true" in powered else "battery"
    if level := re.search(r"^[ \t]*level:\s*(\d+)", battery, re.MULTILINE):
        state["battery_pct"] = int(level[1])
    governors = sorted(set(answers.get("governors", "").split()))
    if governors and all(re.fullmatch(r"[\w-]+", name) for name in governors):
        state["governor"] = "/".join(governors)
    return state
