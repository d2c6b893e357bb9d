"""Draw the roofline: rate over intensity, the roof with the range of its peaks, a dot per layer and one for the model.

Source: Williams, Waterman and Patterson 2009.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from effbench.errors import MissingDependencyError
from effbench.reports.figures import save
from effbench.reports.plot import COLORS, GRID, INK, SHAPES, SOFT, STYLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

AREA = 260.0
"""Size of the dot of a layer that takes all the time, in square points."""


@dataclass(frozen=True)
class Dot:
    """A point of the plot: FLOP per byte, GFLOP/s, and the time that sets its size."""

    label: str
    intensity: float
    gflops: float
    us: float


def draw(layers: Sequence[Dot], model: Dot, roofs: Sequence[Sequence[float]], title: str, path: Path) -> list[Path]:
    """Write the plot as PNG and SVG beside each other.

    Args:
        layers: Layers with multiplications; the others have no rate.
        model: The whole model.
        roofs: GFLOP/s and GB/s, each with the lowest and highest of its rounds.
        title: Of the figure.
        path: Without suffix.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingDependencyError("A plot", "matplotlib", "plots") from None
    peak, rate = roofs[0][0], roofs[1][0]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.0, 5.0), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        intensities = [dot.intensity for dot in (*layers, model)] + [peak / rate]
        span = (min(intensities) / 2, max(intensities) * 3)
        _draw_roof(axes, roofs, span)
        _draw_dots(axes, layers, model)
        axes.set(xscale="log", yscale="log", xlim=span, xlabel="FLOP per byte", ylabel="GFLOP/s")
        axes.set_title(title, loc="left", color=INK, fontsize=11)
        axes.grid(color=GRID)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        _draw_legend(axes)
        files = [path.with_name(f"{path.name}.png"), path.with_name(f"{path.name}.svg")]
        for file in files:
            save(figure, file)
    return files


def _draw_roof(axes: Axes, roofs: Sequence[Sequence[float]], span: tuple[float, float]) -> None:
    (peak, peak_low, peak_high), (rate, rate_low, rate_high) = roofs
    low, high = span
    steps = [low * (high / low) ** (index / 200) for index in range(201)]
    bottom = [min(peak_low, rate_low * step) for step in steps]
    top = [min(peak_high, rate_high * step) for step in steps]
    axes.fill_between(steps, bottom, top, color=GRID, linewidth=0)
    axes.plot(steps, [min(peak, rate * step) for step in steps], color=INK, linewidth=1.6)
    axes.annotate(f"{peak:.4g} GFLOP/s", (high, peak), ha="right", va="bottom", fontsize=8.5, color=INK)
    middle = (low * peak / rate) ** 0.5
    axes.annotate(
        f"{rate:.4g} GB/s",
        (middle, rate * middle),
        xytext=(-6, 4),
        textcoords="offset points",
        ha="right",
        fontsize=8.5,
        color=INK,
    )


def _draw_dots(axes: Axes, layers: Sequence[Dot], model: Dot) -> None:
    total_us = sum(dot.us for dot in layers) or 1.0
    for index, label in enumerate(dict.fromkeys(dot.label for dot in layers)):
        dots = [dot for dot in layers if dot.label == label]
        axes.scatter(
            [dot.intensity for dot in dots],
            [dot.gflops for dot in dots],
            s=[10 + AREA * 8 * dot.us / total_us for dot in dots],
            marker=SHAPES[index % len(SHAPES)],
            color=COLORS[index % len(COLORS)],
            alpha=0.45,
            linewidths=0,
            label=label,
        )
    axes.scatter([model.intensity], [model.gflops], s=130, marker="*", color=INK, zorder=3, label=f"{model.label}, p50")


def _draw_legend(axes: Axes) -> None:
    from matplotlib.collections import PathCollection

    legend = axes.legend(frameon=False, labelcolor=SOFT, loc="lower right", title="size: share of the time")
    for handle in legend.legend_handles:
        if isinstance(handle, PathCollection):
            handle.set_sizes([45])
