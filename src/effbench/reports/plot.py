"""Plot accuracy over latency, one figure per device, resolution and conditions; equal rows give equal bytes."""

from __future__ import annotations

import itertools
import re
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effbench.errors import MissingDependencyError
from effbench.reports import pareto
from effbench.reports.figures import save
from effbench.reports.labels import place_labels
from effbench.reports.layout import conditions, conditions_in_words, section_key, title
from effbench.reports.rows import check_metric, order
from effbench.schema import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito 2008: distinguishable under common color blindness; the shapes distinguish them in grey.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
SHAPES = ("o", "s", "^", "D", "v", "P", "X")
INK, SOFT, GRID = "#222222", "#666666", "#E4E7EB"
STYLE: dict[Any, Any] = {
    "text.parse_math": False,  # a dollar in a name is no formula
    "svg.hashsalt": "effbench",
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.edgecolor": "#B4BAC2",
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
}


def write_plots(rows: Iterable[Row], metric: str, folder: Path) -> list[tuple[Hashable, Path]]:
    """Write a PNG and an SVG per group of rows that may be ranked together, if any row of it can be drawn.

    Returns:
        The SVG files, each with the `section_key` of its table; the PNG is beside it.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
    except ImportError:
        raise MissingDependencyError("A plot", "matplotlib", "plots") from None
    written: list[tuple[Hashable, Path]] = []
    for name, group in groups(rows):
        with matplotlib.rc_context(STYLE):
            figure = draw(group, metric)
            FigureCanvasAgg(figure)
            for suffix in (".png", ".svg"):
                save(figure, folder / f"{name}{suffix}")
        written.append((section_key(group[0]), folder / f"{name}.svg"))
    return written


def groups(rows: Iterable[Row]) -> list[tuple[str, tuple[Row, ...]]]:
    """Return the drawable rows that may be ranked together, with a file name for each group."""
    drawable = sorted((row for row in rows if row.p50_ms is not None and row.accuracy is not None), key=order)
    named_groups: list[tuple[str, tuple[Row, ...]]] = []
    used_names: set[str] = set()
    for _, group in itertools.groupby(drawable, key=pareto.comparable):
        members = tuple(group)
        if members[0].source == "published" and len(members) == 1:
            continue
        name = _file_name(members[0])
        # Two machines can carry one device name; their figures must not overwrite each other.
        names = itertools.chain((name,), (f"{name}-{count}" for count in itertools.count(2)))
        unique = next(candidate for candidate in names if candidate not in used_names)
        used_names.add(unique)
        named_groups.append((unique, members))
    return named_groups


def _file_name(row: Row) -> str:
    parts = ["pareto", row.device, f"{row.shapes}px"]
    parts.append(conditions(row) if row.source == "measured" else row.source)
    return re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")


def draw(rows: Sequence[Row], metric: str) -> Figure:
    """Draw one group: measured accuracies filled, borrowed ones hollow, a step line for each front."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 5.2), layout="constrained")
    axes = figure.add_subplot()
    styles = _marker_styles(rows)
    for row in rows:
        _point(axes, row, styles[row.target])
    for borrowed in (False, True):
        _front_line(axes, rows, borrowed)
    _frame(axes, rows, metric)
    _heading(axes, title(rows[0]), _subtitle(rows, metric))
    _legend(figure, rows, styles)
    place_labels(figure, axes, [(*pareto.position(row), row.model) for row in _one_per_spot(rows)])
    return figure


def _heading(axes: Axes, text: str, details: str) -> None:
    axes.set_title(details, loc="left", fontsize=8.2, color=SOFT, pad=9)
    above = 14 + 10.5 * len(details.splitlines())
    axes.annotate(
        text,
        (0, 1),
        xytext=(0, above),
        xycoords="axes fraction",
        textcoords="offset points",
        fontsize=13,
        weight="bold",
    )


def _marker_styles(rows: Sequence[Row]) -> dict[str, tuple[str, str]]:
    names = sorted({row.target for row in rows})
    return {name: (COLORS[i % len(COLORS)], SHAPES[i % len(SHAPES)]) for i, name in enumerate(names)}


def _point(axes: Axes, row: Row, style: tuple[str, str]) -> None:
    from matplotlib.colors import to_rgba

    color, shape = to_rgba(style[0], 1.0 if pareto.obstacle(row) is None else 0.35), style[1]
    latency, accuracy = pareto.position(row)
    face = "white" if row.borrowed else color
    across, along = _reach(latency, row.p50_interval_ms), _reach(accuracy, row.accuracy_interval)
    if across or along:
        axes.errorbar(
            latency, accuracy, xerr=across, yerr=along, fmt="none", ecolor=color, elinewidth=1.1, capsize=2.5, zorder=2
        )  # fmt: skip
    axes.plot(
        latency, accuracy, marker=shape, markersize=8, markeredgecolor=color, markerfacecolor=face, markeredgewidth=1.7,
        linestyle="none", zorder=3,
    )  # fmt: skip


def _reach(value: float, interval: tuple[float, float] | None) -> list[list[float]] | None:
    """Return how far an interval reaches below and above a value, as matplotlib takes it."""
    return interval and [[max(value - interval[0], 0.0)], [max(interval[1] - value, 0.0)]]


def _front_line(axes: Axes, rows: Sequence[Row], borrowed: bool) -> None:
    points = sorted(pareto.position(row) for row in rows if row.on_front and row.borrowed == borrowed)
    if len(points) > 1:
        style: Any = (0, (5, 3)) if borrowed else "solid"
        axes.step(*zip(*points, strict=True), where="post", color=SOFT, linewidth=1.2, linestyle=style, zorder=1)


def _frame(axes: Axes, rows: Sequence[Row], metric: str) -> None:
    latencies = [row.p50_ms for row in rows if row.p50_ms]
    axes.set_xlabel("published latency, ms" if rows[0].source == "published" else "latency p50, ms")
    axes.set_ylabel(check_metric(metric))
    if max(latencies) > 8 * min(latencies):
        axes.set_xscale("log")
        _plain_ticks(axes)
    axes.margins(x=0.14, y=0.16)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    axes.spines[["top", "right"]].set_visible(False)


def _plain_ticks(axes: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _subtitle(rows: Sequence[Row], metric: str) -> str:
    lines = []
    if rows[0].source == "measured":
        weights = ", ".join(sorted({row.weights for row in rows}))
        lines.append(f"{conditions_in_words(rows[0])}; weights: {weights}; bars: 95 % intervals")
        # Accuracies on different images share an axis only because nothing better can be drawn: say which they are.
        here = {row.model: row.accuracy_source for row in rows if row.accuracy_data}
        lines += [f"accuracy of {model}: measured {source}" for model, source in sorted(here.items())]
        rebuilt = sorted({row.model for row in rows if row.reconstruction})
        if rebuilt:
            lines.append(
                f"{', '.join(rebuilt)}: reconstruction; accuracy is the authors', not that of this reconstruction"
            )
    sizes = sorted({row.accuracy_px for row in rows if row.accuracy_px and (row.accuracy_px,) * 2 != row.shapes.image})
    if metric == "top1" and sizes:
        lines.append(f"accuracy at {', '.join(map(str, sizes))} px beside latency at {rows[0].shapes.label}")
    if any(row.accuracy_status == "implied" for row in rows):
        lines.append("some accuracies are implied by published gains; see the table")
    return "\n".join(lines)


def _legend(figure: Figure, rows: Sequence[Row], styles: dict[str, tuple[str, str]]) -> None:
    from matplotlib.lines import Line2D

    handles = []
    for name, (color, shape) in styles.items():
        if name:
            handles.append(Line2D([], [], color=color, marker=shape, linestyle="none", markersize=7, label=name))
    source = rows[0].source
    dot: dict[str, Any] = {"color": SOFT, "marker": "o", "linestyle": "none", "markersize": 7}
    kinds, fronts = {row.borrowed for row in rows}, {row.borrowed for row in rows if row.on_front}
    if False in kinds:
        handles.append(Line2D([], [], label="accuracy of these weights", **dot))
    if False in fronts:
        handles.append(Line2D([], [], color=SOFT, linewidth=1.2, label=f"{source} front"))
    if True in kinds:
        handles.append(Line2D([], [], markerfacecolor="white", markeredgewidth=1.6, label="borrowed accuracy", **dot))
    if True in fronts:
        handles.append(Line2D([], [], color=SOFT, linewidth=1.2, linestyle=(0, (5, 3)), label="borrowed front"))
    if any(pareto.obstacle(row) for row in rows):
        handles.append(Line2D([], [], alpha=0.35, label="faded: on no front", **dot))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8.2, frameon=False)


def _one_per_spot(rows: Sequence[Row]) -> list[Row]:
    return list({(row.model, row.p50_ms, row.accuracy): row for row in rows}.values())
