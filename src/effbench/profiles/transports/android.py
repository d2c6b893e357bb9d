"""Commands for an Android device: the runners' arguments, and its battery, thermal status and governor.

Sources: LiteRT's benchmark_model (developers.google.com/edge/litert/models/measurement), onnxruntime_perf_test
(onnxruntime/test/perftest/README.md), qnn-net-run (Qualcomm AI Engine Direct, "qnn-net-run"); Android's ``dumpsys
battery`` and ``dumpsys thermalservice``. Written from documentation.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from effbench.errors import MeasurementError, UnavailableError
from effbench.profiles.vendors import Reading
from effbench.schema import FORMAT_VERSION

RUNNERS = {"litert": "LiteRT's benchmark_model", "onnxruntime": "onnxruntime_perf_test", "qnn": "qnn-net-run"}
TARGETS = {"litert": "litert", "ort": "onnxruntime", "qnn": "qnn"}

THERMAL = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")
"""Android's thermal status 0 to 6 (android.os.PowerManager.THERMAL_STATUS_*)."""

Shell = Callable[[Sequence[str]], str]


@dataclass(frozen=True)
class Plan:
    """A run of a vendor's program: its arguments, its environment, and the file with its times, or an empty string."""

    runner: str
    command: tuple[str, ...]
    env: dict[str, str] = field(default_factory=dict)
    result: str = ""


def runner_of(target: str) -> str:
    """Return the program that times a target's artifacts on Android.

    Raises:
        UnavailableError: No program does.
    """
    if target not in TARGETS:
        raise UnavailableError(
            f"No runner times target '{target}' on Android.", hint=f"Runners exist for: {', '.join(TARGETS)}"
        )
    return TARGETS[target]


def plan(runner: str, folder: str, job: Mapping[str, Any], settings: Mapping[str, str]) -> Plan:
    """Return how a runner measures one round of an artifact.

    Args:
        runner: One of `RUNNERS`.
        folder: Its folder on the device, with its libraries.
        job: The agent's job: artifact, entry, threads, min_samples, round_seconds.
        settings: Those of the device.
    """
    model = f"{job['artifact']}/{job['entry']}"
    threads, runs = str(job.get("threads") or settings.get("threads", 1)), max(int(job["min_samples"]), 20)
    env = {"LD_LIBRARY_PATH": folder}
    if runner == "litert":
        command = (f"--graph={model}", f"--num_threads={threads}", f"--num_runs={runs}", "--use_xnnpack=true")
        seconds = max(float(job["round_seconds"]), 1.0)
        return Plan(runner, (f"{folder}/litert", *command, f"--min_secs={seconds:.1f}"), env)
    if runner == "onnxruntime":
        result = f"{job['artifact']}/times.csv"
        options = ("-m", "times", "-r", str(runs), "-x", threads, "-y", "1", "-I", "-e", "cpu")
        return Plan(runner, (f"{folder}/onnxruntime", *options, model, result), env, result)
    output = f"{job['artifact']}/output"
    context = next((name for name in job.get("files", ()) if name.endswith(".bin")), job["entry"])
    backend = ("--backend", f"{folder}/libQnnHtp.so", "--profiling_level", "basic")
    loaded = ("--retrieve_context", f"{job['artifact']}/{context}")
    inputs = ("--input_list", f"{job['artifact']}/input_list.txt", "--num_inferences", str(runs))
    env["ADSP_LIBRARY_PATH"] = folder
    log = f"{output}/qnn-profiling-data_0.log"
    return Plan(runner, (f"{folder}/qnn", *backend, *loaded, *inputs, "--output_dir", output), env, log)


def pin(item: Plan, mask: str) -> Plan:
    """Return the plan on the cores of a mask (toybox's ``taskset MASK COMMAND``)."""
    return replace(item, command=("taskset", mask, *item.command))


def facts(shell: Shell) -> dict[str, Any]:
    """Query a device for its build, processor and state; an unknown value is absent."""
    values: dict[str, Any] = {
        "machine": _one(shell, ["getprop", "ro.product.cpu.abi"]),
        "model": _one(shell, ["getprop", "ro.product.model"]),
        "soc": _one(shell, ["getprop", "ro.soc.model"]),
        "release": _one(shell, ["getprop", "ro.build.version.release"]),
        "governor": _one(shell, ["cat", "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"]),
        **battery(_one(shell, ["dumpsys", "battery"], all_lines=True) or ""),
        **thermal(_one(shell, ["dumpsys", "thermalservice"], all_lines=True) or ""),
    }
    free = re.search(
        r"\s(\d{1,18})\s{1,40}\d{1,3}%", _one(shell, ["df", "-k", "/data/local/tmp"], all_lines=True) or ""
    )
    if free:
        values["free_bytes"] = int(free[1]) * 1024
    return {key: value for key, value in values.items() if value is not None}


def _one(shell: Shell, command: Sequence[str], all_lines: bool = False) -> str | None:
    # A vendor's build may lack a file or a service; then the value is unknown.
    try:
        text = shell(command).strip()
    except MeasurementError:
        return None
    return (text if all_lines else text.splitlines()[0].strip()) if text else None


def battery(text: str) -> dict[str, Any]:
    """Read ``dumpsys battery``: charge in percent, temperature (in tenths of a degree), and the power source."""
    level, temperature = (
        re.search(r"^[ \t]*level: (\d{1,9})", text, re.M),
        re.search(r"^[ \t]*temperature: (\d{1,9})", text, re.M),
    )
    powered = re.findall(r"^[ \t]*(AC|USB|Wireless|Dock) powered: true", text, re.M)
    values: dict[str, Any] = {}
    if level:
        values["battery_pct"] = int(level[1])
        values["power_source"] = powered[0].lower() if powered else "battery"
    if temperature:
        values["battery_temperature_c"] = int(temperature[1]) / 10
    return values


def thermal(text: str) -> dict[str, Any]:
    """Read ``dumpsys thermalservice``: the status 0 (none) to 6 (shutdown), and the hottest skin sensor."""
    status = re.search(r"Thermal Status: (\d)", text)
    skin = [float(value) for value in re.findall(r"mValue=(\d{1,6}(?:\.\d{1,12})?), mType=3,", text)]
    values: dict[str, Any] = {"thermal_status": int(status[1])} if status else {}
    if skin:
        values["temperature_c"] = max(skin)
    return values


def environment(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return facts under the keys of `environment.observe`, which reports and comparisons use."""
    status = values.get("thermal_status")
    return {
        "cpu_model": values.get("soc") or values.get("model"),
        "machine": values.get("machine"),
        "os": f"Android {values['release']}" if "release" in values else None,
        "governor": values.get("governor"),
        "temperature_c": values.get("temperature_c"),
        "thermal_status": None if status is None else THERMAL[status],
        "battery_pct": values.get("battery_pct"),
        "battery_temperature_c": values.get("battery_temperature_c"),
        "power_source": values.get("power_source"),
        "runtime": None,
    }


def round_of(reading: Reading) -> dict[str, Any]:
    """Return a reading in the form of an agent's round."""
    return {
        "format": FORMAT_VERSION,
        "samples_ns": list(reading.samples_ns),
        "warmup": reading.warmup,
        "stationary": True,
        "load_ms": reading.load_ms,
        "first_ms": reading.first_ms,
        "peak_rss_bytes": 0,
        "observed": dict(reading.observed),
    }
