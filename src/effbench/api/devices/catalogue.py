"""What there is: targets, devices, and what can run on this machine."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effbench import deploy, process
from effbench.device import AGENT
from effbench.errors import EffbenchError, UnavailableError
from effbench.profiles import devices as declared
from effbench.schema import Device
from effbench.store import home as home_of

MIN_PYTHON = (3, 10)


@dataclass(frozen=True)
class TargetStatus:
    """Whether artifacts for a target can be exported here. ``hardware`` says where its figures were measured so far."""

    name: str
    title: str
    state: str
    reason: str = ""
    next_step: str = ""
    precision: str = ""
    hardware: str = ""


@dataclass(frozen=True)
class Check:
    """One line of `doctor`: its subject, the result, and what to do if it is not ok."""

    subject: str
    ok: bool
    result: str
    next_step: str = ""


def devices() -> list[Device]:
    """Return the known devices."""
    return list(declared.devices().values())


def targets() -> list[TargetStatus]:
    """Return every known target with its state: ``ready``, or ``missing`` (a package)."""
    rows = []
    for name, target in deploy.registered().items():
        reason = target.available()
        state, step = ("ready", "") if reason is None else ("missing", target.install_command)
        rows.append(TargetStatus(name, target.title, state, reason or "", step, target.precision))
    return rows


def doctor(out: str | Path | None = None) -> list[Check]:
    """Check what can run here, what is missing, and what would disturb a measurement.

    Each runtime is loaded in a separate process, so that a broken one is reported and affects nothing else.
    """
    checks = [_python(), _folder(home_of(out))]
    answer = process.single(process.run(AGENT, {"op": "observe"}, time_limit_s=60))
    for row in targets():
        checks.append(_target(row))
    return checks + machine_checks(answer["environment"])


def _target(row: TargetStatus) -> Check:
    result = row.reason or _load(row.name)
    license_text = deploy.get(row.name).license
    text = f"{result}; {license_text}" if license_text and not row.reason else result
    return Check(f"target {row.name}", row.state == "ready", text, row.next_step)


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    recent = sys.version_info >= MIN_PYTHON
    return Check("Python", recent, version, "" if recent else "use 3.10 or newer")


def _folder(home: Path) -> Check:
    existing = next(folder for folder in (home.resolve(), *home.resolve().parents) if folder.exists())
    free_gib = shutil.disk_usage(existing).free / 2**30
    writable = os.access(existing, os.W_OK)
    ok = writable and free_gib > 1
    step = "" if ok else "choose another folder with --out, or free some space"
    return Check(f"folder {home}", ok, f"{free_gib:.1f} GiB free" if writable else "not writable", step)


def _load(name: str) -> str:
    try:
        answer = process.single(process.run(AGENT, {"op": "load", "target": name}, time_limit_s=120))
    except UnavailableError as error:
        return error.message
    except EffbenchError as error:
        return f"installed, but does not load: {error.message}"
    return f"loads ({', '.join(f'{key} {value}' for key, value in answer['versions'].items())})"


def machine_checks(environment: dict[str, Any]) -> list[Check]:
    """Check what in a machine's state would disturb a measurement: other load, a governor that saves power."""
    load = environment.get("load_average_1m")
    cores = environment.get("cores_online") or 1
    checks = [Check("processor", True, f"{environment.get('cpu_model')}, {cores} cores")]
    if load is not None:
        busy = load > 0.3 * cores
        checks.append(
            Check("other load", not busy, f"load average {load:.2f}", "wait until other work is done" if busy else "")
        )
    telemetry = environment.get("telemetry")
    if telemetry is not None:
        off = telemetry == "off"
        checks.append(Check("telemetry", off, str(telemetry), "" if off else "docs/threat-model.md lists the switches"))
    governor = environment.get("governor")
    if governor is not None:
        fast = governor == "performance"
        step = "" if fast else "cpupower frequency-set -g performance (needs root; effbench never changes it)"
        checks.append(Check("frequency governor", fast, str(governor), step))
    return checks
