"""A sweep over devices as a table: a line per device, model, resolution, precision and target, reasons below."""

from __future__ import annotations

import csv
import io
import json
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from effbench.errors import unknown_name
from effbench.schema import FORMAT_VERSION

FORMATS = {"markdown": "md", "json": "json", "csv": "csv"}
NOT_RUN = "not run yet"
HEAD = ("device", "model", "px", "precision", "target", "rounds", "p50 ms", "95 % interval", "trust", "ended")
WIDTH = 118


def render(records: Sequence[Mapping[str, Any]], set_aside: Mapping[str, str], form: str) -> str:
    """Return the records as ``terminal`` text, ``markdown``, ``json`` or ``csv``.

    Args:
        records: Of `effbench.lab.table.records`.
        set_aside: Device, or the worker beside it -> why it got no more jobs.
        form: Which of them.

    Raises:
        UsageError: The format is unknown.
    """
    if form == "json":
        data = {"jobs": list(records), "set_aside": dict(set_aside)}
        return json.dumps({"format": FORMAT_VERSION, "data": data}, indent=1, allow_nan=False) + "\n"
    if form == "csv":
        return _csv(records)
    if form not in ("terminal", "markdown"):
        raise unknown_name(form, ("terminal", *FORMATS), "format")
    return _text(records, set_aside, form)


def counts(records: Sequence[Mapping[str, Any]]) -> str:
    """Return how many jobs ended how, in one line."""
    found = Counter(str(one["status"]) for one in records)
    parts = [f"{number} {status}" for status, number in sorted(found.items(), key=lambda item: (-item[1], item[0]))]
    again = sum(bool(one.get("cached")) for one in records)
    return f"{len(records)} job{'s' * (len(records) != 1)}: {', '.join(parts)}" + (
        f" ({again} of them from an earlier sweep)" if again else ""
    )


def _text(records: Sequence[Mapping[str, Any]], set_aside: Mapping[str, str], form: str) -> str:
    from tabulate import tabulate

    notes: dict[str, int] = {}
    lines = [_line(one, notes) for one in records]
    drawn = tabulate(lines, headers=HEAD, tablefmt="simple" if form == "terminal" else "pipe", disable_numparse=True)
    below = [counts(records), *(f"[{number}] {text}" for text, number in notes.items())]
    below += [f"{unit} was set aside: {reason}" for unit, reason in set_aside.items()]
    if form == "terminal":
        wrapped = [line for text in below for line in textwrap.wrap(text, WIDTH, subsequent_indent="    ")]
        return "\n".join([drawn, *wrapped]) + "\n"
    return "\n\n".join([drawn, *below]) + "\n"


def _line(one: Mapping[str, Any], notes: dict[str, int]) -> list[str]:
    interval = one.get("p50_interval_ms")
    origin = one.get("origin", "measured")
    ended = [str(one["status"]), *([] if origin == "measured" else [str(origin)])]
    if one.get("reason"):
        step = f" Next: {one['next_step']}" if one.get("next_step") else ""
        ended.append(f"[{notes.setdefault(' '.join((one['reason'] + step).split()), len(notes) + 1)}]")
    return [
        *(str(one[name]) for name in ("device", "model", "resolution", "precision", "target")),
        str(one.get("rounds", "")),
        "" if one.get("p50_ms") is None else f"{one['p50_ms']:.3f}",
        "" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}",
        str(one.get("trust", "")),
        " ".join(ended),
    ]


def _csv(records: Sequence[Mapping[str, Any]]) -> str:
    fields = list(dict.fromkeys(key for one in records for key in one))
    stream = io.StringIO()
    writer = csv.DictWriter(stream, fields or ["device"], restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return stream.getvalue()
