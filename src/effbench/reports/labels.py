"""Label points so that no label covers another label or a point."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

# Offsets from the marker in points, and the alignment of the text. The first free one is used.
OFFSETS = (
    (8, 5, "left", "bottom"),
    (-8, 5, "right", "bottom"),
    (8, -5, "left", "top"),
    (-8, -5, "right", "top"),
    (0, 9, "center", "bottom"),
    (0, -9, "center", "top"),
    (12, 16, "left", "bottom"),
    (-12, 16, "right", "bottom"),
    (12, -16, "left", "top"),
    (-12, -16, "right", "top"),
    (14, 28, "left", "bottom"),
    (-14, 28, "right", "bottom"),
    (14, -28, "left", "top"),
    (-14, -28, "right", "top"),
    (16, 40, "left", "bottom"),
    (-16, -40, "right", "top"),
)
MARKER_PT = 6.0


def place_labels(figure: Figure, axes: Axes, texts: Sequence[tuple[float, float, str]]) -> int:
    """Write each (x, y, text) beside its point.

    Returns:
        The number of texts without a free position; they are omitted, since the table names every row.
    """
    figure.draw_without_rendering()
    inside = axes.get_window_extent()
    occupied = [_around(axes, figure, x, y) for x, y, _ in texts]
    left_out = 0
    for x, y, text in texts:
        box = _first_free(axes, x, y, text, occupied, inside)
        if box is None:
            left_out += 1
        else:
            occupied.append(box)
    return left_out


def _around(axes: Axes, figure: Figure, x: float, y: float) -> Bbox:
    from matplotlib.transforms import Bbox

    reach = MARKER_PT * figure.dpi / 72
    across, up = axes.transData.transform((x, y))
    return Bbox.from_extents(across - reach, up - reach, across + reach, up + reach)


def _first_free(axes: Axes, x: float, y: float, text: str, occupied: Sequence[Bbox], inside: Bbox) -> Bbox | None:
    from matplotlib.text import Text

    for shift_x, shift_y, across, up in OFFSETS:
        label = axes.annotate(
            text,
            (x, y),
            xytext=(shift_x, shift_y),
            textcoords="offset points",
            ha=across,
            va=up,
            fontsize=8.2,
            zorder=4,
            arrowprops={"arrowstyle": "-", "color": "#B4BAC2", "linewidth": 0.7} if abs(shift_y) > 12 else None,
        )
        # Measured twice: the first call moves the text, and counts its leader line, which may overlap others.
        label.get_window_extent()
        box = Text.get_window_extent(label)
        if not any(box.overlaps(neighbor) for neighbor in occupied) and _within(box, inside):
            return box
        label.remove()
    return None


def _within(box: Bbox, outer: Bbox) -> bool:
    return bool(box.x0 >= outer.x0 and box.x1 <= outer.x1 + 4 and box.y0 >= outer.y0 and box.y1 <= outer.y1 + 4)
