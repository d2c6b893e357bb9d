"""Power sensors of boards (INA and others, by hwmon) and batteries (by power_supply).

StateSource: the kernel's documentation of hwmon (sysfs-interface.rst, ina3221.rst) and of the power supply class.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from effbench.profiles.sources import Silent, Value, number, text


class Sensors(Silent):
    """Power from the kernel's drivers; rails keep the board's names."""

    name = "sensors"

    def state(self, root: Path) -> Mapping[str, Value]:
        """Return whether the machine runs on mains or battery, and the charge of the battery."""
        supplies = [(text(path / "type") or "", path) for path in sorted((root / "sys/class/power_supply").glob("*"))]
        mains = [number(path / "online") for kind, path in supplies if kind in ("Mains", "USB", "UPS")]
        batteries = [path for kind, path in supplies if kind == "Battery"]
        values: dict[str, Value] = {}
        if batteries:
            discharging = all(text(path / "status") == "Discharging" for path in batteries)
            values["power_source"] = "battery" if discharging or (mains and not any(mains)) else "mains"
            values["battery_pct"] = number(batteries[0] / "capacity")
        elif any(mains):
            values["power_source"] = "mains"
        return values

    def power_w(self, root: Path) -> Mapping[str, float]:
        """Return watts by rail; a discharging battery gives the power of the whole device."""
        power = dict(_rails(root))
        for path in sorted((root / "sys/class/power_supply").glob("*")):
            if text(path / "type") != "Battery" or text(path / "status") != "Discharging":
                continue
            watts = number(path / "power_now", 1e-6)
            volts, amperes = number(path / "voltage_now", 1e-6), number(path / "current_now", 1e-6)
            if watts is None and volts is not None and amperes is not None:
                watts = abs(volts * amperes)
            if watts:
                power[f"battery-{path.name}"] = watts
        return power


def _rails(root: Path) -> Iterator[tuple[str, float]]:
    for chip in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        name = text(chip / "name") or chip.name
        for sensor in sorted(chip.glob("power*_input")):
            watts = number(sensor, 1e-6)
            if watts is not None:
                yield _label(chip, sensor.name.removesuffix("_input"), name), watts
        # The INA3221 reports no power, only voltage and current of each channel.
        for sensor in sorted(chip.glob("curr*_input")) if name.startswith("ina3221") else ():
            channel = sensor.name.removeprefix("curr").removesuffix("_input")
            volts, amperes = number(chip / f"in{channel}_input", 1e-3), number(sensor, 1e-3)
            label = text(chip / f"in{channel}_label")
            if volts is not None and amperes is not None and label and not label.startswith("sum"):
                yield label, volts * amperes


def _label(chip: Path, sensor: str, name: str) -> str:
    return text(chip / f"{sensor}_label") or f"{name}-{sensor}"


SOURCE = Sensors()
