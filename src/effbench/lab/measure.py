"""The job of a sweep over devices: export one cell if it is missing, then measure it round by round on a device.

Every round is one object below the lab's address, written when the round ends. A job that runs again, because its
worker or the whole sweep was killed, keeps the rounds that the same device has stored.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from effbench.api.profile.run import profile
from effbench.api.remote import device_of
from effbench.api.sweep.jobs import CellJob, export_cell
from effbench.codec import fingerprint, from_json, to_json
from effbench.errors import DeviceError, EffbenchError, UnavailableError, UnsupportedError
from effbench.lab.engine import JobOutcome
from effbench.lab.job import FAILED, OK
from effbench.lab.results import Results
from effbench.schema import Cell, Device, Measurement

FUNCTION = "effbench.lab.measure:measure"
RUN, DIGEST = re.compile(r"[0-9a-f]{12}"), re.compile(r"[0-9a-f]{64}")


def measure(
    cell: Mapping[str, Any], device: str, protocol: Mapping[str, Any], address: str, key: str, out: str | None = None
) -> dict[str, Any]:
    """Export and measure one cell on the device of that name, as declared on this host.

    Args:
        cell: A `CellJob` as JSON.
        device: A name that this host's ``effbench devices`` lists.
        protocol: ``rounds``, ``budget_s``, ``threads``, and ``rate_hz`` or None.
        address: Address of the lab's store; rounds are stored below ``rounds``.
        key: Key of the job.
        out: Folder for artifacts; None means this host's default folder.

    Returns:
        ``run``, ``digest``, ``rounds`` (their number) and the ``cell`` of the export.

    Raises:
        DeviceError: The device was lost; measured rounds are stored.
        EffbenchError: The cell cannot be exported or measured.
    """
    known_device = device_of(device)
    cell_job = from_json(CellJob, cell, "job")
    exported = export_for(cell_job, known_device, out)
    run = fingerprint({"key": key, "digest": exported.digest, "place": device_identity(known_device)})[:12]
    rounds = rounds_of(address, run)
    missing = sorted({round_name(index) for index in range(int(protocol["rounds"]))} - rounds.keys())
    if missing:
        plan = _Plan(exported, cell_job.batch, device, protocol, out)
        _measure_rounds(plan, rounds, run, missing)
    if not rounds.keys():
        raise DeviceError(f"No round of {exported.model} could be measured on '{device}'.")
    return {"run": run, "digest": exported.digest, "rounds": len(rounds.keys()), "cell": to_json(exported)}


def export_for(job: CellJob, device: Device, out: str | None) -> Cell:
    """Return the artifact of a cell for a device; export it if it is missing.

    Raises:
        EffbenchError: The export failed; its class follows from the cell's status.
    """
    local = device.transport == "local"
    exported = export_cell(replace(job, out=out), None if local else device)
    if not exported.has_artifact:
        raise _error(exported)
    return exported


def device_identity(device: Device) -> dict[str, Any]:
    """Return what distinguishes two devices of one name: their host and its connection to them."""
    return {"host": platform.node(), "transport": device.transport, "connection": device.connection}


def has_rounds(result: Any) -> bool:
    """Return whether a stored result is that of a job that measured something."""
    return isinstance(result, dict) and isinstance(result.get("run"), str) and bool(result.get("rounds"))


def rounds_of(address: str, run: str) -> Results:
    """Return the rounds of a run."""
    return Results(f"{address.rstrip('/')}/rounds/{run}")


def round_name(index: int) -> str:
    """Return the name of a round."""
    return f"{index:04d}"


@dataclass(frozen=True)
class _Plan:
    """What to measure, where and how; the fields are the arguments of `measure`."""

    exported: Cell
    batch: int
    device: str
    protocol: Mapping[str, Any]
    out: str | None


def checked(outcome: JobOutcome) -> JobOutcome:
    """Return the outcome of a `measure`, as failed if its result names no run and no artifact.

    Both come from another host, and become names of files.
    """
    result = outcome.result if isinstance(outcome.result, dict) else {}
    named = RUN.fullmatch(str(result.get("run"))) and DIGEST.fullmatch(str(result.get("digest")))
    if outcome.status != OK or named:
        return outcome
    reason = f"its result names no run: {str(outcome.result)[:100]!r}"
    return replace(outcome, status=FAILED, result=None, reason=reason, next_step="Look at the log of that worker.")


def _measure_rounds(plan: _Plan, rounds: Results, run: str, missing: list[str]) -> None:
    names = iter(missing)

    def keep(measurement: Measurement) -> None:
        rounds.add(next(names), to_json(replace(measurement, run=run)))

    result = profile(
        [str(Path(plan.exported.artifact))],
        device=plan.device,
        threads=plan.protocol["threads"],
        batch=plan.batch,
        rounds=len(missing),
        budget_s=float(plan.protocol["budget_s"]) * len(missing) / int(plan.protocol["rounds"]),
        rate_hz=plan.protocol["rate_hz"],
        keep=keep,
        out=plan.out,
    )
    if result.cells:
        raise _error(result.cells[0])


def _error(cell: Cell) -> EffbenchError:
    """Return the error of a cell; a lost device ends as *failed* with the exit code of a device."""
    kinds: dict[str, type[EffbenchError]] = {"unsupported": UnsupportedError, "unavailable": UnavailableError}
    lost = cell.status == "failed" and cell.exit_code == DeviceError.exit_code
    kind = DeviceError if lost else kinds.get(cell.status, EffbenchError)
    return kind(cell.reason, hint=cell.next_step or None)
