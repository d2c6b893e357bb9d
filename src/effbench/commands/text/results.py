"""Tables of exported cells, latencies, kits and imported figures."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from effbench.commands.text import proofs
from effbench.commands.text.layout import table
from effbench.reports.grouping import grouped
from effbench.schema import Cell, Measurement

if TYPE_CHECKING:
    from effbench.api.devices.kits import Kit
    from effbench.api.profile.run import Profile

CELLS = (
    *("model", "px", "precision", "target", "status", "proved by", "max error", "cosine", "SNR dB"),
    *("time", "artifact"),
)
LATENCY = (
    *("model", "px", "target", "precision", "p50 ms [95 %]", "p90 ms [95 %]", "p99 ms"),
    *("img/s", "first ms", "load ms", "peak MiB", "trust"),
)


def cells(rows: Sequence[Cell], next_line: str | None = None) -> str:
    """Return a table of cells, the reasons of those that are not ok, and remarks, each printed once."""
    # A model without an image has shapes in place of pixels.
    header = CELLS if all(row.shapes.image for row in rows) else ("model", "input", *CELLS[2:])
    lines = [table(header, map(_cell, rows))]
    if any(row.fidelity for row in rows):
        lines.append("max error: of the spread of outputs between images, against the fp32 reference")
    compared = [(name_of(row), text) for row in rows for text in proofs.lines(row)]
    lines += grouped(_kinds(rows), len(rows))
    lines += [*outcomes(rows), *grouped(_remarks(rows), len(rows)), *grouped(compared, len(rows), ranges=True)]
    return "\n".join([*lines, *([next_line] if next_line else [])])


def _cell(cell: Cell) -> tuple[str, ...]:
    fidelity = cell.fidelity
    return (
        cell.model,
        str(cell.shapes),
        cell.precision,
        cell.target,
        cell.verdict + _mark(cell) + (" (cached)" if cell.cached else ""),
        "" if cell.proved_by is None else str(cell.proved_by),
        "" if fidelity is None else f"{fidelity.max_error:.1e}",
        "" if fidelity is None else f"{fidelity.cosine:.6f}",
        "" if fidelity is None or fidelity.snr_db is None else f"{fidelity.snr_db:.1f}",
        f"{cell.seconds:.1f} s",
        cell.artifact,
    )


def _mark(cell: Cell) -> str:
    """Mark a cell whose graph only one engine ran; the line about its proof explains it."""
    return "" if cell.graph_fidelity is None or cell.graph_fidelity.independent else " (one engine)"


def _remarks(rows: Sequence[Cell]) -> Iterator[tuple[str, str]]:
    for cell in rows:
        for note in cell.notes:
            yield name_of(cell), note


def _kinds(rows: Sequence[Cell]) -> Iterator[tuple[str, str]]:
    """Yield how the outputs of cells are judged, where they are not plain logits or features."""
    for cell in rows:
        outputs = () if cell.fidelity is None else cell.fidelity.by_output
        if any(item.kind not in ("logits", "features") for item in outputs):
            listed = ", ".join(f"{item.name}: {item.kind}" for item in outputs)
            yield name_of(cell), f"outputs judged as {listed} (export --output-kind NAME=KIND, if that is wrong)"


def name_of(cell: Cell) -> str:
    """Return how a cell is called below a table."""
    return f"{cell.model} {cell.shapes.label} {cell.precision} {cell.target}"


def outcomes(rows: Sequence[Cell]) -> list[str]:
    """Return the reason of every cell that is not ok, with the next step and the record of its failure."""
    reasons = [(name_of(cell), f"{cell.status}: {_reason(cell)}") for cell in rows if cell.reason]
    records = [f"  log and script of {name_of(cell)}: {cell.record}" for cell in rows if cell.record]
    return [*grouped(reasons, len(rows)), *records]


def _reason(cell: Cell) -> str:
    return f"{cell.reason}\n  {cell.next_step}" if cell.next_step else cell.reason


def profile(result: Profile) -> str:
    """Return the latencies, their conditions and their trust, and why some artifacts have none."""
    from effbench.commands.text import protocol, starts
    from effbench.profiles.trust import grade_of

    measurements = result.measurements
    lines = list(dict.fromkeys(result.messages))
    if measurements:
        grades = [grade_of(item) for item in measurements]
        body = [_latency(item, trust) for item, (trust, _) in zip(measurements, grades, strict=True)]
        header: tuple[str, ...] = LATENCY
        if len({item.subject.batch for item in measurements}) > 1:
            header = ("batch", *header)
            body = [(str(item.subject.batch), *row) for item, row in zip(measurements, body, strict=True)]
        lines += [table(header, body), *_conditions(measurements)]
        shares = [(measured(item), _slow_processes(item)) for item in measurements]
        lines += grouped(shares, len(measurements), ranges=True)
        lines += [f"{measured(item)}: {text}" for item in measurements for text in starts.lines(item.samples)]
        lines += [f"{measured(item)}: {text}" for item in measurements for text in protocol.lines(item)]
        doubts = [
            (measured(item), reason)
            for item, (_, reasons) in zip(measurements, grades, strict=True)
            for reason in reasons
        ]
        lines += [f"trust, {text}" for text in grouped(doubts, len(measurements), ranges=True)]
        if any(item.subject.fidelity_passed is False for item in measurements):
            lines.append("(failed): it failed verification, so it is not the model")
        lines += [f"* {text}" for text in dict.fromkeys(m.subject.reconstruction for m in measurements) if text]
    lines += outcomes(result.cells)
    if result.interrupted:
        lines.append("Interrupted: the rounds measured so far are kept.")
    return "\n".join(lines)


def kit(result: Kit) -> str:
    """Return the artifacts of a kit, the steps that its holder takes, and why some artifacts are missing."""
    return "\n".join([f"wrote {result.folder}: {', '.join(result.artifacts)}", *result.steps, *outcomes(result.cells)])


def imported(measurements: Sequence[Measurement], next_line: str) -> str:
    """Return the imported figures and what is known about them."""
    from effbench.reports.layout import aggregate_note

    header = ("model", "px", "target", "precision", "device", "p50 ms", "samples", "scope", "tool")
    remarks = []
    for item in measurements:
        aggregate = item.samples.aggregate
        notes = (*([aggregate_note(aggregate)] if aggregate else []), *item.notes, *item.doubts)
        remarks += [(measured(item), note) for note in notes]
    lines = [table(header, map(_imported, measurements)), *grouped(remarks, len(measurements))]
    return "\n".join([*lines, next_line])


def _imported(item: Measurement) -> tuple[str, ...]:
    rounds = [one.samples_ns for one in item.samples.rounds]
    # An aggregate is no sample: its percentiles are not those of the latency.
    median = f"{statistics.median(itertools.chain(*rounds)) / 1e6:.3f}"
    p50 = median if item.samples.aggregate else _quantile(rounds, 0.5)
    samples = f"{sum(map(len, rounds))} in {_count(len(rounds), 'round')}"
    return (*_subject(item), item.device, p50, samples, item.samples.scope, item.settings["tool"])


def _latency(item: Measurement, trust: str) -> tuple[str, ...]:
    rounds = [one.samples_ns for one in item.samples.rounds]
    percentiles = (_quantile(rounds, 0.5), _quantile(rounds, 0.9, typical=True), _quantile(rounds, 0.99))
    return (*_subject(item), *percentiles, *_throughput_and_memory(item), trust)


def _slow_processes(item: Measurement) -> str:
    """Return how many processes were slow, and the p90 over all processes where some were."""
    from effbench.statistics import percentiles

    rounds = [one.samples_ns for one in item.samples.rounds]
    share = percentiles.slow_processes(rounds)
    low, high = (100 * edge for edge in share.interval)
    text = f"{share.slow} of {_count(share.count, 'process', 'processes')} more than {percentiles.SLOW_PCT:g} % slower"
    if not share.slow:
        return f"{text} than the typical one: at most {high:.0f} % of all are, with 95 % confidence"
    pooled = _quantile(rounds, 0.9)
    everywhere = "" if pooled == "-" else f"; p90 over all processes {pooled} ms"
    return f"{text} than the typical one: {low:.0f} to {high:.0f} % of all are, with 95 % confidence{everywhere}"


def _conditions(measurements: Sequence[Measurement]) -> list[str]:
    """Return the conditions of the measurements: what all share in one line, what some differ in below it."""
    facts = [
        (
            f"{one.device}, {one.before.get('cpu_model')}",
            f"batch {one.settings['batch']}, {_count(int(one.settings['threads']), 'thread')}, "
            f"{one.samples.scope}, {one.samples.protocol}",
            f"{_count(len(one.samples.rounds), 'round')} in fresh processes",
            f"weights {one.subject.weights.kind}",
        )
        for one in measurements
    ]
    shared = [fact for fact in facts[0] if all(fact in others for others in facts)]
    other = [
        (measured(one), fact)
        for one, own in zip(measurements, facts, strict=True)
        for fact in own
        if fact not in shared
    ]
    return ["; ".join(shared), *grouped(other, len(measurements))]


def _count(number: int, noun: str, plural: str = "") -> str:
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def measured(item: Measurement) -> str:
    """Return how a measurement is called below a table."""
    subject = item.subject
    batch = "" if subject.batch == 1 else f" batch {subject.batch}"
    return f"{subject.model} {subject.shapes.label}{batch} {subject.storage_precision} {subject.target}"


def _subject(item: Measurement) -> tuple[str, ...]:
    subject = item.subject
    mark = " *" if subject.reconstruction else ""
    mark += " (failed)" if subject.fidelity_passed is False else ""
    compute_precision = subject.compute_precision or subject.storage_precision
    precision = (
        subject.storage_precision
        if compute_precision == subject.storage_precision
        else f"{subject.storage_precision}, computed {compute_precision}"
    )
    return (subject.model + mark, str(subject.shapes), subject.target, precision)


def _quantile(rounds: Sequence[Sequence[int]], p: float, typical: bool = False) -> str:
    from effbench.statistics import percentiles

    quantile = percentiles.typical(rounds, p) if typical else percentiles.estimate(rounds, p)
    if quantile is None:
        return "-"
    text = f"{quantile.value / 1e6:.3f}"
    if quantile.interval is None or p > 0.95:
        return text
    low, high = quantile.interval
    return f"{text} [{low / 1e6:.3f}, {'open' if math.isinf(high) else f'{high / 1e6:.3f}'}]"


def _throughput_and_memory(item: Measurement) -> tuple[str, ...]:
    from effbench.statistics.percentiles import images_per_second

    rounds = item.samples.rounds
    rate = images_per_second([one.samples_ns for one in rounds], item.subject.batch)
    starts = item.samples.cached_starts
    first, load = (statistics.median(values) for values in ([r.first_ms for r in starts], [r.load_ms for r in starts]))
    peak = max(one.peak_rss_bytes for one in rounds) / 2**20
    return ("-" if item.samples.aggregate else f"{rate:.1f}", f"{first:.1f}", f"{load:.0f}", f"{peak:.0f}")
