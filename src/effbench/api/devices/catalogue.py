"""What there is: targets, devices, and what can run on this machine."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effbench import deploy, process
from effbench.profiles import devices as declared
from effbench.schema import Device
from effbench.store import home as home_of


@dataclass(frozen=True)
class TargetStatus:
    """Whether a target can be used here. ``hardware`` says where its figures were measured so far."""

    name: str
    title: str
    state: str
    reason: str = ""
    next_step: str = ""
    precision: str = ""
    hardware: str = ""


@dataclass(frozen=True)
class Check:
    """One line of `doctor`: what was looked at, what was found, what to do about it."""

    what: str
    ok: bool
    found: str
    next_step: str = ""


def devices() -> list[Device]:
    """Return the known devices."""
    return list(declared.devices().values())


def targets() -> list[TargetStatus]:
    """Return every known target with its state: ``ready``, or ``missing`` (a package)."""
    rows = []
    for name, target in deploy.registered().items():
        reason = target.available()
        state, step = ("ready", "") if reason is None else ("missing", f"pip install 'effbench[{target.extra}]'")
        rows.append(TargetStatus(name, target.title, state, reason or "", step, target.precision))
    return rows


def doctor(out: str | Path | None = None) -> list[Check]:
    """Look at what can run here, what is missing, and what would spoil a measurement.

    Each runtime is loaded in a process of its own, so that a broken one is found and breaks nothing.
    """
    checks = [_python(), _writable(home_of(out))]
    (answer,) = process.run("effbench.device.agent", {"op": "observe"}, time_limit_s=60)
    for row in targets():
        checks.append(_target(row))
    return checks + machine_checks(answer["environment"])


def _target(row: TargetStatus) -> Check:
    found = row.reason or _loads(row.name)
    license_text = deploy.get(row.name).license
    text = f"{found}; {license_text}" if license_text and not row.reason else found
    return Check(f"target {row.name}", row.state == "ready", text, row.next_step)


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    return Check(
        "Python", sys.version_info >= (3, 10), version, "" if sys.version_info >= (3, 10) else "use 3.10 or newer"
    )


def _writable(home: Path) -> Check:
    existing = next(folder for folder in (home.resolve(), *home.resolve().parents) if folder.exists())
    import os
    import shutil

    free = shutil.disk_usage(existing).free / 2**30
    ok = os.access(existing, os.W_OK) and free > 1
    step = "" if ok else "choose another folder with --out, or free some space"
    return Check(f"folder {home}", ok, f"{free:.1f} GiB free" if os.access(existing, os.W_OK) else "not writable", step)


def _loads(name: str) -> str:
    from effbench.errors import EffbenchError, UnavailableError

    try:
        (answer,) = process.run("effbench.device.agent", {"op": "load", "target": name}, time_limit_s=120)
    except UnavailableError as error:
        return error.message
    except EffbenchError as error:
        return f"installed, but does not load: {error.message}"
    return f"loads ({', '.join(f'{key} {value}' for key, value in answer['versions'].items())})"


def machine_checks(environment: dict[str, Any]) -> list[Check]:
    """Say what of a machine's state would spoil a measurement: other load, a governor that saves power."""
    load = environment.get("load_average_1m")
    cores = environment.get("cores_online") or 1
    checks = [Check("processor", True, f"{environment.get('cpu_model')}, {cores} cores")]
    if load is not None:
        busy = load > 0.3 * cores
        checks.append(
            Check("other load", not busy, f"load average {load:.2f}", "wait until other work is done" if busy else "")
        )
    governor = environment.get("governor")
    if governor is not None:
        fine = governor == "performance"
        step = "" if fine else "cpupower frequency-set -g performance (needs root; effbench never changes it)"
        checks.append(Check("frequency governor", fine, str(governor), step))
    return checks
