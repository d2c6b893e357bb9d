"""The verdicts of ``compare`` and ``gate`` in several formats.

Importing this package is cheap: a format is imported when it is rendered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from effbench.errors import unknown_name

if TYPE_CHECKING:
    from effbench.statistics.verdict import ComparisonReport

__all__ = ["FILES", "FORMATS", "render", "write"]

FORMATS = {
    "terminal": ("effbench.reports.gate.text:terminal", "gate.txt"),
    "markdown": ("effbench.reports.gate.text:markdown", "gate.md"),
    "junit": ("effbench.reports.gate.ci:junit", "gate.xml"),
    "json": ("effbench.reports.gate.ci:as_json", "gate.json"),
    "github": ("effbench.reports.gate.ci:github", "gate-annotations.txt"),
    "bencher": ("effbench.reports.gate.ci:bencher", "gate-bencher.json"),
    "action-benchmark": ("effbench.reports.gate.ci:action_benchmark", "gate-action-benchmark.json"),
}
"""Format name: the function (report) -> text, and the file it is written to."""

FILES = tuple(name for name in FORMATS if name != "terminal")
"""The formats that a command writes to files."""


def render(report: ComparisonReport, format: str) -> str:
    """Return a report in one of `FORMATS`.

    Raises:
        UsageError: The format is unknown.
    """
    if format not in FORMATS:
        raise unknown_name(format, FORMATS, "format")
    module, name = FORMATS[format][0].split(":")
    renderer: Callable[[ComparisonReport], str] = getattr(import_module(module), name)
    return renderer(report)


def write(report: ComparisonReport, formats: Sequence[str], folder: Path) -> list[Path]:
    """Write a report in several formats below a folder and return the files.

    Raises:
        UsageError: A format is unknown.
        DataError: The folder cannot be written.
    """
    from effbench.store import write_atomically

    files = []
    for name in formats:
        text = render(report, name)
        files.append(folder / FORMATS[name][1])
        write_atomically(files[-1], text)
    return files
