"""The Pareto front of latency (lower is better) and accuracy (higher is better), among rows that may be compared."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence

from effbench.schema import Row

GRADES_ON_A_FRONT = ("A", "B", "C")


def comparable(row: Row) -> tuple[Hashable, ...]:
    """Return the key that two rows must share to be ranked: device, size, batch, threads, scope and origin.

    Target and precision may differ: a front is for choosing between them.
    """
    return (
        row.source,
        row.device,
        row.machine,
        row.shapes,
        row.batch,
        row.threads,
        row.scope,
        row.protocol,
        row.accuracy_metric,
    )


def obstacle(row: Row) -> str | None:
    """Return why a row cannot be on a front, or None if it can."""
    if row.fidelity_passed is False:
        return "it failed verification: its outputs are not the model's"
    if row.p50_ms is None:
        return "no latency"
    if row.accuracy is None:
        return "no accuracy"
    if row.source == "emulated":
        return "emulated: the time of an emulator is not a latency"
    if row.source == "measured" and row.trust not in GRADES_ON_A_FRONT:
        return f"trust {row.trust}" if row.trust else "not graded"
    return None


def position(row: Row) -> tuple[float, float]:
    """Return (p50 in ms, accuracy) of a row; a missing value is NaN."""
    return (
        math.nan if row.p50_ms is None else row.p50_ms,
        math.nan if row.accuracy is None else row.accuracy,
    )


def front(points: Sequence[tuple[float, float]]) -> set[int]:
    """Return the indices of the (latency, accuracy) points that no other point dominates.

    A point dominates another if it is at least as good in both and better in one, so equal points share the front.
    Intervals are ignored: one that overlaps a neighbor's does not widen the front.
    """
    order = sorted(range(len(points)), key=lambda index: (points[index][0], -points[index][1]))
    indices: set[int] = set()
    best: tuple[float, float] | None = None
    for index in order:
        if best is None or points[index][1] > best[1] or points[index] == best:
            indices.add(index)
            best = points[index]
    return indices


def mark_fronts(rows: Iterable[Row]) -> tuple[Row, ...]:
    """Set ``on_front`` of every row; borrowed accuracies are ranked among themselves, and so is each data set.

    The order of the rows is kept.
    """
    marked = list(rows)
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for index, row in enumerate(marked):
        if obstacle(row) is None:
            groups[(comparable(row), row.borrowed, row.accuracy_data)].append(index)
    on_front: set[int] = set()
    for indices in groups.values():
        best = front([position(marked[index]) for index in indices])
        on_front |= {indices[number] for number in best}
    return tuple(dataclasses.replace(row, on_front=index in on_front) for index, row in enumerate(marked))


def front_name(row: Row) -> str:
    """Return the front a row is on: measured, published or borrowed; empty if it is on none."""
    if not row.on_front:
        return ""
    return "borrowed" if row.borrowed else row.source
