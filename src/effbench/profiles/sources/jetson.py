"""Jetson: power mode, clocks and temperatures from files, and the text of tegrastats.

Written from NVIDIA's documentation and from recorded files; not run on a Jetson so far.

StateSource: Jetson Linux Developer Guide, *Platform Power and Performance* (nvpmodel, tegrastats).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from effbench.profiles.sources import Silent, Value, number, text

GPU = re.compile(r"\.(gpu|gp10b|gv11b|ga10b|gb10b)$")
"""Names of the GPU among the devfreq devices: by its role or by its chip."""


class Jetson(Silent):
    """The state from nvpmodel, devfreq and the thermal zones of a Tegra; empty on other machines."""

    name = "jetson"

    def state(self, root: Path) -> Mapping[str, Value]:
        """Return power mode, GPU and memory clocks, and the temperatures by zone."""
        board = (text(root / "proc/device-tree/compatible") or "").lower()
        if "tegra" not in board:
            return {}
        values: dict[str, Value] = {"power_mode": power_mode(root)}
        for device in sorted((root / "sys/class/devfreq").glob("*")):
            if GPU.search(device.name):
                values["gpu_mhz"] = number(device / "cur_freq", 1e-6)
                values["gpu_mhz_min"] = number(device / "min_freq", 1e-6)
                values["gpu_mhz_max"] = number(device / "max_freq", 1e-6)
        memory = root / "sys/kernel/debug/bpmp/debug/clk/emc/rate"
        values["memory_mhz"] = number(memory, 1e-6)
        for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
            name, degrees = text(zone / "type"), number(zone / "temp", 1e-3)
            if name and degrees is not None:
                values[f"temperature_{name.removesuffix('-thermal')}_c"] = degrees
        return {key: value for key, value in values.items() if value is not None}


def power_mode(root: Path) -> str | None:
    """Return the power mode by number and name, such as ``0 (MAXN)``."""
    status = text(root / "var/lib/nvpmodel/status")
    chosen = re.search(r"pmode:\s*(\d+)", status or "")
    if chosen is None:
        return None
    number_ = int(chosen[1])
    names = re.findall(r"<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=([^\s>]+)", text(root / "etc/nvpmodel.conf") or "")
    name = next((name for index, name in names if int(index) == number_), None)
    return f"{number_} ({name})" if name else str(number_)


def tegrastats(line: str) -> dict[str, float]:
    """Read one line of tegrastats.

    Returns:
        ``gpu_pct`` and ``gpu_mhz``, ``memory_mhz``, ``cpu_mhz`` (the highest core), ``temperature_NAME_c``, and the
        present power of each rail, ``power_NAME_w``; a value missing in the line is absent.
    """
    values: dict[str, float] = {}
    if gpu := re.search(r"GR3D_FREQ (\d+)%(?:@\[?(\d+))?", line):
        values["gpu_pct"] = float(gpu[1])
        if gpu[2]:
            values["gpu_mhz"] = float(gpu[2])
    if memory := re.search(r"EMC_FREQ \d+%@(\d+)", line):
        values["memory_mhz"] = float(memory[1])
    cores = [
        float(mhz)
        for mhz in re.findall(r"(?<!\d)\d{1,9}%@(\d+)", (re.search(r"CPU \[([^\]]{0,4000})\]", line) or [""] * 2)[1])
    ]
    if cores:
        values["cpu_mhz"] = max(cores)
    for name, degrees in re.findall(r"\b(\w{1,64})@(-?[\d.]{1,20})C\b", line):
        if float(degrees) > -250:  # -256 marks a sensor that is off
            values[f"temperature_{name.lower()}_c"] = float(degrees)
    for rail, milliwatts in re.findall(r"\b(\w{1,64}) (\d+)mW/\d+mW", line):
        values[f"power_{rail}_w"] = float(milliwatts) / 1000
    return values


SOURCE = Jetson()
