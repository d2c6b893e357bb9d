"""A sweep over devices as a table: a line per device, model, resolution, precision and target, reasons below."""

from __future__ import annotations

import csv
import io
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from effbench.codec import document
from effbench.errors import unknown_name
from effbench.reports import TABLE_FORMATS, cells
from effbench.reports.grouping import tally

NOT_RUN = "not run yet"
HEAD = ("device", "model", "px", "precision", "target", "rounds", "p50 ms", "95 % interval", "trust", "status")
WIDTH = 118


def render(records: Sequence[Mapping[str, Any]], set_aside: Mapping[str, str], form: str) -> str:
    """Return the records as ``terminal`` text, ``markdown``, ``json`` or ``csv``.

    Args:
        records: Of `effbench.lab.table.records`.
        set_aside: Device, or its worker -> why it got no more jobs.
        form: One of these formats.

    Raises:
        UsageError: The format is unknown.
    """
    if form == "json":
        return document({"jobs": records, "set_aside": set_aside})
    if form == "csv":
        return _csv(records)
    if form not in ("terminal", "markdown"):
        raise unknown_name(form, ("terminal", *TABLE_FORMATS), "format")
    return _text(records, set_aside, form)


def counts(records: Sequence[Mapping[str, Any]]) -> str:
    """Count the jobs by status, in one line."""
    statuses = Counter(str(record["status"]) for record in records)
    cached = sum(bool(record.get("cached")) for record in records)
    return f"{len(records)} job{'s' * (len(records) != 1)}: {tally(statuses)}" + (
        f" ({cached} of them from an earlier sweep)" if cached else ""
    )


def _text(records: Sequence[Mapping[str, Any]], set_aside: Mapping[str, str], form: str) -> str:
    from tabulate import tabulate

    notes: dict[str, int] = {}
    shown = cells.one_line if form == "terminal" else cells.markdown
    lines = [list(map(shown, _line(record, notes))) for record in records]
    table = tabulate(lines, headers=HEAD, tablefmt="simple" if form == "terminal" else "pipe", disable_numparse=True)
    below = [counts(records), *(f"[{number}] {text}" for text, number in notes.items())]
    below += [f"{unit} was set aside: {reason}" for unit, reason in set_aside.items()]
    if form == "terminal":
        wrapped = [line for text in below for line in textwrap.wrap(text, WIDTH, subsequent_indent="    ")]
        return "\n".join([table, *wrapped]) + "\n"
    return "\n\n".join([table, *map(cells.markdown, below)]) + "\n"


def _line(record: Mapping[str, Any], notes: dict[str, int]) -> list[str]:
    interval = record.get("p50_interval_ms")
    origin = record.get("origin", "measured")
    status = [str(record["status"]), *([] if origin == "measured" else [str(origin)])]
    if record.get("reason"):
        step = f" Next: {record['next_step']}" if record.get("next_step") else ""
        status.append(f"[{notes.setdefault(' '.join((record['reason'] + step).split()), len(notes) + 1)}]")
    return [
        *(str(record[name]) for name in ("device", "model", "resolution", "precision", "target")),
        str(record.get("rounds", "")),
        "" if record.get("p50_ms") is None else f"{record['p50_ms']:.3f}",
        "" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}",
        str(record.get("trust", "")),
        " ".join(status),
    ]


def _csv(records: Sequence[Mapping[str, Any]]) -> str:
    fields = list(dict.fromkeys(key for record in records for key in record))
    stream = io.StringIO()
    writer = csv.DictWriter(stream, fields or ["device"], restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: cells.spreadsheet(value) for key, value in record.items()} for record in records)
    return stream.getvalue()
