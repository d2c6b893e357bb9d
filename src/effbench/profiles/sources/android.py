"""Android: thermal status, temperatures and battery, from the text of dumpsys.

There is no source here: no Python runs on the phone, so that its host asks ``adb shell`` and hands the text over.
Written from Android's documentation and from texts as users published them; not run on a phone so far.

Source: Android documentation of PowerManager (thermal status) and of the thermal HAL (temperature types).
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
"""What to ask the phone's shell, by the name under which `parse` takes the answer."""

STATUS = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")
TYPES = {0: "cpu", 1: "gpu", 2: "battery", 3: "skin", 9: "npu"}


def parse(answers: Mapping[str, str]) -> dict[str, Value]:
    """Read the answers to `QUESTIONS`; what a phone does not tell is absent.

    Returns:
        ``thermal_status``, ``temperature_NAME_c`` (the hottest sensor of each kind), ``power_source``, ``battery_pct``,
        ``governor``.
    """
    found: dict[str, Value] = {}
    thermal = answers.get("thermal", "")
    if status := re.search(r"Thermal Status:\s*(\d+)", thermal):
        index = int(status[1])
        found["thermal_status"] = STATUS[index] if index < len(STATUS) else status[1]
    # Cached values may be hours old; only those of the HAL are of now.
    now = thermal.partition("Current temperatures from HAL:")[2].partition("Current cooling devices")[0]
    for degrees, kind in re.findall(r"mValue=(-?[\d.]+), mType=(-?\d+)", now):
        name = TYPES.get(int(kind))
        if name and float(degrees) > 0:
            key = f"temperature_{name}_c"
            found[key] = max(float(degrees), float(found.get(key) or 0.0))
    battery = answers.get("battery", "")
    powered = re.findall(r"(?:AC|USB|Wireless|Dock) powered:\s*(true|false)", battery)
    if powered:
        found["power_source"] = "mains" if "true" in powered else "battery"
    if level := re.search(r"^\s*level:\s*(\d+)", battery, re.MULTILINE):
        found["battery_pct"] = int(level[1])
    governors = sorted(set(answers.get("governors", "").split()))
    if governors and all(re.fullmatch(r"[\w-]+", name) for name in governors):
        found["governor"] = "/".join(governors)
    return found
