"""Growth with resolution: a table, and a plot of latency and memory on logarithmic axes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from effbench.errors import MissingDependencyError
from effbench.reports.figures import save
from effbench.reports.growth import Growth, Series
from effbench.reports.plot import COLORS, GRID, SHAPES, SOFT, STYLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HEADER = ("model", "order", "target", "MACs", "latency exponent [95 %]", "memory exponent [95 %]", "misfit", "trust")


def table(series: Sequence[Series], style: str = "simple") -> str:
    """Return the exponents in pixels, then the latencies in ms, one column per size."""
    from tabulate import tabulate

    laws = [_laws(item) for item in series]
    sizes = sorted({px for item in series for px in item.px})
    columns = ("model", "target", *(f"{px} px" for px in sizes), f"MiB at {sizes[-1]} px" if sizes else "MiB")
    parts = [
        tabulate(laws, headers=HEADER, tablefmt=style, disable_numparse=True),
        tabulate([_values(item, sizes) for item in series], headers=columns, tablefmt=style, disable_numparse=True),
    ]
    return "\n\n".join([*parts, *missing(series)])


def missing(series: Iterable[Series]) -> list[str]:
    """Return one line per size without a measurement, with the reason."""
    return [
        f"{item.name} at {px} px on {item.target}: {why}"
        for item in series
        for px, why in sorted(item.failures.items())
    ]


def exponent(growth: Growth | None) -> str:
    """Return ``1.02 [0.99, 1.05]``, or ``1.02`` without an interval."""
    if growth is None:
        return "-"
    span = "" if growth.interval is None else f" [{growth.interval[0]:.2f}, {growth.interval[1]:.2f}]"
    return f"{growth.law.p:.2f}{span}"


def macs_exponent(series: Series) -> str:
    """Return ``1 exactly`` if the MACs are proportional to the pixels, else the slope between the last two sizes."""
    if len(series.px) < 2 or not all(series.macs):
        return "-"
    if series.exactly_linear:
        return "1 exactly"
    slope = np.log(series.macs[-1] / series.macs[-2]) / np.log(series.pixels[-1] / series.pixels[-2])
    return f"{slope:.2f} at the end"


def _laws(series: Series) -> tuple[str, ...]:
    latency, memory = series.growth("latency"), series.growth("memory")
    misfit = "-" if latency is None else f"{100 * latency.law.misfit:.0f} %"
    return (
        series.name,
        series.order,
        series.target,
        macs_exponent(series),
        exponent(latency),
        exponent(memory),
        misfit,
        series.trust,
    )


def _values(series: Series, sizes: Sequence[int]) -> tuple[str, ...]:
    latency = dict(zip(series.px, medians(series.latency_ms), strict=True)) if series.latency_ms else {}
    memory = dict(zip(series.px, medians(series.memory_bytes), strict=True)) if series.memory_bytes else {}
    peak = memory.get(sizes[-1]) if sizes else None
    cells = [f"{latency[px]:.3g}" if px in latency else "-" for px in sizes]
    return (series.name, series.target, *cells, "-" if peak is None else f"{peak / 2**20:.0f}")


def medians(passes: Sequence[Sequence[float]]) -> list[float]:
    """Return the median over passes of each size."""
    return [float(value) for value in np.median(np.asarray(passes, float), axis=0)]


def draw_series(series: Sequence[Series], folder: Path, name: str) -> tuple[Path, ...]:
    """Write ``NAME.svg`` and ``NAME.png``: medians over passes with their range, and the fitted laws.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingDependencyError("A plot", "matplotlib", "plots") from None
    folder.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 5.4), layout="constrained")
        FigureCanvasAgg(figure)
        panels: Any = figure.subplots(1, 2)
        for axes, quantity in zip(panels, ("latency", "memory"), strict=True):
            for index, item in enumerate(series):
                _draw(axes, item, quantity, index)
            _frame(axes, quantity, sorted({px for item in series for px in item.px}))
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8.2, frameon=False)
        paths = folder / f"{name}.svg", folder / f"{name}.png"
        for path in paths:
            save(figure, path)
    return paths


def _draw(axes: Axes, series: Series, quantity: str, index: int) -> None:
    passes, unit = (series.latency_ms, 1.0) if quantity == "latency" else (series.memory_bytes, 2.0**20)
    if not passes:
        return
    values = np.asarray(passes, float) / unit
    middle = np.median(values, axis=0)
    # After seven colors, the same seven repeat with other shapes and dashes.
    turn, color = index // len(COLORS), COLORS[index % len(COLORS)]
    shape = SHAPES[(index + turn) % len(SHAPES)]
    law = series.growth(quantity)
    label = f"{series.name} ({series.target})" + ("" if law is None else f": p = {exponent(law)}")
    reach = [middle - values.min(axis=0), values.max(axis=0) - middle]
    axes.errorbar(
        series.px,
        middle,
        yerr=reach,
        color=color,
        marker=shape,
        markersize=5.5,
        linestyle="none",
        label=label,
        capsize=2,
    )
    if law is not None:
        x = np.geomspace(series.px[0], series.px[-1], 100)
        share = (x / series.px[-1]) ** 2
        y = (law.law.a + law.law.b * share**law.law.p) / unit
        axes.plot(x, y, color=color, linewidth=1.2, linestyle="--" if turn else "-", zorder=1)


def _frame(axes: Axes, quantity: str, sizes: Sequence[int]) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("side of the image, px")
    axes.set_title("latency, ms" if quantity == "latency" else "peak memory of the process, MiB", loc="left")
    axes.xaxis.set_major_locator(FixedLocator(sizes))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    low, high = axes.get_ylim()
    # Less than a decade has no power of ten to label.
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)) if high > 8 * low else MaxNLocator(6))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="x", labelrotation=45, labelsize=8)
    axes.tick_params(length=0, colors=SOFT)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
