"""Report: the stored measurements, as accuracy against latency."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from effbench.errors import DataError
from effbench.reports import build_rows, frame, render, write_report
from effbench.store import Store
from effbench.store import home as home_of

if TYPE_CHECKING:
    import pandas

    from effbench.reports.accuracy import Accuracy
    from effbench.schema import Evaluation, Measurement, Row


@dataclass(frozen=True)
class Report:
    """A report: its rows, the same as text and as JSON, and the files that were written."""

    rows: tuple[Row, ...]
    text: str
    json: str
    files: tuple[Path, ...]


def rows(metric: str = "top1", *, published: str = "same", out: str | Path | None = None) -> list[Row]:
    """Return the rows of every measurement in the store, graded, with accuracy and its provenance.

    Raises:
        UsageError: The metric is unknown.
        DataError: Nothing has been measured yet, or the store cannot be read.
    """
    from effbench.profiles.trust import grade_of
    from effbench.reports.rows import check_metric

    check_metric(metric)
    store = Store(home_of(out))
    measurements = list(store)
    if not measurements:
        raise DataError(f"{store.path} holds no measurement yet.", hint="Measure something: effbench profile")

    def trust(measurement: Measurement) -> tuple[str, tuple[str, ...]]:
        return grade_of(measurement)

    digests = {measurement.digest for measurement in measurements}
    accuracies = measured_accuracies(store.evaluations(), digests) if metric == "top1" else {}
    return list(build_rows(measurements, grade=trust, metric=metric, accuracies=accuracies, published_rows=published))


def measured_accuracies(evaluations: Sequence[Evaluation], digests: Collection[str]) -> dict[str, Accuracy]:
    """Return the measured top-1 accuracy of each digest, all on one data set.

    That data set was used for most of the digests or, among equals, last. Hardware takes precedence over a simulator,
    and then more images over fewer.
    """
    from effbench.api.evaluate.accuracy import within
    from effbench.reports.accuracy import Accuracy

    candidates = [item for item in evaluations if item.as_declared and item.digest in digests]
    evaluated: dict[str, set[str]] = {}
    latest: dict[str, str] = {}
    for item in candidates:
        evaluated.setdefault(item.data.sha256, set()).add(item.digest)
        latest[item.data.sha256] = max(item.time, latest.get(item.data.sha256, ""))
    chosen = max(evaluated, key=lambda data: (len(evaluated[data]), latest[data]), default=None)
    accuracies = {}
    for item in sorted(candidates, key=lambda item: (not item.simulated, len(item.predictions))):
        top1 = within(item.predictions, 1)
        if item.data.sha256 != chosen or top1 is None:
            continue
        part = "" if top1.of == item.data.images else f" of {item.data.images}"
        accuracies[item.digest] = Accuracy(
            value=top1.pct,
            status="measured",
            source=f"here: {top1.hits} of {top1.of} right on {item.data.name} ({top1.of}{part} images, "
            f"{item.data.sha256[:12]}), {item.engine}",
            borrowed=False,
            interval=top1.interval_pct,
            digest=item.digest,
            data=item.data.sha256,
        )
    return accuracies


def report(metric: str = "top1", *, published: str = "same", out: str | Path | None = None) -> pandas.DataFrame:
    """Return the report as a DataFrame: one line per row, raw numbers, units in the column names.

    Args:
        metric: top1, coco_ap or ade_miou.
        published: Which published latencies are listed: none, same (models and sizes) or all.
        out: The folder to read from.
    """
    return frame(rows(metric, published=published, out=out))


def write(
    metric: str = "top1",
    *,
    formats: Sequence[str] = (),
    plot: bool = False,
    paper: bool = False,
    published: str = "same",
    out: str | Path | None = None,
) -> Report:
    """Render the report and write the requested formats and plots to ``report-METRIC`` below the output folder.

    Raises:
        UsageError: A metric or format is unknown.
        DataError: Nothing has been measured yet, or the folder cannot be written.
    """
    report_rows = rows(metric, published=published, out=out)
    files: tuple[Path, ...] = ()
    if formats or plot or paper:
        folder = home_of(out) / f"report-{metric}"
        files = write_report(report_rows, folder, formats, metric=metric, plots=plot, paper=paper)
    text, document = (render(report_rows, form, metric) for form in ("terminal", "json"))
    return Report(tuple(report_rows), text, document, files)
