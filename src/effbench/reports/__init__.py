"""From measurements to tables, plots and the verdict; never needs torch.

`build_rows` makes rows, `render` returns them as text, `frame` as a DataFrame, and `write_report` writes a folder.
Importing this package is cheap: pandas, tabulate and matplotlib are imported where they are used.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effbench.errors import DataError, unknown_name

if TYPE_CHECKING:
    import pandas

    from effbench.reports.accuracy import Accuracy
    from effbench.reports.rows import METRICS, build_rows
    from effbench.schema import Row

__all__ = [
    "FILES",
    "FORMATS",
    "METRICS",
    "TABLE_FORMATS",
    "Accuracy",
    "build_rows",
    "frame",
    "render",
    "write_report",
    "write_tables",
]

FORMATS = {
    "terminal": ("effbench.reports.table:terminal", "txt"),
    "markdown": ("effbench.reports.table:markdown", "md"),
    "csv": ("effbench.reports.table:csv_text", "csv"),
    "json": ("effbench.reports.table:json_text", "json"),
    "html": ("effbench.reports.page:page", "html"),
    "latex": ("effbench.reports.paper:latex", "tex"),
}
"""Format name: the function (rows, metric) -> text, and the suffix of its file."""

FILES = tuple(name for name in FORMATS if name != "terminal")
"""The formats that a command writes to files."""

TABLE_FORMATS = {"markdown": "md", "json": "json", "csv": "csv"}
"""Format of the table of a sweep, over targets or over devices: the suffix of its file."""


def render(rows: Sequence[Row], format: str = "terminal", metric: str = "top1") -> str:
    """Return the report in one of `FORMATS`; the same rows give the same text.

    Raises:
        UsageError: The format or the metric is unknown.
    """
    return _writer(format)(rows, metric)


def frame(rows: Sequence[Row]) -> pandas.DataFrame:
    """Return one line per row: raw numbers, units in the column names."""
    from effbench.reports.table import frame as build

    return build(rows)


def write_report(
    rows: Sequence[Row],
    folder: Path,
    formats: Sequence[str] = ("markdown", "csv", "json", "html"),
    *,
    metric: str = "top1",
    plots: bool = True,
    paper: bool = False,
) -> tuple[Path, ...]:
    """Write ``report.*`` in each format, plots as PNG and SVG, and with ``paper`` its LaTeX and BibTeX.

    Returns:
        The files written, in order.

    Raises:
        UsageError: A format or the metric is unknown.
        DataError: The folder cannot be written.
        MissingDependencyError: ``plots`` is true and matplotlib is not installed.
    """
    for name in formats:
        _writer(name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        figures = _plots(rows, metric, folder) if plots else []
        written = [path.with_suffix(suffix) for _, path in figures for suffix in (".svg", ".png")]
        for name in formats:
            text = _page(rows, metric, figures) if name == "html" else render(rows, name, metric)
            written.append(_write(folder / f"report.{FORMATS[name][1]}", text))
        if paper:
            written += _paper(rows, metric, folder)
    except OSError as error:
        raise DataError(f"Cannot write the report to {folder}: {error.strerror}.") from error
    return tuple(written)


def write_tables(stem: str, text: Callable[[str], str], formats: Sequence[str], folder: Path) -> list[Path]:
    """Write the table of a sweep in several formats and return the files.

    Args:
        stem: The name of each file, without its suffix.
        text: Returns the table in a format.
        formats: Of `TABLE_FORMATS`.
        folder: Where the files go.

    Raises:
        UsageError: A format is unknown.
        DataError: The folder cannot be written.
    """
    from effbench.store import write_atomically

    files = []
    for name in formats:
        if name not in TABLE_FORMATS:
            raise unknown_name(name, TABLE_FORMATS, "format")
        files.append(folder / f"{stem}.{TABLE_FORMATS[name]}")
        write_atomically(files[-1], text(name))
    return files


def _writer(format: str) -> Callable[[Sequence[Row], str], str]:
    if format not in FORMATS:
        raise unknown_name(format, FORMATS, "report format")
    module, name = FORMATS[format][0].split(":")
    writer: Callable[[Sequence[Row], str], str] = getattr(import_module(module), name)
    return writer


def _plots(rows: Sequence[Row], metric: str, folder: Path) -> list[tuple[Hashable, Path]]:
    from effbench.reports.plot import write_plots

    return write_plots(rows, metric, folder)


def _page(rows: Sequence[Row], metric: str, figures: Sequence[tuple[Hashable, Path]]) -> str:
    from effbench.reports.page import page

    return page(rows, metric, [(key, path.read_text(encoding="utf-8")) for key, path in figures])


def _paper(rows: Sequence[Row], metric: str, folder: Path) -> list[Path]:
    from effbench.reports.paper import bibtex, paper

    return [
        _write(folder / "paper.tex", paper(rows, metric)),
        _write(folder / "references.bib", bibtex(rows)),
    ]


def _write(path: Path, text: str) -> Path:
    from effbench.store import write_atomically

    write_atomically(path, text)
    return path


def __getattr__(name: str) -> Any:
    modules = {"METRICS": "rows", "build_rows": "rows", "Accuracy": "accuracy"}
    if name in modules:
        return getattr(import_module(f"effbench.reports.{modules[name]}"), name)
    raise AttributeError(f"module 'effbench.reports' has no attribute {name!r}")
