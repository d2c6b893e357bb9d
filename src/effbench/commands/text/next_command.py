"""The command that a user is likely to type next; it names only what exists, and it can run."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from effbench.api.evaluate.run import Evaluated
    from effbench.schema import Artifact, Cell, Row

MOST_NAMES = 4
"""Of artifacts in a command; `effbench profile` without names measures everything exported so far."""


def line(*words: str, out: str | None = None) -> str:
    """Return the line of a command, quoted for a shell."""
    folder = ("--out", out) if out is not None else ()
    return f"next: {shlex.join(['effbench', *words, *folder])}"


def report(out: str | None) -> str:
    """Return the line after a measurement."""
    return line("report", out=out)


def after_export(cells: Sequence[Cell], device: str | None, out: str | None) -> str | None:
    """Return the line that measures exported artifacts, on the device they were exported for.

    If effbench cannot connect to that device, the line writes a kit for its owner. If no artifact can run here or
    there, it lists the devices. If nothing was exported, or only a graph, there is no line.
    """
    from effbench import deploy
    from effbench.profiles import devices

    exported = [cell for cell in cells if cell.has_artifact and cell.target in deploy.registered()]
    if not exported:
        return None
    chosen = devices.get(device or "local")
    if chosen.transport == "local":
        runnable = [cell for cell in exported if deploy.get(cell.target).measurable() is None]
        return _profile(runnable, (), out) if runnable else line("devices")
    runnable = [cell for cell in exported if cell.target in chosen.targets]
    if not runnable:
        return line("devices")
    if not _drivable(chosen.name):
        return line("kit", *_names(runnable, out), "--device", str(device), out=out)
    return _profile(runnable, ("--device", str(device)), out)


def after_evaluate(result: Evaluated, device: str, out: str | None) -> str | None:
    """Return the line that reports, or first measures, the artifacts that were evaluated."""
    from effbench.store import Store, home

    digests = {item.evaluation.digest for item in result.results}
    if not digests:
        return None
    if digests & {measurement.digest for measurement in Store(home(out))}:
        return report(out)
    names = [artifact.name for artifact in _artifacts(out) if artifact.digest in digests]
    place = () if device == "local" else ("--device", device)
    return line("profile", *_beginnings(names, out), *place, out=out)


def after_report(rows: Sequence[Row], out: str | None) -> str | None:
    """Return the line that compares two measured artifacts of one model and size on one device, if there are such."""
    from effbench import deploy
    from effbench.profiles import devices

    artifacts = {artifact.digest: artifact.name for artifact in _artifacts(out)}
    rows = [row for row in rows if row.source == "measured" and row.digest in artifacts and row.p50_ms is not None]
    for a, b in itertools.combinations(rows, 2):
        if a.digest == b.digest or (a.device, a.model, a.shapes, a.batch) != (b.device, b.model, b.shapes, b.batch):
            continue
        here = a.device == "local" and all(deploy.get(row.target).measurable() is None for row in (a, b))
        if here or (a.device != "local" and a.device in devices.devices() and _drivable(a.device)):
            place = () if here else ("--device", a.device)
            return line("compare", *_beginnings([artifacts[a.digest], artifacts[b.digest]], out), *place, out=out)
    return None


def _profile(cells: Sequence[Cell], place: Sequence[str], out: str | None) -> str:
    names = _names(cells, out)
    return line("profile", *(names if len(names) <= MOST_NAMES else ()), *place, out=out)


def _names(cells: Sequence[Cell], out: str | None) -> list[str]:
    from pathlib import Path

    return _beginnings([Path(cell.artifact).name for cell in cells], out)


def _beginnings(names: Sequence[str], out: str | None) -> list[str]:
    """Return each name without its hash, if no other artifact has that beginning."""
    existing = [folder.name for folder in _folder(out).glob("*")]
    short = {name: name.rpartition("-")[0] or name for name in names}
    return [
        short[name] if sum(other.startswith(short[name]) for other in existing) == 1 else name
        for name in dict.fromkeys(names)
    ]


def _folder(out: str | None) -> Path:
    from effbench.store import home

    return home(out) / "artifacts"


def _artifacts(out: str | None) -> list[Artifact]:
    from effbench.deploy.artifact import bundle
    from effbench.store import home

    return list(bundle.artifacts(home(out), skip=True))


def _drivable(name: str) -> bool:
    """Return whether effbench can connect to a device, as far as its declaration says."""
    from effbench.errors import EffbenchError
    from effbench.profiles import devices, transports

    device = devices.get(name)
    try:
        transports.check_connection(device)
    except EffbenchError:
        return False
    return device.transport != transports.NONE
