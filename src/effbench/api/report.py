"""Report: what the store holds, as accuracy against latency."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from effbench.errors import DataError
from effbench.reports import build_rows, frame, render, write_report
from effbench.store import Store
from effbench.store import home as home_of

if TYPE_CHECKING:
    import pandas

    from effbench.schema import Measurement, Row


@dataclass(frozen=True)
class Report:
    """A report as text, as JSON, and the files that were written."""

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

    return list(build_rows(measurements, grade=judge, metric=metric, published_rows=published))


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
    return Report(render(found, "terminal", metric), render(found, "json", metric), files)
