"""The result of a sweep over devices as records for a table, and the files of the table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from effbench.lab.engine import JobOutcome
from effbench.lab.job import OK, LabJob
from effbench.lab.sweep import LabSweep
from effbench.profiles.trust import grade_of
from effbench.reports import write_tables
from effbench.reports.lab import NOT_RUN, render
from effbench.statistics import percentiles
from effbench.store import home as home_of


def records(sweep: LabSweep) -> list[dict[str, Any]]:
    """Return one flat record per cell and device, those that did not run included."""
    finished = [_record(outcome, sweep) for outcome in sweep.outcomes]
    remaining = [{**_named(job), "status": NOT_RUN} for job in sweep.not_run]
    return sorted(
        [*finished, *remaining],
        key=lambda record: (record["device"], record["model"], record["resolution"], record["target"]),
    )


def _record(outcome: JobOutcome, sweep: LabSweep) -> dict[str, Any]:
    record = {**_named(outcome.job), "status": outcome.status, "cached": outcome.cached}
    record |= {"reason": outcome.reason, "next_step": outcome.next_step, "attempts": outcome.attempts}
    if outcome.status != OK:
        return record
    measured = sweep.measurements[str(outcome.result["run"])]
    rounds = measured.samples.rounds
    p50 = percentiles.estimate([one.samples_ns for one in rounds], 0.5)
    trust, reasons = grade_of(measured)
    record |= {"rounds": len(rounds), "digest": measured.digest, "run": measured.run, "origin": measured.origin}
    record |= {"p50_ms": None if p50 is None else p50.value / 1e6, "trust": trust, "trust_reasons": list(reasons)}
    interval = None if p50 is None or p50.interval is None else [side / 1e6 for side in p50.interval]
    return {**record, "p50_interval_ms": interval, "unit": outcome.unit}


def _named(job: LabJob) -> dict[str, Any]:
    cell = job.arguments["cell"]
    names = ("model", "resolution", "precision", "target")
    return {"device": job.device, **{name: cell[name] for name in names}}


def write(sweep: LabSweep, formats: Sequence[str], out: str | None) -> list[Path]:
    """Write the table as ``lab.md``, ``.csv`` or ``.json`` below the output folder.

    Raises:
        UsageError: A format is unknown.
        DataError: The folder cannot be written.
    """
    return write_tables("lab", lambda form: render(records(sweep), sweep.set_aside, form), formats, home_of(out))
