"""Latency over time of sustained rounds, with the time at which throttling starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from effbench.errors import MissingDependencyError
from effbench.reports.figures import save
from effbench.reports.plot import COLORS, GRID, INK, SOFT, STYLE


@dataclass(frozen=True)
class Line:
    """One curve: seconds, milliseconds, and where throttling starts, if it does."""

    label: str
    time_s: tuple[float, ...]
    median_ms: tuple[float, ...]
    throttles_at_s: float | None = None


def draw(lines: Sequence[Line], title: str, path: Path) -> list[Path]:
    """Write the curves as PNG and SVG beside each other.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingDependencyError("A plot", "matplotlib", "plots") from None
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.0, 4.0), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        for index, line in enumerate(lines):
            color = COLORS[index % len(COLORS)]
            minutes = [second / 60 for second in line.time_s]
            axes.plot(minutes, line.median_ms, color=color, linewidth=1.6, label=line.label)
            if line.throttles_at_s is not None:
                axes.axvline(line.throttles_at_s / 60, color=color, linewidth=1, linestyle=(0, (4, 3)))
                axes.annotate(
                    f"throttling from minute {line.throttles_at_s / 60:.1f}",
                    (line.throttles_at_s / 60, 0.04 + 0.06 * index),
                    xycoords=("data", "axes fraction"),
                    xytext=(5, 0),
                    textcoords="offset points",
                    fontsize=8,
                    color=color,
                )
        axes.set_ylim(bottom=0)
        axes.set_xlim(left=0)
        axes.set_xlabel("minutes")
        axes.set_ylabel("median latency, ms")
        axes.set_title(title if len(lines) > 1 else f"{title}, {lines[0].label}", loc="left", color=INK, fontsize=11)
        axes.grid(axis="y", color=GRID)
        axes.spines[["top", "right"]].set_visible(False)
        if len(lines) > 1:
            axes.legend(frameon=False, labelcolor=SOFT, loc="lower right")
        files = [path.with_name(f"{path.name}.png"), path.with_name(f"{path.name}.svg")]
        for file in files:
            save(figure, file)
    return files
