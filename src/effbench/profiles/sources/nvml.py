"""NVIDIA GPUs through NVML: clocks, power, temperature, throttle reasons, and the running total of energy.

Written from NVIDIA's documentation; NVML loads on machines with the driver alone (package ``nvidia-ml-py``).

StateSource: NVML API reference (device queries, clocks event reasons).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from effbench.profiles.sources import Silent, Total, Value

REASONS = {
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x20: "thermal (software)",
    0x40: "thermal (hardware)",
    0x80: "power brake",
    0x200: "board limit",
    0x400: "reliability",
}
"""Bits that slow a GPU down; idling, set clocks and display clocks are ignored."""
THERMAL = 0x8 | 0x20 | 0x40


class Nvml(Silent):
    """State and energy of the GPUs: ``gpu``, ``gpu1``, ``gpu2``, ..."""

    name = "nvml"

    def state(self, root: Path) -> Mapping[str, Value]:
        """Return clocks, limits, temperature, performance state and throttle reasons of the GPUs."""
        with _devices(root) as (nvml, handles):
            values: dict[str, Value] = {}
            for index, handle in enumerate(handles):
                prefix = "gpu" if index == 0 else f"gpu{index}"
                values |= {f"{prefix}_{key}": value for key, value in _facts(nvml, handle).items()}
                bits = _ask(nvml, nvml.nvmlDeviceGetCurrentClocksThrottleReasons, handle)
                if bits is not None and index == 0:
                    values |= reasons(int(bits))
            return values

    def energy(self, root: Path) -> Mapping[str, Total]:
        """Return the energy since the driver was loaded, in joules."""
        with _devices(root) as (nvml, handles):
            totals = [_ask(nvml, nvml.nvmlDeviceGetTotalEnergyConsumption, handle) for handle in handles]
        named = {("gpu" if index == 0 else f"gpu{index}"): total for index, total in enumerate(totals)}
        return {name: Total(total / 1e3) for name, total in named.items() if total is not None}


def reasons(bits: int) -> dict[str, Value]:
    """Return thermal status and throttle reasons from the bits of the clocks' event reasons."""
    named = ", ".join(name for bit, name in REASONS.items() if bits & bit)
    return {"thermal_status": "throttled" if bits & THERMAL else "ok", "throttle_reasons": named or None}


def _facts(nvml: Any, handle: Any) -> dict[str, Value]:
    queries: dict[str, tuple[Callable[..., Any], tuple[Any, ...], float]] = {
        "name": (nvml.nvmlDeviceGetName, (), 0),
        "mhz": (nvml.nvmlDeviceGetClockInfo, (nvml.NVML_CLOCK_SM,), 1),
        "mhz_max": (nvml.nvmlDeviceGetMaxClockInfo, (nvml.NVML_CLOCK_SM,), 1),
        "memory_mhz": (nvml.nvmlDeviceGetClockInfo, (nvml.NVML_CLOCK_MEM,), 1),
        "temperature_c": (nvml.nvmlDeviceGetTemperature, (nvml.NVML_TEMPERATURE_GPU,), 1),
        "power_w": (nvml.nvmlDeviceGetPowerUsage, (), 1e-3),
        "power_limit_w": (nvml.nvmlDeviceGetEnforcedPowerLimit, (), 1e-3),
        "performance_state": (nvml.nvmlDeviceGetPerformanceState, (), 1),
    }
    answers = {key: (_ask(nvml, query, handle, *more), factor) for key, (query, more, factor) in queries.items()}
    return {key: value * factor if factor else value for key, (value, factor) in answers.items() if value is not None}


def _ask(nvml: Any, query: Callable[..., Any], *arguments: Any) -> Any:
    # A query may not be supported by a GPU; then the value is unknown.
    try:
        return query(*arguments)
    except nvml.NVMLError:
        return None


@contextlib.contextmanager
def _devices(root: Path) -> Iterator[tuple[Any, list[Any]]]:
    """Yield NVML and the handles of the GPUs; no handles without the driver or the package."""
    if not (root / "dev/nvidiactl").exists() or find_spec("pynvml") is None:
        yield _Nothing(), []
        return
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield _Nothing(), []
        return
    try:
        yield pynvml, [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
    finally:
        pynvml.nvmlShutdown()


class _Nothing:
    """A stand-in for NVML if it is absent: it has every attribute, and there is no GPU to query."""

    def __getattr__(self, name: str) -> None:
        return None


SOURCE = Nvml()
