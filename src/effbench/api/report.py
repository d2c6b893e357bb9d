"""Report: what the store holds, as accuracy against latency."""

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

    from effbench.reports.rows import Accuracy
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
    from effbench.profiles.trust import grade
    from effbench.reports.rows import check_metric

    check_metric(metric)
    store = Store(home_of(out))
    measurements = list(store)
    if not measurements:
        raise DataError(f"{store.path} holds no measurement yet.", hint="Measure something: effbench profile")

    def judge(one: Measurement) -> tuple[str, tuple[str, ...]]:
        return grade(one.samples, one.before, one.after)

    found = measured(store.evaluations(), {one.digest for one in measurements}) if metric == "top1" else {}
    return list(build_rows(measurements, grade=judge, metric=metric, accuracies=found, published_rows=published))


def measured(evaluations: Sequence[Evaluation], digests: Collection[str]) -> dict[str, Accuracy]:
    """Return the top-1 accuracy measured of each digest, all on one data set: that of most of them, then
    the latest.

    Of several engines the hardware comes before a simulator, then the one that saw more images.
    """
    from effbench.api.evaluate.accuracy import within
    from effbench.reports.rows import Accuracy

    fitting = [one for one in evaluations if one.as_declared and one.digest in digests]
    reach: dict[str, set[str]] = {}
    last: dict[str, str] = {}
    for one in fitting:
        reach.setdefault(one.data.sha256, set()).add(one.digest)
        last[one.data.sha256] = max(one.time, last.get(one.data.sha256, ""))
    chosen = max(reach, key=lambda data: (len(reach[data]), last[data]), default=None)
    found = {}
    for one in sorted(fitting, key=lambda one: (not one.simulated, len(one.predictions))):
        top1 = within(one.predictions, 1)
        if one.data.sha256 != chosen or top1 is None:
            continue
        part = "" if top1.of == one.data.images else f" of {one.data.images}"
        found[one.digest] = Accuracy(
            value=top1.pct,
            status="measured",
            source=f"here: {top1.hits} of {top1.of} right on {one.data.name} ({top1.of}{part} images, "
            f"{one.data.sha256[:12]}), {one.engine}",
            borrowed=False,
            interval=top1.interval_pct,
            digest=one.digest,
            data=one.data.sha256,
        )
    return found


def report(metric: str = "top1", *, published: str = "same", out: str | Path | None = None) -> pandas.DataFrame:
    """Return the report as a DataFrame: one line per row, raw numbers, units in the column names.

    Args:
        metric: top1, coco_ap or ade_miou.
        published: Which published latencies stand beside the measured ones: none, same (models and sizes) or all.
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
    """Render the report and write the asked-for formats and plots to ``report-METRIC`` below the output folder.

    Raises:
        UsageError: A metric or format is unknown.
        DataError: Nothing has been measured yet, or the folder cannot be written.
    """
    found = rows(metric, published=published, out=out)
    files: tuple[Path, ...] = ()
    if formats or plot or paper:
        folder = home_of(out) / f"report-{metric}"
        files = write_report(found, folder, formats, metric=metric, plots=plot, paper=paper)
    return Report(tuple(found), render(found, "terminal", metric), render(found, "json", metric), files)
