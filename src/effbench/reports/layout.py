"""Cut rows into sections, one per device and resolution, and write their cells, headers and footnotes as text.

Every format shows the same cells; `table`, `page` and `paper` decide how they are drawn.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass

from effbench.errors import counted
from effbench.reports import pareto
from effbench.reports.grouping import merged, template
from effbench.reports.rows import check_metric, order
from effbench.reports.slower import slower_than_fp32
from effbench.schema import Row

EMPTY = "-"
BORROWED, IMPLIED, RECONSTRUCTION, FAILED = "*", "†", "(recon.)", "(failed)"
FEW_ROUNDS = "no interval: at least 6 rounds are needed"
FEW_SAMPLES = "not shown: too few samples for this percentile"
LEGEND = (
    "run: b = batch size, t = threads, e2e = end to end, from host arrays to host arrays. p50 has its 95 % interval "
    "over rounds; img/s is the mean rate. trust: from A (all checks passed) to D (on no front)."
)


@dataclass(frozen=True)
class Section:
    """One table: ``cells[i]`` belongs to ``rows[i]``; footnotes are numbered from 1 in the order they are met.

    ``legend`` explains the abbreviations of the columns; ``header`` holds what is special about these rows.
    """

    title: str
    facts: str
    header: tuple[str, ...]
    legend: str
    columns: tuple[str, ...]
    numeric: tuple[bool, ...]
    rows: tuple[Row, ...]
    cells: tuple[tuple[str, ...], ...]
    footnotes: tuple[str, ...]


class Footnotes:
    """Number texts in the order they are first used."""

    def __init__(self) -> None:
        self._texts: dict[str, list[str]] = {}

    def mark(self, *texts: str, ranges: bool = False) -> str:
        """Return `` [1]`` or `` [1,3]`` for the texts; an empty string without texts.

        With ``ranges``, texts that differ only in their numbers share a footnote, which has the range of each number.
        """
        keys = [template(text) if ranges else text for text in texts if text]
        for key, text in zip(keys, filter(None, texts), strict=True):
            self._texts.setdefault(key, []).append(text)
        order = list(self._texts)
        numbers = sorted({order.index(key) + 1 for key in keys})
        return f" [{','.join(map(str, numbers))}]" if numbers else ""

    @property
    def texts(self) -> tuple[str, ...]:
        """All footnotes so far; the first is number 1."""
        return tuple(map(merged, self._texts.values()))


Cell = Callable[[Row, Footnotes], str]


def sections(rows: Iterable[Row], metric: str) -> tuple[Section, ...]:
    """Return one section per origin, device, machine and resolution, in the order of the rows."""
    head = check_metric(metric)
    groups = itertools.groupby(sorted(rows, key=order), key=section_key)
    return tuple(_section(tuple(group), metric, head) for _, group in groups)


def title(row: Row) -> str:
    """Name the device and the size of a row's table, and its origin if it was not measured here."""
    origin = "" if row.source == "measured" else f" ({row.source})"
    return f"{row.device or 'device not stated'}, {row.shapes.label}{origin}"


def section_key(row: Row) -> tuple[Hashable, ...]:
    """Return the key that all rows of one table share."""
    return (row.source, row.device, row.machine, row.shapes)


def _section(rows: tuple[Row, ...], metric: str, head: str) -> Section:
    first, notes = rows[0], Footnotes()
    columns = _published_columns(head) if first.source == "published" else _measured_columns(head)
    cells = tuple(tuple(write(row, notes) for _, _, write in columns) for row in rows)
    return Section(
        title=title(first),
        facts=_facts(rows),
        header=tuple(_header(rows, metric)),
        legend=LEGEND if first.source == "measured" else "",
        columns=tuple(name for name, _, _ in columns),
        numeric=tuple(numeric for _, numeric, _ in columns),
        rows=rows,
        cells=cells,
        footnotes=notes.texts,
    )


def _measured_columns(head: str) -> list[tuple[str, bool, Cell]]:
    return [
        ("model", False, _model),
        ("target", False, _target),
        ("precision", False, lambda row, _: row.precision or EMPTY),
        ("weights", False, lambda row, _: row.weights or EMPTY),
        ("run", False, lambda row, _: conditions(row)),
        (head, True, _accuracy),
        ("p50 ms", True, _p50),
        ("p90 ms", True, _p90),
        ("img/s", True, lambda row, _: EMPTY if row.images_per_s is None else f"{row.images_per_s:.1f}"),
        ("params M", True, lambda row, _: _scaled(row.params, 1e6)),
        ("GMACs", True, lambda row, _: _scaled(row.macs, 1e9)),
        ("size MB", True, lambda row, _: _scaled(row.size_bytes, 1e6, digits=1)),
        ("trust", False, _trust),
        ("front", False, _front),
    ]


def _published_columns(head: str) -> list[tuple[str, bool, Cell]]:
    return [
        ("model", False, _model),
        (head, True, _accuracy),
        ("latency ms", True, lambda row, notes: milliseconds(row.p50_ms) + notes.mark(*row.notes)),
        ("params M", True, lambda row, _: _scaled(row.params, 1e6)),
        ("GMACs", True, lambda row, _: _scaled(row.macs, 1e9)),
        ("front", False, _front),
    ]


def milliseconds(value: float | None) -> str:
    """Write a latency with about four significant digits, or a dash if there is none."""
    if value is None:
        return EMPTY
    return f"{value:.{3 if value < 10 else 2 if value < 100 else 1}f}"


def conditions(row: Row) -> str:
    """Write batch, threads and scope in short: ``b1 t1 e2e``."""
    threads = "t?" if row.threads is None else f"t{row.threads}"
    protocol = "" if row.protocol == "back-to-back" else f" {row.protocol}"
    return f"b{row.batch} {threads} {'e2e' if row.scope == 'end-to-end' else 'device'}{protocol}"


def conditions_in_words(row: Row) -> str:
    """Write batch, threads, scope and protocol in full."""
    threads = "threads not stated" if row.threads is None else counted(row.threads, "thread")
    scope = "end to end" if row.scope == "end-to-end" else "device only"
    return f"batch {row.batch}, {threads}, {scope}, {row.protocol}"


def _model(row: Row, notes: Footnotes) -> str:
    marks = [RECONSTRUCTION] if row.reconstruction is not None else []
    marks += [FAILED] if row.fidelity_passed is False else []
    return " ".join([row.model, *marks])


def _target(row: Row, notes: Footnotes) -> str:
    return row.target + notes.mark(row.settings and f"set: {row.settings}", *row.notes)


def _accuracy(row: Row, notes: Footnotes) -> str:
    if row.accuracy is None:
        return EMPTY
    sign = IMPLIED if row.accuracy_status == "implied" else BORROWED if row.borrowed else ""
    low, high = row.accuracy_interval or (None, None)
    interval = "" if low is None or high is None else f" [{low:.1f}, {high:.1f}]"
    return f"{points(row.accuracy)}{interval}{sign}{notes.mark(_accuracy_note(row))}"


def points(value: float) -> str:
    """Write an accuracy as it is printed in papers: 80.4, 80.85, 81.0."""
    return f"{value:.2f}".removesuffix("0")


def _accuracy_note(row: Row) -> str:
    size = f" at {row.accuracy_px} px" if row.accuracy_px else ""
    return f"{row.accuracy_status}{size}, {row.accuracy_source}"


def _p90(row: Row, notes: Footnotes) -> str:
    return EMPTY + notes.mark(FEW_SAMPLES) if row.p90_ms is None else milliseconds(row.p90_ms)


def _p50(row: Row, notes: Footnotes) -> str:
    if row.aggregate:
        return milliseconds(row.p50_ms) + notes.mark(aggregate_note(row.aggregate))
    return _percentile(row.p50_ms, row.p50_interval_ms, notes)


def aggregate_note(aggregate: str) -> str:
    """Say that a figure is the statistic of a tool, not a percentile of raw samples."""
    return f"aggregate: {aggregate}; the tool gave no raw times"


def _percentile(value: float | None, interval: tuple[float, float] | None, notes: Footnotes) -> str:
    if value is None:
        return EMPTY + notes.mark(FEW_SAMPLES)
    if interval is None:
        return milliseconds(value) + notes.mark(FEW_ROUNDS)
    low, high = interval
    return f"{milliseconds(value)} [{milliseconds(low)}, {milliseconds(high)}]"


def _scaled(count: int | None, unit: float, digits: int = 2) -> str:
    return EMPTY if not count else f"{count / unit:.{digits}f}"


def _trust(row: Row, notes: Footnotes) -> str:
    reasons = [f"trust: {reason}" for reason in row.trust_reasons]
    return (row.trust or EMPTY) + notes.mark(*reasons, ranges=True)


def _front(row: Row, notes: Footnotes) -> str:
    name = pareto.front_name(row)
    if name:
        return name
    reason = pareto.obstacle(row)
    return EMPTY if reason is None else f"off{notes.mark(f'on no front: {reason}')}"


def _facts(rows: Sequence[Row]) -> str:
    first = rows[0]
    if first.source == "published":
        return "Published by others, on their device; not measured here."
    runs = "; ".join(dict.fromkeys(conditions_in_words(row) for row in rows))
    rounds = {row.rounds for row in rows if row.rounds}
    span = f"{min(rounds)} to {max(rounds)}" if len(rounds) > 1 else "".join(str(count) for count in rounds)
    parts = [first.machine, first.system, runs, f"{span} rounds, each a fresh process" if span else ""]
    return "; ".join(part for part in parts if part)


def _header(rows: Sequence[Row], metric: str) -> Iterable[str]:
    yield from _size_note(rows, metric)
    if any(row.fidelity_passed is False for row in rows):
        yield f"{FAILED} this artifact failed verification: it is not the model; it is on no front."
    if any(row.borrowed and row.accuracy_status != "implied" for row in rows):
        yield (
            f"{BORROWED} borrowed: this accuracy was published for other weights than the measured ones; "
            "it is drawn hollow and ranked only on the borrowed front."
        )
    if any(row.accuracy_status == "implied" for row in rows):
        yield f"{IMPLIED} implied: derived from published gains, itself unpublished; ranked only on the borrowed front."
    for text in dict.fromkeys(row.reconstruction.rstrip(".") for row in rows if row.reconstruction):
        borrows = any(row.borrowed for row in rows if row.reconstruction)
        borrowed_accuracy = " Its accuracy is the authors', not that of this reconstruction." if borrows else ""
        yield f"{RECONSTRUCTION} {text}.{borrowed_accuracy}"
    if any(row.accuracy_interval for row in rows):
        yield "An accuracy with a 95 % interval was measured here, on the same files as the latency."
    if len({pareto.comparable(row) for row in rows}) > 1:
        yield "Rows with different batch, threads, scope or protocol are listed together but never ranked together."
    yield from slower_than_fp32(rows)


def _size_note(rows: Sequence[Row], metric: str) -> Iterable[str]:
    side = rows[0].shapes
    accuracy_sizes = sorted(
        {row.accuracy_px for row in rows if row.accuracy_px and (row.accuracy_px,) * 2 != row.shapes.image}
    )
    if metric == "top1" and accuracy_sizes:
        sizes = " and ".join(str(px) for px in accuracy_sizes)
        yield (
            f"Top-1 was measured at {sizes} px, latency at {side} px: two different runs of the model. "
            "For latency at 512 px, compare a 512 px task metric: --metric coco_ap or ade_miou."
        )
    if metric != "top1":
        yield (
            "The task metric belongs to a whole detector or segmenter with this backbone at 512 px; the latency is "
            "that of the backbone alone" + ("." if rows[0].shapes.image == (512, 512) else f", at {side} px.")
        )
