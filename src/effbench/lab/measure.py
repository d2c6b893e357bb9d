"""The job of a sweep over devices: one cell exported where it is missing, then measured round by round on a device.

Every round is one object below the lab's address, made as it ends. A job that is done again, because its worker or the
whole sweep was killed, takes up the rounds that are there already, as long as it is the same device that made them.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from effbench.api.profile.run import profile
from effbench.api.remote import device_of
from effbench.api.sweep.jobs import CellJob, export_cell
from effbench.codec import fingerprint, from_json, to_json
from effbench.errors import DeviceError, EffbenchError, UnavailableError, UnsupportedError
from effbench.lab.results import Results
from effbench.schema import Cell, Device, Measurement

FUNCTION = "effbench.lab.measure:measure"


def measure(
    cell: Mapping[str, Any], device: str, how: Mapping[str, Any], address: str, key: str, out: str | None = None
) -> dict[str, Any]:
    """Export and measure one cell on the device of that name, as this host knows it.

    Args:
        cell: A `CellJob` as JSON.
        device: A name that this host's ``effbench devices`` lists.
        how: ``rounds``, ``budget_s``, ``threads``, and ``rate_hz`` or None.
        address: Of the lab's store; rounds lie below ``rounds``.
        key: Of the job.
        out: Where artifacts are made; None means this host's own folder.

    Returns:
        ``run``, ``digest``, ``rounds`` (how many there are) and the ``cell`` of the export.

    Raises:
        DeviceError: The device was lost; what is measured stays.
        EffbenchError: The cell cannot be made, or not be measured.
    """
    used = device_of(device)
    cell_job = from_json(CellJob, cell, "job")
    made = export_for(cell_job, used, out)
    run = fingerprint({"key": key, "digest": made.digest, "place": place(used)})[:12]
    kept = rounds_of(address, run)
    missing = sorted({round_name(index) for index in range(int(how["rounds"]))} - kept.keys())
    if missing:
        _measure_rounds(made, cell_job.batch, device, how, kept, run, missing, out)
    return {"run": run, "digest": made.digest, "rounds": len(kept.keys()), "cell": to_json(made)}


def export_for(job: CellJob, device: Device, out: str | None) -> Cell:
    """Return the artifact of a cell for a device; made where it is not there.

    Raises:
        EffbenchError: Of the class that the cell's status stands for.
    """
    here = device.transport == "local"
    made = export_cell(replace(job, out=out), None if here else device)
    if not made.status.made:
        raise _error(made)
    return made


def place(device: Device) -> dict[str, Any]:
    """Return what tells two devices of one name apart: the host beside them, and how it reaches them."""
    return {"host": platform.node(), "transport": device.transport, "connection": device.connection}


def rounds_of(address: str, run: str) -> Results:
    """Return the rounds of a run."""
    return Results(f"{address.rstrip('/')}/rounds/{run}")


def round_name(index: int) -> str:
    """Return the name of a round."""
    return f"{index:04d}"


def _measure_rounds(
    made: Cell, batch: int, device: str, how: Mapping[str, Any], kept: Results, run: str, missing: list[str], out: Any
) -> None:
    names = iter(missing)

    def keep(one: Measurement) -> None:
        kept.add(next(names), to_json(replace(one, run=run)))

    found = profile(
        [str(Path(made.artifact))],
        device=device,
        threads=how["threads"],
        batch=batch,
        rounds=len(missing),
        budget_s=float(how["budget_s"]) * len(missing) / int(how["rounds"]),
        rate_hz=how["rate_hz"],
        keep=keep,
        out=out,
    )
    if found.cells:
        raise _error(found.cells[0])


def _error(cell: Cell) -> EffbenchError:
    """Return the error that a cell tells of; only a lost device ends as *failed* with the exit code of a device."""
    kinds: dict[str, type[EffbenchError]] = {"unsupported": UnsupportedError, "unavailable": UnavailableError}
    lost = cell.status == "failed" and cell.exit_code == DeviceError.exit_code
    kind = DeviceError if lost else kinds.get(cell.status, EffbenchError)
    return kind(cell.reason, hint=cell.next_step or None)
