"""Rows as a DataFrame with raw numbers, and as text: terminal, Markdown, CSV and JSON."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from effbench.codec import document
from effbench.reports import cells, pareto
from effbench.reports.layout import Section, sections
from effbench.reports.rows import order
from effbench.schema import Row

if TYPE_CHECKING:
    import pandas

WIDTH = 118
"""Width at which prose is wrapped in a terminal."""

COUNTS = ("threads", "rounds", "samples", "peak_rss_bytes", "accuracy_px", "params", "macs", "size_bytes")


def frame(rows: Iterable[Row]) -> pandas.DataFrame:
    """Return one line per row: raw numbers, the unit in the column's name, a missing value as NaN or None."""
    import pandas

    records = [_record(row) for row in sorted(rows, key=order)]
    table: pandas.DataFrame = pandas.DataFrame(records)
    # Plain integer columns cannot hold missing values; Int64 can.
    for name in COUNTS if records else ():
        table[name] = table[name].astype("Int64")
    return table


def csv_text(rows: Iterable[Row], metric: str) -> str:
    """Return the `frame` as CSV."""
    table = frame(rows)
    for name in table.select_dtypes(exclude="number").columns:
        table[name] = table[name].map(cells.spreadsheet, na_action="ignore")
    return str(table.to_csv(index=False, lineterminator="\n"))


def json_text(rows: Iterable[Row], metric: str) -> str:
    """Return the rows as one JSON document; the names are those of the `frame`."""
    return document({"metric": metric, "rows": [_record(row) for row in sorted(rows, key=order)]})


def _record(row: Row) -> dict[str, Any]:
    low_50, high_50 = row.p50_interval_ms or (None, None)
    low_90, high_90 = row.p90_interval_ms or (None, None)
    low_slow, high_slow = row.slow_processes_interval or (None, None)
    return {
        "source": row.source,
        "device": row.device,
        "machine": row.machine,
        "height_px": row.shapes.image[0] if row.shapes.image else None,
        "width_px": row.shapes.image[1] if row.shapes.image else None,
        "shapes": str(row.shapes),
        "model": row.model,
        "family": row.family,
        "reconstruction": row.reconstruction,
        "target": row.target,
        "runtime": row.runtime,
        "storage_precision": row.storage_precision,
        "compute_precision": row.compute_precision,
        "weights": row.weights,
        "batch": row.batch,
        "threads": row.threads,
        "scope": row.scope,
        "protocol": row.protocol,
        "settings": row.settings,
        "rounds": row.rounds,
        "samples": row.samples,
        "p50_ms": row.p50_ms,
        "p50_low_ms": low_50,
        "p50_high_ms": high_50,
        "p90_ms": row.p90_ms,
        "p90_low_ms": low_90,
        "p90_high_ms": high_90,
        "p99_ms": row.p99_ms,
        "slow_processes": row.slow_processes,
        "slow_processes_low": low_slow,
        "slow_processes_high": high_slow,
        "aggregate": row.aggregate,
        "images_per_s": row.images_per_s,
        "load_ms": row.load_ms,
        "first_ms": row.first_ms,
        "peak_rss_bytes": row.peak_rss_bytes,
        "accuracy": row.accuracy,
        "accuracy_low": row.accuracy_interval and row.accuracy_interval[0],
        "accuracy_high": row.accuracy_interval and row.accuracy_interval[1],
        "accuracy_metric": row.accuracy_metric,
        "accuracy_status": row.accuracy_status,
        "accuracy_px": row.accuracy_px,
        "accuracy_source": row.accuracy_source,
        "accuracy_digest": row.accuracy_digest,
        "borrowed": row.borrowed,
        "params": row.params,
        "macs": row.macs,
        "size_bytes": row.size_bytes,
        "fidelity_passed": row.fidelity_passed,
        "trust": row.trust,
        "trust_reasons": "; ".join(row.trust_reasons),
        "front": pareto.front_name(row),
        "off_front_because": pareto.obstacle(row),
        "digest": row.digest,
        "notes": "; ".join(row.notes),
    }


def terminal(rows: Iterable[Row], metric: str) -> str:
    """Return the tables as plain text, fit for 160 columns."""
    return "\n\n".join(_terminal_section(section) for section in sections(rows, metric)) + "\n"


def _terminal_section(section: Section) -> str:
    from tabulate import tabulate

    # The header is passed as a row: tabulate pads a header, and the table would not fit the terminal.
    head, *body = tabulate(
        [section.columns, *section.cells],
        tablefmt="plain",
        disable_numparse=True,
        colalign=["right" if numeric else "left" for numeric in section.numeric],
    ).splitlines()
    table = [head, "-" * max(len(line) for line in (head, *body)), *body]
    lines = [
        section.title,
        "=" * len(section.title),
        *_wrapped(section.facts),
        *_bullets(section.header, section.legend),
        "",
    ]
    notes = [line for number, text in enumerate(section.footnotes, 1) for line in _wrapped(f"[{number}] {text}", 4)]
    return "\n".join([*lines, *(line.rstrip() for line in table), *notes])


def _bullets(header: Sequence[str], legend: str) -> list[str]:
    return [line for text in (*header, legend) if text for line in _wrapped(f"- {text}", 2)]


def _wrapped(text: str, indent: int = 0) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent=" " * indent, break_on_hyphens=False)


def markdown(rows: Iterable[Row], metric: str) -> str:
    """Return the tables in Markdown."""
    return "\n".join(_markdown_section(section) for section in sections(rows, metric))


def _markdown_section(section: Section) -> str:
    from tabulate import tabulate

    table = tabulate(
        [list(map(cells.markdown, line)) for line in section.cells],
        headers=[cells.markdown(name) for name in section.columns],
        tablefmt="pipe",
        disable_numparse=True,
        colalign=["right" if numeric else "left" for numeric in section.numeric],
    )
    header = [f"- {cells.markdown(text)}" for text in (*section.header, section.legend) if text]
    notes = [f"{number}. {cells.markdown(text)}" for number, text in enumerate(section.footnotes, 1)]
    parts = [
        f"## {cells.markdown(section.title)}",
        cells.markdown(section.facts),
        "\n".join(header),
        table,
        "\n".join(notes),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"
