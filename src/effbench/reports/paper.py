"""A report for a paper: booktabs tables with captions, a methods paragraph, and BibTeX."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from effbench.reports import published
from effbench.reports.latex import escape, table
from effbench.reports.layout import Section, conditions_in_words, sections
from effbench.reports.rows import check_metric
from effbench.schema import Row

NOT_COVERED = (
    "Decoding and preprocessing of images are outside the timed interval, and so are energy, throughput of parallel "
    "requests, and accuracy on any data set unless a table says that it was measured."
)


def latex(rows: Iterable[Row], metric: str) -> str:
    """Return every section as a LaTeX table with its caption; needs the packages booktabs and textcomp."""
    return "\n\n".join(_table(section, metric) for section in sections(rows, metric)) + "\n"


def paper(rows: Sequence[Row], metric: str) -> str:
    """Return the tables and the methods paragraph, for an input command."""
    needs = "% Needs \\usepackage[T1]{fontenc} and \\usepackage{booktabs}; the cite keys are in references.bib."
    return f"{needs}\n{latex(rows, metric)}\n\\paragraph{{Latency measurement.}}\n{methods(rows)}\n"


def bibtex(rows: Iterable[Row]) -> str:
    """Return the entries of the papers that any published figure in the rows comes from, sorted by key."""
    entries = published.bibliography()
    keys = sorted({key for row in rows for key in row.citations})
    return "\n\n".join(entries[key] for key in keys) + ("\n" if keys else "")


def methods(rows: Sequence[Row]) -> str:
    """Describe in LaTeX how the rows were measured, and what was not measured."""
    measured = [row for row in rows if row.source == "measured"]
    sentences = [_where(measured), _how(measured), _statistics(measured), _trust(measured), _models(measured)]
    unmeasured = _unmeasured(rows)
    return "\n".join(sentence for sentence in (*sentences, *unmeasured) if sentence)


def _table(section: Section, metric: str) -> str:
    slug = re.sub(r"[^a-z0-9]+", "-", section.title.lower()).strip("-")
    return table(section, caption(section, metric), f"tab:effbench-{slug}", tuple(_constant(section)))


def _constant(section: Section) -> dict[str, str]:
    """Return the columns that hold one value in all rows; the caption states it, since a page is narrow."""
    columns = {name: {cells[index] for cells in section.cells} for index, name in enumerate(section.columns)}
    candidates = ("target", "precision", "weights", "run")
    return {name: next(iter(columns[name])) for name in candidates if len(columns.get(name, ())) == 1}


def caption(section: Section, metric: str) -> str:
    """Write a section's caption in LaTeX: quantities, device, conditions, and how accuracies are marked."""
    first = section.rows[0]
    side = first.shapes
    if first.source == "published":
        device = first.device or "device not stated"
        start = f"Published latency at {side} px and {check_metric(metric)} on: {device}. Not measured here."
    else:
        same = "; ".join(f"{name} {value}" for name, value in _constant(section).items() if name != "run")
        start = f"Latency at {side} px and {check_metric(metric)} on device {first.device}. {section.facts}."
        start += f" All rows: {same}." if same else ""
    cited = sorted({key for row in section.rows for key in row.citations})
    cite = f" Published figures: \\cite{{{','.join(cited)}}}." if cited else ""
    return escape(" ".join([start, *section.header])) + cite


def _where(rows: Sequence[Row]) -> str:
    devices = _unique(f"{row.device} ({'; '.join(part for part in (row.machine, row.system) if part)})" for row in rows)
    runtimes = _unique(f"{row.target} ({row.runtime})" if row.runtime else row.target for row in rows)
    return escape(f"Latency was measured on {_listed(devices)} with {_listed(runtimes)}.") if rows else ""


def _how(rows: Sequence[Row]) -> str:
    sizes = _unique(f"{row.shapes.label}" for row in rows)
    runs = _unique(conditions_in_words(row) for row in rows)
    return escape(f"Input sizes were {_listed(sizes)}; conditions: {'; '.join(runs)}.") if rows else ""


def _statistics(rows: Sequence[Row]) -> str:
    rounds = [row.rounds for row in rows if row.rounds]
    samples = [row.samples for row in rows if row.samples]
    if not rounds or not samples:
        return ""
    return escape(
        f"Every row rests on {_span(rounds)} rounds, each a fresh process, and {_span(samples)} timed inferences after "
        "warm-up; percentiles are over all rounds with equal weight, and 95 % intervals take the round as their unit."
    )


def _trust(rows: Sequence[Row]) -> str:
    grades = [row.trust for row in rows if row.trust]
    if not grades:
        return ""
    counts = _listed([f"{grades.count(grade)} graded {grade}" for grade in sorted(set(grades))])
    reasons = _unique(reason for row in rows for reason in row.trust_reasons)
    why = f" Reasons for a grade below A: {'; '.join(reasons)}." if reasons else ""
    return escape(f"Of {len(grades)} rows, {counts}; rows graded D are on no Pareto front.{why}")


def _models(rows: Sequence[Row]) -> str:
    sentences = []
    for kind in ("untrained", "file", "pretrained"):
        names = _unique(row.model for row in rows if row.weights == kind)
        if names:
            sentences.append(f"Models with weights of kind {kind}: {_listed(names)}.")
    rebuilt = _unique(row.model for row in rows if row.reconstruction)
    if rebuilt:
        sentences.append(f"Reconstructed from a publication, not the authors' models: {_listed(rebuilt)}.")
    failed = _unique(f"{row.model} on {row.target}" for row in rows if row.fidelity_passed is False)
    unchecked = _unique(f"{row.model} on {row.target}" for row in rows if row.fidelity_passed is None)
    if failed:
        sentences.append(f"Failed the comparison with the reference, so on no front: {_listed(failed)}.")
    if unchecked:
        sentences.append(f"Not compared with the reference: {_listed(unchecked)}.")
    return escape(" ".join(sentences))


def _unmeasured(rows: Sequence[Row]) -> Iterable[str]:
    borrowed = _unique(row.model for row in rows if row.source == "measured" and row.borrowed)
    if borrowed:
        yield escape(
            f"Not measured: the accuracy of {_listed(borrowed)}; it is borrowed from publications and was not "
            "produced by the weights that were timed."
        )
    if any(row.source == "published" for row in rows):
        yield "Rows marked published were not measured and are not ranked with measured ones."
    yield escape(NOT_COVERED)


def _unique(texts: Iterable[str]) -> list[str]:
    return sorted({text for text in texts if text})


def _listed(texts: Sequence[str]) -> str:
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}" if texts else ""


def _span(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low} to {high}"
