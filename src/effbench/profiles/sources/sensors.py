"""Power sensors of boards (INA and others, by hwmon) and batteries (by power_supply).

Source: the kernel's documentation of hwmon (sysfs-interface.rst, ina3221.rst) and of the power supply class.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from effbench.profiles.sources import Silent, Value, number, text


class Sensors(Silent):
    """Whatever the kernel's drivers show, named as the board names its rails."""

    name = "sensors"

    def state(self, root: Path) -> Mapping[str, Value]:
        """Say whether the machine runs on mains or on its battery, and how full that is."""
        supplies = [(text(path / "type") or "", path) for path in sorted((root / "sys/class/power_supply").glob("*"))]
        mains = [number(path / "online") for kind, path in supplies if kind in ("Mains", "USB", "UPS")]
        batteries = [path for kind, path in supplies if kind == "Battery"]
        found: dict[str, Value] = {}
        if batteries:
            discharging = all(text(path / "status") == "Discharging" for path in batteries)
            found["power_source"] = "battery" if discharging or (mains and not any(mains)) else "mains"
            found["battery_pct"] = number(batteries[0] / "capacity")
        elif any(mains):
            found["power_source"] = "mains"
        return found

    def power_w(self, root: Path) -> Mapping[str, float]:
        """Return watts by rail; a battery tells what the whole device draws while it discharges."""
        found = dict(_rails(root))
        for path in sorted((root / "sys/class/power_supply").glob("*")):
            if text(path / "type") != "Battery" or text(path / "status") != "Discharging":
                continue
            watts = number(path / "power_now", 1e-6)
            volts, amperes = number(path / "voltage_now", 1e-6), number(path / "current_now", 1e-6)
            if watts is None and volts is not None and amperes is not None:
                watts = abs(volts * amperes)
            if watts:
                found[f"battery-{path.name}"] = watts
        return found


def _rails(root: Path) -> Iterator[tuple[str, float]]:
    for chip in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        name = text(chip / "name") or chip.name
        for sensor in sorted(chip.glob("power*_input")):
            watts = number(sensor, 1e-6)
            if watts is not None:
                yield _label(chip, sensor.name.removesuffix("_input"), name), watts
        # The INA3221 has no power of its own: volts and amperes of the same channel.
        for sensor in sorted(chip.glob("curr*_input")) if name.startswith("ina3221") else ():
            channel = sensor.name.removeprefix("curr").removesuffix("_input")
            volts, amperes = number(chip / f"in{channel}_input", 1e-3), number(sensor, 1e-3)
            label = text(chip / f"in{channel}_label")
            if volts is not None and amperes is not None and label and not label.startswith("sum"):
                yield label, volts * amperes


def _label(chip: Path, sensor: str, name: str) -> str:
    return text(chip / f"{sensor}_label") or f"{name}-{sensor}"


SOURCE = Sensors()
