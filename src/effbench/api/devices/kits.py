"""Kits: a folder for someone who holds a device, and the result that comes back from it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from effbench import deploy
from effbench.api.export.stage import Notify, silent
from effbench.api.export.verification import reference_of
from effbench.api.profile.request import ProfileRequest
from effbench.api.profile.select import Selection
from effbench.api.remote import check_clock
from effbench.codec import from_json
from effbench.deploy.artifact import bundle
from effbench.device.agent_kit import PLAN, RESULT
from effbench.errors import DataError, UsageError
from effbench.profiles import devices, transports
from effbench.profiles.transports import android
from effbench.profiles.transports.zipapp import agent
from effbench.schema import (
    FORMAT_VERSION,
    Artifact,
    Cell,
    Device,
    Fidelity,
    Measurement,
    Round,
    Samples,
)
from effbench.store import Store
from effbench.store import home as home_of

RUN = """#!/bin/sh
# Verifies and measures what lies in this folder, and writes {result}. Nothing is installed and nothing is sent.
cd "$(dirname "$0")" && exec "${{PYTHON:-python3}}" agent.pyz effbench.device.agent_kit
"""


@dataclass(frozen=True)
class Kit:
    """A kit that was written: its folder, what is in it, and what could not be made."""

    folder: Path
    artifacts: tuple[str, ...]
    cells: tuple[Cell, ...]
    steps: tuple[str, ...]


def kit(
    names: Sequence[str],
    device: str,
    resolutions: Sequence[str | int] = (),
    *,
    targets: Sequence[str] = (),
    rounds: int = 6,
    budget_s: float = 20.0,
    threads: int = 1,
    precision: str | None = None,
    to: str | Path | None = None,
    out: str | Path | None = None,
    notify: Notify = silent,
) -> Kit:
    """Write a folder with artifacts, one run script, expected outputs, and a line to bring the result home.

    Args:
        names: Models (exported first for the device's target), or artifacts.
        device: A name that `effbench devices` lists, or a device file.
        resolutions: Pixels, for models.
        targets: None means the device's first.
        rounds: Fresh processes per artifact; fewer than 6 give no interval.
        budget_s: Seconds per artifact.
        threads: Of the runtime.
        precision: None takes the device's default for the target.
        to: The folder to write; None means ``kit-DEVICE`` here.
        out: The folder to export below.
        notify: Called with one line per step.

    Raises:
        UsageError: The folder exists already, or nothing could be put into it.
    """
    home, used = home_of(out), devices.get(device)
    folder = Path(to or f"kit-{used.name}")
    if folder.exists():
        raise UsageError(f"{folder} exists already.", hint="Name another with --to, or remove it.")
    # What is made here runs there: whether this machine could measure it does not matter.
    away = replace(used, transport=transports.NONE) if used.transport == "local" else used
    request = ProfileRequest(names, resolutions, targets=targets, precision=precision, out=home, notify=notify)
    artifacts, cells = Selection(request, home, away, notify).choose()
    if not artifacts:
        reasons = "; ".join(cell.reason for cell in cells)
        raise UsageError(f"There is nothing to put into a kit for '{device}': {reasons}.")
    draft = folder.with_name(f".{folder.name}.making")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        _write(draft, artifacts, used, home, {"rounds": rounds, "budget_s": budget_s, "threads": threads})
        draft.rename(folder)
    except OSError as error:
        raise DataError(f"Cannot write {folder}: {error.strerror}.", hint="Choose another folder with --to.") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    names_in = tuple(item.name for item in artifacts)
    return Kit(folder, names_in, tuple(cells), tuple(_steps(used, artifacts)))


def _write(folder: Path, artifacts: Sequence[Artifact], device: Device, home: Path, how: dict[str, Any]) -> None:
    (folder / "reference").mkdir(parents=True)
    items = []
    for item in artifacts:
        shutil.copytree(item.folder, folder / "artifacts" / item.name, ignore=shutil.ignore_patterns(bundle.REFERENCE))
        shutil.copyfile(reference_of(item, home), folder / "reference" / f"{item.name}.npz")
        items.append(
            {
                "name": item.name,
                "digest": item.digest,
                "artifact": f"artifacts/{item.name}",
                "reference": f"reference/{item.name}.npz",
                "packages": list(deploy.get(item.subject.target).packages),
            }
        )
    plan = {"format": FORMAT_VERSION, "device": device.name, "artifacts": items, **how}
    (folder / PLAN).write_text(json.dumps(plan, indent=1) + "\n")
    (folder / "agent.pyz").write_bytes(agent().data)
    run = RUN.format(result=RESULT)
    if device.transport == "adb":
        run = _adb_script(artifacts, how["threads"], device)
    (folder / "run.sh").write_text(run)
    (folder / "run.sh").chmod(0o755)
    (folder / "README.txt").write_text("\n".join([_title(device), "", *_steps(device, artifacts), ""]))


def _title(device: Device) -> str:
    return f"effbench kit for {device.description}"


def _steps(device: Device, artifacts: Sequence[Artifact]) -> list[str]:
    if device.transport == "adb":
        runners = sorted({android.TARGETS.get(item.subject.target, "?") for item in artifacts})
        return [
            f"1. Put the runner built for Android beside run.sh, named: {', '.join(runners)}.",
            "2. Attach the phone (adb devices lists it), charge it above 20 %, let it cool, and run: sh run.sh",
            *(f"3. At home: {_import(item, device, f'{item.name}.txt')}" for item in artifacts),
        ]
    if device.kind == "phone":
        return [
            "1. On a Mac with Xcode open the .mlpackage in artifacts/, tab Performance, + , and choose the device.",
            "2. Write the prediction times that it shows, in milliseconds and one per line, into times.txt.",
            *(f"3. At home: {_import(item, device, 'times.txt')}" for item in artifacts),
        ]
    packages = sorted({name for item in artifacts for name in deploy.get(item.subject.target).packages})
    return [
        f"1. On the device: Python 3.10 or newer with numpy and {', '.join(packages)}.",
        "2. Close other programs and run: sh run.sh   (PYTHON=/path/to/python3 sh run.sh for another interpreter)",
        f"3. At home: effbench import {RESULT}",
    ]


def _import(item: Artifact, device: Device, file: str) -> str:
    return f"effbench import {file} --artifact {item.name} --device {device.name}"


def _adb_script(artifacts: Sequence[Artifact], threads: int, device: Device) -> str:
    """Return a script of constant lines: names of artifacts hold letters, digits, dots, dashes and underscores only."""
    lines = ["#!/bin/sh", "# Pushes each artifact, runs the vendor's runner, keeps what it prints.", "set -e"]
    lines += ['cd "$(dirname "$0")"', f"D={'/data/local/tmp/effbench-kit'}", "adb shell mkdir -p $D"]
    for item in artifacts:
        runner = android.runner_of(item.subject.target)
        job = {"artifact": f"$D/{item.name}", "entry": item.entry, "threads": threads, "min_samples": 50}
        job |= {"round_seconds": 2.0, "files": list(item.files)}
        made = android.plan(runner, "$D", job, device.settings)
        env = " ".join(f"{key}={value}" for key, value in made.env.items())
        lines += [f"adb push {runner} $D/{runner}", f"adb shell chmod 755 $D/{runner}"]
        lines += [
            f"adb push artifacts/{item.name} $D/",
            f'adb shell "{env} {" ".join(made.command)}" > {item.name}.txt',
        ]
        lines += [f"adb shell cat {made.result} >> {item.name}.txt"] if made.result and runner != "qnn" else []
    return "\n".join([*lines, "adb shell rm -rf $D", ""])


def is_result(text: str) -> bool:
    """Tell whether a text is what a kit's run wrote."""
    return text.startswith("{") and '"kit"' in text.partition("\n")[0]


def bring_home(text: str, where: str, home: Path) -> list[Measurement]:
    """Store what came back from a kit: each round as it was measured, tied to the artifact's digest.

    Raises:
        DataError: The file is damaged, or about artifacts that are not here.
    """
    try:
        head, *lines = (json.loads(line) for line in text.splitlines())
    except ValueError as error:
        raise DataError(f"{where}: not a whole result of a kit ({error}).") from error
    known = {item.digest: item for item in bundle.artifacts(home)}
    run = uuid4().hex[:12]
    rounds: dict[str, list[Measurement]] = {}
    for number, line in enumerate(lines, start=2):
        if line["digest"] not in known:
            raise DataError(f"{where}:{number}: {line['artifact']} is not below {home}.", hint="Set --out to its home.")
        if "error" in line:
            continue
        if line["op"] == "verify":
            found = from_json(Fidelity, line["answer"]["fidelity"], f"{where}:{number}")
            item = known[line["digest"]]
            if item.fidelity is None:
                known[line["digest"]] = bundle.annotate(item, fidelity=found)
            continue
        answer = line["answer"]
        check_clock(answer["round"]["samples_ns"], answer.get("agent_s", 0.0), float(line["seconds"]))
        one = _measurement(known[line["digest"]], line, head, run, f"{where}:{number}")
        rounds.setdefault(one.digest, []).append(one)
    failed = [f"{line['artifact']}: {line['error']}" for line in lines if "error" in line]
    if not rounds:
        raise DataError(f"{where}: no round was measured. {'; '.join(failed)}")
    for one in (item for group in rounds.values() for item in group):
        Store(home).append(one)
    return [
        replace(group[0], samples=Samples(tuple(r for one in group for r in one.samples.rounds)), notes=tuple(failed))
        for group in rounds.values()
    ]


def _measurement(artifact: Artifact, line: dict[str, Any], head: dict[str, Any], run: str, where: str) -> Measurement:
    answer = line["answer"]
    computed = answer["compute_precision"] or artifact.subject.compute_precision
    return Measurement(
        digest=artifact.digest,
        subject=replace(artifact.subject, compute_precision=computed, batch=answer["batch"]),
        device=str(head["device"]),
        settings={"batch": str(answer["batch"]), "threads": str(head.get("threads", 1)), "tool": "effbench kit"},
        samples=Samples((from_json(Round, answer["round"], where),), answer["protocol"]),
        before=answer["before"],
        after=answer["after"],
        time=str(head["time"]),
        run=run,
        placement=artifact.placement,
        origin="imported",
        notes=("measured by a kit",),
    )
