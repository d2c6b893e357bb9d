"""A matrix of cells as one table: a line per model, resolution and precision, a column per target, reasons below."""

from __future__ import annotations

import csv
import io
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from effbench.codec import document
from effbench.errors import unknown_name
from effbench.reports import cells
from effbench.reports.grouping import tally
from effbench.schema import Cell, Status

NOT_RUN = "not run yet"
WIDTH = 118
NOTED = (Status.OK, Status.BUILT, Status.UNVERIFIABLE)

CellKey = tuple[str, str, str, str]


@dataclass(frozen=True)
class Matrix:
    """Cells with a result, keys (model, resolution, precision, target) of those not run, and p50 texts by digest."""

    cells: Sequence[Cell]
    not_run: Sequence[CellKey] = ()
    latency: Mapping[str, str] = field(default_factory=dict)


def render(matrix: Matrix, form: str) -> str:
    """Return the matrix as ``terminal`` text, ``markdown``, ``json`` or ``csv``.

    Raises:
        UsageError: The format is unknown.
    """
    forms = {"terminal": _terminal, "markdown": _markdown, "json": _json, "csv": _csv}
    if form not in forms:
        raise unknown_name(form, forms, "format")
    return forms[form](matrix)


def counts(matrix: Matrix) -> str:
    """Count all cells by status, in one line."""
    verdicts = Counter(cell.verdict for cell in matrix.cells)
    parts = [tally(verdicts)] if verdicts else []
    parts += [f"{len(matrix.not_run)} {NOT_RUN}"] if matrix.not_run else []
    return f"{len(matrix.cells) + len(matrix.not_run)} cells: {', '.join(parts)}"


def cell_key(cell: Cell) -> CellKey:
    """Return the model, resolution, precision and target of a cell as texts."""
    return (cell.model, str(cell.shapes), cell.precision, cell.target)


class _Notes:
    """Number footnotes in order of use; equal texts share a number."""

    def __init__(self) -> None:
        self.texts: dict[str, int] = {}

    def mark(self, text: str) -> str:
        return f"[{self.texts.setdefault(text, len(self.texts) + 1)}]"


def _grid(matrix: Matrix) -> tuple[list[str], list[list[str]], list[str], list[str]]:
    """Return header, lines, footnotes, and the lines of which no cell has run."""
    notes = _Notes()
    ended = {cell_key(cell): cell for cell in matrix.cells}
    keys = [*ended, *matrix.not_run]
    targets = list(dict.fromkeys(key[3] for key in keys))
    started = dict.fromkeys(key[:3] for key in ended)
    lines = []
    for row in started:
        texts = []
        for target in targets:
            cell = ended.get((*row, target))
            absent = NOT_RUN if (*row, target) in matrix.not_run else "not requested"
            texts.append(absent if cell is None else _text(cell, matrix.latency, notes))
        lines.append([*row, *texts])
    remaining = Counter(key[:3] for key in matrix.not_run if key[:3] not in started)
    unreached = [f"{model} {size} px {precision} ({number})" for (model, size, precision), number in remaining.items()]
    return ["model", "px", "precision", *targets], lines, list(notes.texts), unreached


def _text(cell: Cell, latency: Mapping[str, str], notes: _Notes) -> str:
    parts = [cell.verdict]
    if cell.digest in latency:
        parts.append(latency[cell.digest])
    parts += [text for text in (shared(cell.placement),) if text]
    marks = [notes.mark(_reason(cell))] if cell.reason else []
    # What was tried before a failure is in its record, so that a failed cell needs no notes.
    marks += [notes.mark(_plain(note, cell)) for note in cell.notes] if cell.status in NOTED else []
    return " ".join([", ".join(parts), *marks])


def shared(placement: Mapping[str, Any]) -> str:
    """List the units that share a graph: ``HTP 280 + CPU 5, 3 partitions``; empty if one unit runs all of it."""
    units = placement.get("units") or {}
    partitions = placement.get("partitions") or 1
    if len(units) < 2 and partitions < 2:
        return ""
    text = " + ".join(f"{unit} {number}" for unit, number in units.items())
    return f"{text}, {partitions} partitions"


def _reason(cell: Cell) -> str:
    step = f" Next: {' '.join(cell.next_step.split())}" if cell.next_step else ""
    return _plain(" ".join(cell.reason.split()), cell) + _plain(step, cell)


def _plain(text: str, cell: Cell) -> str:
    """Remove the artifact's name, which differs between cells whose notes are otherwise equal."""
    name = cell.artifact.rsplit("/", 1)[-1]
    return text.replace(f"{name} is ", "").replace(name, "the artifact") if name else text


def _terminal(matrix: Matrix) -> str:
    from tabulate import tabulate

    head, lines, notes, unreached = _grid(matrix)
    table = tabulate(lines, headers=head, tablefmt="simple", disable_numparse=True)
    wrapped = [line for number, text in enumerate(notes, 1) for line in _wrap(f"[{number}] {text}")]
    return "\n".join([table, counts(matrix), *wrapped, *_wrap(_unreached(unreached))]) + "\n"


def _wrap(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent="    ", break_on_hyphens=False)


def _unreached(texts: Sequence[str]) -> str:
    return f"{NOT_RUN}: {'; '.join(texts)}" if texts else ""


def _markdown(matrix: Matrix) -> str:
    from tabulate import tabulate

    head, lines, notes, unreached = _grid(matrix)
    escaped = [[cells.markdown(text) for text in line] for line in lines]
    table = tabulate(escaped, headers=head, tablefmt="pipe", disable_numparse=True)
    listed = "\n".join(f"{number}. {cells.markdown(text)}" for number, text in enumerate(notes, 1))
    parts = [counts(matrix), table, listed, cells.markdown(_unreached(unreached))]
    return "\n\n".join(part for part in parts if part) + "\n"


def records(matrix: Matrix) -> list[dict[str, Any]]:
    """Return one flat record per cell, those that did not run included."""
    rows = []
    for cell in matrix.cells:
        checked, placed = cell.fidelity, cell.placement
        rows.append(
            {
                **dict(zip(("model", "resolution", "precision", "target"), cell_key(cell), strict=True)),
                "status": cell.status,
                "cause": cell.cause,
                "reason": cell.reason,
                "next_step": cell.next_step,
                "notes": "; ".join(cell.notes),
                "proved_by": cell.proved_by,
                "compared": checked.images if checked else None,
                "graph_proved_by": cell.graph_fidelity.engine if cell.graph_fidelity else None,
                "max_error": checked.max_error if checked else None,
                "cosine": checked.cosine if checked else None,
                "units": " ".join(f"{unit}:{number}" for unit, number in (placed.get("units") or {}).items()),
                "partitions": placed.get("partitions"),
                "copies": placed.get("copies"),
                "p50": matrix.latency.get(cell.digest, ""),
                "seconds": cell.seconds,
                "digest": cell.digest,
            }
        )
    empty = dict.fromkeys(rows[0] if rows else (), None)
    for key in matrix.not_run:
        named = dict(zip(("model", "resolution", "precision", "target"), key, strict=True))
        rows.append({**empty, **named, "status": NOT_RUN})
    return rows


def _json(matrix: Matrix) -> str:
    return document({"cells": records(matrix)})


def _csv(matrix: Matrix) -> str:
    lines = records(matrix)
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(lines[0]) if lines else ["model"], lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: cells.spreadsheet(value) for key, value in line.items()} for line in lines)
    return stream.getvalue()
