"""Kits: a folder with artifacts and a run script, for the person who has a device."""

from __future__ import annotations

import json
import re
import secrets
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from effbench import deploy, drafts
from effbench.api.devices.kit_results import KitRecord, remember
from effbench.api.devices.request import KitRequest
from effbench.api.export.verification import reference_of
from effbench.api.keywords import from_fields
from effbench.api.profile.request import ProfileRequest
from effbench.api.profile.select import Selection
from effbench.boundary.names import check_name
from effbench.deploy.artifact import bundle
from effbench.device.agent_kit import OUTPUTS, PLAN, RESULT
from effbench.errors import DataError, UsageError
from effbench.profiles import devices, transports
from effbench.profiles.transports import adb, android
from effbench.profiles.transports.zipapp import agent
from effbench.schema import FORMAT_VERSION, Artifact, Cell, Device
from effbench.store import home as home_of

RUN = """#!/bin/sh
# Verifies and measures the artifacts in this folder, and writes {result}. Nothing is installed and nothing is sent.
cd -- "$(dirname -- "$0")" && exec "${{PYTHON:-python3}}" -I agent.pyz effbench.device.agent_kit
"""
PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*(?:/[A-Za-z0-9._+-]+)*")
"""Names in a kit: they become parts of scripts and paths."""

DRAFT = ".effbench-kit-"
"""How the drafts of kits begin, whatever the kit is called: the next kit beside one that was killed removes them."""

KIT_FOLDER = "/data/local/tmp/effbench-kit"
"""On the phone."""
MIN_SAMPLES, ROUND_SECONDS = 50, 2.0
"""Of a runner on a phone, which measures each artifact once."""


@dataclass(frozen=True)
class Kit:
    """A kit that was written: its folder, its artifacts, a cell for each that is missing, and the steps to take."""

    folder: Path
    artifacts: tuple[str, ...]
    cells: tuple[Cell, ...]
    steps: tuple[str, ...]


@from_fields(KitRequest)
def kit(request: KitRequest) -> Kit:
    """Write a folder with artifacts, a run script, expected outputs, and the command that imports the result.

    Arguments are the fields of `KitRequest`.

    Raises:
        UsageError: The folder exists already, or no artifact could be put into it.
        DataError: The folder cannot be written.
    """
    home, device = home_of(request.out), devices.get(request.device)
    folder = Path(request.to or f"kit-{device.name}")
    if folder.exists() or folder.is_symlink():
        raise UsageError(f"{folder} exists already.", hint="Name another with --to, or remove it.")
    artifacts, cells = _artifacts(request, home, device)
    steps = _steps(device, artifacts, home)
    try:
        with drafts.draft(folder.parent, DRAFT) as draft:
            _write(draft, artifacts, device, home, request)
            (draft / "README.txt").write_text("\n".join([f"effbench kit for {device.description}", "", *steps, ""]))
            draft.rename(folder)
    except OSError as error:
        raise DataError(f"Cannot write {folder}: {error.strerror}.", hint="Choose another folder with --to.") from error
    return Kit(folder, tuple(artifact.name for artifact in artifacts), tuple(cells), tuple(steps))


def _artifacts(request: KitRequest, home: Path, device: Device) -> tuple[list[Artifact], list[Cell]]:
    # The kit runs on another machine, so it does not matter whether this one could measure its artifacts.
    elsewhere = replace(device, transport=transports.NONE) if device.transport == "local" else device
    exports = ProfileRequest(
        request.names,
        request.resolutions,
        targets=request.targets,
        precision=request.precision,
        out=home,
        notify=request.notify,
    )
    artifacts, cells = Selection(exports, home, elsewhere, request.notify).choose()
    if not artifacts:
        reasons = "; ".join(cell.reason for cell in cells)
        raise UsageError(f"There is nothing to put into a kit for '{request.device}': {reasons}.")
    return artifacts, cells


def _write(folder: Path, artifacts: Sequence[Artifact], device: Device, home: Path, request: KitRequest) -> None:
    (folder / "reference").mkdir(parents=True)
    entries = []
    for artifact in artifacts:
        name = check_name(artifact.name, "the name of an artifact in a kit")
        _copy(artifact, folder / "artifacts" / name)
        shutil.copyfile(reference_of(artifact, home), folder / "reference" / f"{name}.npz")
        entries.append(
            {
                "name": name,
                "digest": artifact.digest,
                "artifact": f"artifacts/{name}",
                "reference": f"reference/{name}.npz",
                "packages": list(deploy.get(artifact.subject.target).packages),
            }
        )
    protocol: dict[str, Any] = {"rounds": request.rounds, "budget_s": request.budget_s, "threads": request.threads}
    record = KitRecord(
        secrets.token_hex(8), secrets.token_hex(32), device.name, tuple(artifact.digest for artifact in artifacts)
    )
    remember(home, record)
    plan = {"format": FORMAT_VERSION, "kit": record.id, "key": record.key, "device": device.name}
    plan |= {"artifacts": entries, **protocol}
    (folder / PLAN).write_text(json.dumps(plan, indent=1) + "\n")
    (folder / "agent.pyz").write_bytes(agent().data)
    script = RUN.format(result=RESULT)
    if device.transport == "adb":
        script = _adb_script(artifacts, request.threads, device)
    (folder / "run.sh").write_text(script)
    (folder / "run.sh").chmod(0o755)


def _copy(artifact: Artifact, folder: Path) -> None:
    """Copy the files that the manifest lists, whose hashes were just checked, and nothing else.

    Raises:
        UsageError: A name could not stand in a script or a path of another system.
    """
    checked = bundle.load(artifact.folder)
    for name in (artifact.name, artifact.entry, *checked.files):
        if not PLAIN.fullmatch(name) or ".." in name:
            raise UsageError(f"{artifact.name[:80]}: the name {name[:80]!r} cannot travel in a kit.")
    for name in (*checked.files, bundle.MANIFEST):
        if name != bundle.REFERENCE:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(artifact.folder / name, folder / name, follow_symlinks=False)


def _steps(device: Device, artifacts: Sequence[Artifact], home: Path) -> list[str]:
    if device.transport == "adb":
        runners = sorted({android.TARGETS.get(artifact.subject.target, "?") for artifact in artifacts})
        return [
            f"1. Put the runner built for Android beside run.sh, named: {', '.join(runners)}.",
            "2. Attach the phone (adb devices lists it), charge it above 20 %, let it cool, and run: sh run.sh",
            *(f"3. At home: {_import(f'{item.name}.txt', home, item, device)}" for item in artifacts),
        ]
    if device.kind == "phone":
        return [
            "1. On a Mac with Xcode open the .mlpackage in artifacts/, tab Performance, + , and choose the device.",
            "2. Write the prediction times that it shows, in milliseconds and one per line, into times.txt.",
            *(f"3. At home: {_import('times.txt', home, item, device)}" for item in artifacts),
        ]
    packages = sorted({name for item in artifacts for name in deploy.get(item.subject.target).packages})
    return [
        f"1. On the device: Python 3.10 or newer with numpy and {', '.join(packages)}.",
        "2. Close other programs and run: sh run.sh   (PYTHON=/path/to/python3 sh run.sh for another interpreter)",
        f"3. Bring home {RESULT} and the folder {OUTPUTS}, side by side, and run there: {_import(RESULT, home)}",
    ]


def _import(file: str, home: Path, artifact: Artifact | None = None, device: Device | None = None) -> str:
    words = ["effbench", "import", file]
    if artifact is not None and device is not None:
        words += ["--artifact", artifact.name, "--device", device.name]
    if home != home_of():
        words += ["--out", str(home)]
    return shlex.join(words)


def _adb_script(artifacts: Sequence[Artifact], threads: int, device: Device) -> str:
    """Return a script that runs the vendor's runner on each artifact.

    Every word is quoted for this shell. The device's shell gets a constant script, which reads the words from its
    standard input, one a line (`transports.adb.SCRIPT`), so that none of them is split or expanded there.
    """
    lines = ["#!/bin/sh", "# Copies each artifact, runs the vendor's runner, and keeps its output.", "set -e"]
    lines += ['cd -- "$(dirname -- "$0")"', _on_device("mkdir", "-p", KIT_FOLDER)]
    for item in artifacts:
        runner = android.runner_of(item.subject.target)
        job = {"artifact": f"{KIT_FOLDER}/{item.name}", "entry": item.entry, "threads": threads}
        job |= {"min_samples": MIN_SAMPLES, "round_seconds": ROUND_SECONDS, "files": list(item.files)}
        plan = android.plan(runner, KIT_FOLDER, job, device.settings)
        output = shlex.quote(f"{item.name}.txt")
        lines += [f"adb push {runner} {KIT_FOLDER}/{runner}", _on_device("chmod", "755", f"{KIT_FOLDER}/{runner}")]
        lines += [f"adb push {shlex.quote(f'artifacts/{item.name}')} {KIT_FOLDER}/"]
        lines += [
            f"{_on_device('env', *(f'{key}={value}' for key, value in plan.env.items()), *plan.command)} > {output}"
        ]
        if plan.result and runner != "qnn":
            lines += [f"{_on_device('cat', plan.result)} >> {output}"]
    return "\n".join([*lines, _on_device("rm", "-rf", KIT_FOLDER), ""])


def _on_device(*words: str) -> str:
    """Return the line that runs a program on the device.

    Raises:
        UsageError: A word has a line break.
    """
    if any("\n" in word for word in words):
        raise UsageError(f"A line break cannot be sent to a phone: {words!r}.")
    return f"printf '%s\\n' {shlex.join(words)} | adb shell -T {shlex.quote(adb.SCRIPT)}"
