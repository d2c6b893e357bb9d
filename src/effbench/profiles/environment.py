"""The state of the machine: facts and settings around a measurement, and counters during it.

Everything is read from files (Linux first). An unreadable value is None in `observe` and absent from the counters.
This module runs on devices and does not need numpy.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from effbench.boundary import quiet
from effbench.profiles import cores, sources

Value = str | int | float | None

PROC = Path("/proc")
SYS = Path("/sys")

_CPUFREQ = "devices/system/cpu/cpu{}/cpufreq/{}"
_UNLIMITED_BYTES = 1 << 60
"""cgroup v1 writes 'no limit' as a number near 2**63."""


def observe(packages: Iterable[str] = ()) -> dict[str, Value]:
    """Return the facts and settings that a latency depends on, in a few milliseconds.

    Args:
        packages: Distributions of the runtime; with their versions they become ``runtime``.

    Returns:
        Keys with units in their names. Every key exists on every machine; an unreadable value is None.
    """
    cpus = _allowed_cpus()
    return {
        **identity(),
        "cores_online": os.cpu_count(),
        "core_type": cores.core_type(SYS, cpus),
        "cores_allowed": len(cpus) if cpus else os.cpu_count(),
        "governor": _agreed(SYS / _CPUFREQ.format(cpu, "scaling_governor") for cpu in cpus),
        "cpu_mhz": cpu_mhz(),
        "cpu_mhz_min": _scaled(SYS / _CPUFREQ.format(0, "cpuinfo_min_freq"), 1e-3),
        "cpu_mhz_max": _scaled(SYS / _CPUFREQ.format(0, "cpuinfo_max_freq"), 1e-3),
        "turbo": _turbo(),
        "temperature_c": temperature_c(),
        "load_average_1m": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "cgroup_cpus": _cgroup_cpus(),
        "cgroup_memory_bytes": _cgroup_memory_bytes(),
        "memory_bytes": _meminfo("MemTotal"),
        "memory_available_bytes": _meminfo("MemAvailable"),
        **sources.state(SYS.parent),
        "telemetry": quiet.state(),
        "numpy": _version("numpy"),
        "runtime": ", ".join(f"{name} {_version(name) or 'not installed'}" for name in packages) or None,
    }


def counters() -> dict[str, float]:
    """Return running totals; their change between two calls shows the other load on this machine.

    Keys: ``wall_s``, ``own_cpu_s``, and if readable ``busy_cpu_s`` and ``steal_s`` (all cores), ``run_delay_s``
    (time this process's threads were ready but not running), ``involuntary_switches``, ``pressure_s``, ``cpu_mhz``,
    ``temperature_c``, and the running totals of energy (``energy_NAME_j``).
    """
    readings: dict[str, float | None] = {
        "own_cpu_s": time.process_time(),
        **_cpu_times(),
        "run_delay_s": _run_delay_s(),
        "involuntary_switches": _involuntary_switches(),
        "pressure_s": _pressure_s(),
        "cpu_mhz": cpu_mhz(),
        "temperature_c": temperature_c(),
        "wall_s": time.perf_counter(),
    }
    return {key: value for key, value in readings.items() if value is not None} | sources.energy_counters(SYS.parent)


def changes(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """Turn two readings of `counters` into the ``observed`` of a `Round`; a key missing in either is absent.

    Keys: ``other_cpu_pct`` (CPU time of all other processes) and ``steal_pct``, both in percent of one core;
    ``run_delay_pct`` and ``pressure_pct`` in percent of wall time; ``involuntary_switches`` (a count), ``cpu_ratio``
    (own CPU time over wall time), ``wall_s``, ``energy_NAME_j``, and frequency and temperature before and after.
    """
    wall_s = max(after["wall_s"] - before["wall_s"], 1e-9)

    def rise(key: str) -> float | None:
        return after[key] - before[key] if key in before and key in after else None

    def percent(seconds: float | None) -> float | None:
        # Kernel ticks and this clock differ by up to a tick, which must not give a negative load.
        return None if seconds is None else max(100 * seconds / wall_s, 0.0)

    busy_s, own_s = rise("busy_cpu_s"), after["own_cpu_s"] - before["own_cpu_s"]
    values = {
        "wall_s": wall_s,
        "cpu_ratio": own_s / wall_s,
        "other_cpu_pct": percent(None if busy_s is None else busy_s - own_s),
        "steal_pct": percent(rise("steal_s")),
        "run_delay_pct": percent(rise("run_delay_s")),
        "pressure_pct": percent(rise("pressure_s")),
        "involuntary_switches": rise("involuntary_switches"),
        "cpu_mhz_before": before.get("cpu_mhz"),
        "cpu_mhz_after": after.get("cpu_mhz"),
        "temperature_before_c": before.get("temperature_c"),
        "temperature_after_c": after.get("temperature_c"),
    }
    readable = {key: float(value) for key, value in values.items() if value is not None}
    return readable | sources.energy_changes(before, after)


def cpu_mhz() -> float | None:
    """Return the highest current frequency of the cores of this machine, or None."""
    readings = [_scaled(SYS / _CPUFREQ.format(cpu, "scaling_cur_freq"), 1e-3) for cpu in _allowed_cpus()]
    frequencies = [value for value in readings if value is not None]
    if not frequencies:
        frequencies = [float(line.split(":")[1]) for line in _lines(PROC / "cpuinfo") if line.startswith("cpu MHz")]
    return max(frequencies, default=None)


def temperature_c() -> float | None:
    """Return the highest temperature of the thermal zones, or None."""
    zones = sorted((SYS / "class/thermal").glob("thermal_zone*/temp"))
    temperatures = [value for value in (_scaled(zone, 1e-3) for zone in zones) if value is not None]
    return max(temperatures, default=None)


def peak_rss_bytes() -> int:
    """Return the peak resident memory of this process, or 0 if the system does not report it.

    VmHWM takes precedence: ``ru_maxrss`` survives an exec, so a small process started by a large one would report the
    peak of its parent.
    """
    for line in _lines(PROC / "self/status"):
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return int(_usage("ru_maxrss") or 0) * (1 if sys.platform == "darwin" else 1024)


@cache
def identity() -> dict[str, Value]:
    """Return which machine this is: its processor, architecture, system and Python."""
    cpuinfo = _lines(PROC / "cpuinfo")

    def first(*names: str) -> str | None:
        fields = (line.partition(":") for line in cpuinfo)
        return next((value.strip() for key, _, value in fields if key.strip() in names and value.strip()), None)

    flags = (first("flags", "Features") or "").split()
    board = _text(PROC / "device-tree/model")
    return {
        # Arm kernels name no model; the board's name, or else the part number, distinguishes two machines.
        "cpu_model": first("model name")
        or (board and board.strip("\0"))
        or first("CPU part")
        or platform.processor()
        or None,
        "machine": platform.machine(),
        "os": platform.platform(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "virtualization": "hypervisor" if "hypervisor" in flags else None,
        "container": _container(),
    }


def _container() -> str | None:
    if Path("/.dockerenv").exists():
        return "docker"
    if Path("/run/.containerenv").exists():
        return "podman"
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        return "kubernetes"
    return os.environ.get("container")  # noqa: SIM112 - systemd and podman spell it so


@cache
def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _allowed_cpus() -> list[int]:
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def _turbo() -> str | None:
    boost = _text(SYS / "devices/system/cpu/cpufreq/boost")
    if boost is not None:
        return "on" if boost == "1" else "off"
    without = _text(SYS / "devices/system/cpu/intel_pstate/no_turbo")
    return None if without is None else ("off" if without == "1" else "on")


def _cgroup_folders(controller: str) -> list[Path]:
    """Return the folders whose limits apply to this process, innermost first: a parent limits its children."""
    root = SYS / "fs/cgroup"
    folders: list[Path] = []
    for line in _lines(PROC / "self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        # In a container the path may be the host's and not exist here; then the root is this container's group.
        base = root / controller if controllers else root
        inner = base / path.lstrip("/")
        folders += [folder for folder in (inner, *inner.parents) if folder == base or base in folder.parents]
    return folders


def _cgroup_cpus() -> float | None:
    limits = [limit for folder in _cgroup_folders("cpu") for limit in (_quota_v2(folder), _quota_v1(folder)) if limit]
    return min(limits, default=None)


def _quota_v2(folder: Path) -> float | None:
    quota, _, period = (_text(folder / "cpu.max") or "max").partition(" ")
    return None if quota == "max" else int(quota) / int(period)


def _quota_v1(folder: Path) -> float | None:
    quota, period = _scaled(folder / "cpu.cfs_quota_us", 1), _scaled(folder / "cpu.cfs_period_us", 1)
    return quota / period if quota and quota > 0 and period else None


def _cgroup_memory_bytes() -> int | None:
    names = ("memory.max", "memory.limit_in_bytes")
    texts = [_text(folder / name) for folder in _cgroup_folders("memory") for name in names]
    limits = [int(text) for text in texts if text and text.isdecimal()]
    return min((limit for limit in limits if limit < _UNLIMITED_BYTES), default=None)


def _meminfo(key: str) -> int | None:
    lines = (line for line in _lines(PROC / "meminfo") if line.startswith(f"{key}:"))
    return next((int(line.split()[1]) * 1024 for line in lines), None)


def _cpu_times() -> dict[str, float | None]:
    """Return the busy and stolen seconds of all cores together, from /proc/stat."""
    for line in _lines(PROC / "stat"):
        if line.startswith("cpu "):
            user, nice, system, _, _, irq, softirq, steal = (int(part) for part in line.split()[1:9])
            tick_s = 1 / os.sysconf("SC_CLK_TCK")
            return {"busy_cpu_s": (user + nice + system + irq + softirq) * tick_s, "steal_s": steal * tick_s}
    return {}


def _run_delay_s() -> float | None:
    # Per thread: /proc/self/schedstat covers the main thread only, and runtimes compute in other threads.
    texts = [_text(path) for path in PROC.glob("self/task/*/schedstat")]
    delays = [int(text.split()[1]) for text in texts if text]
    return sum(delays) / 1e9 if delays else None


def _involuntary_switches() -> float | None:
    return _usage("ru_nivcsw")


def _usage(field: str) -> float | None:
    """Return a field of ``getrusage`` for this process, or None on Windows, which has none."""
    try:
        import resource
    except ImportError:
        return None
    return float(getattr(resource.getrusage(resource.RUSAGE_SELF), field))


def _pressure_s() -> float | None:
    for line in _lines(PROC / "pressure/cpu"):
        if line.startswith("some "):
            return int(line.rpartition("total=")[2]) / 1e6
    return None


def _agreed(paths: Iterable[Path]) -> str | None:
    texts = sorted({text for text in map(_text, paths) if text})
    return "/".join(texts) or None


def _scaled(path: Path, factor: float) -> float | None:
    text = _text(path)
    try:
        return None if text is None else int(text) * factor
    except ValueError:
        return None


def _text(path: Path) -> str | None:
    # Sensors and threads come and go, and some files cannot be read: the value is unknown, never an error.
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None


def _lines(path: Path) -> list[str]:
    return (_text(path) or "").splitlines()
