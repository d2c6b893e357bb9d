"""Say where lower precision did not pay: the same model, slower in half precision or int8 than in fp32."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

from effbench.schema import Row

FULL = "fp32"


def slower_than_fp32(rows: Sequence[Row]) -> tuple[str, ...]:
    """Return a sentence for each measured row that took longer than fp32 of the same model, target and conditions.

    Slower is an interval wholly above the other's. Without intervals a larger median is reported as what it is. Rows
    graded D count on neither side.
    """
    usable = [row for row in rows if row.source == "measured" and row.trust != "D" and row.p50_ms]
    full = {_pair(row): row for row in usable if storage(row) == FULL}
    pairs = [(row, full[_pair(row)]) for row in usable if storage(row) != FULL and _pair(row) in full]
    return tuple(text for row, base in pairs for text in _sentence(row, base))


def storage(row: Row) -> str:
    """Return the precision that a row's artifact is stored in."""
    return row.precision.partition("/")[0]


def _pair(row: Row) -> Hashable:
    """Return what two rows share when nothing but the precision differs."""
    what = (row.model, row.weights, row.target, row.runtime, row.settings)
    return (*what, row.device, row.machine, row.resolution, row.batch, row.threads, row.scope, row.protocol)


def _sentence(row: Row, base: Row) -> Iterable[str]:
    assert row.p50_ms is not None
    assert base.p50_ms is not None
    what = f"{row.model} on {row.target}: {row.precision} takes {row.p50_ms / base.p50_ms:.2f} times {base.precision}"
    if row.p50_interval_ms is None or base.p50_interval_ms is None:
        if row.p50_ms > base.p50_ms:
            yield f"Lower precision may be slower here: {what} (too few rounds for intervals)."
    elif row.p50_interval_ms[0] > base.p50_interval_ms[1]:
        yield f"Lower precision is slower here: {what} (their intervals do not overlap)."
