"""Find rows in which a lower precision does not pay: the same model, slower in fp16 or int8 than in fp32."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

from effbench.schema import Row

FULL = "fp32"


def slower_than_fp32(rows: Sequence[Row]) -> tuple[str, ...]:
    """Return a sentence for each measured row that is slower than fp32 of the same model, target and conditions.

    A row is slower if its whole interval lies above that of fp32. Without intervals, a larger median is reported as a
    possibility. Rows graded D are ignored.
    """
    usable = [row for row in rows if row.source == "measured" and row.trust != "D" and row.p50_ms]
    full = {_pair(row): row for row in usable if row.storage_precision == FULL}
    pairs = [(row, full[_pair(row)]) for row in usable if row.storage_precision != FULL and _pair(row) in full]
    return tuple(text for row, base in pairs for text in _sentence(row, base))


def _pair(row: Row) -> Hashable:
    """Return the key that two rows share if only their precision differs."""
    artifact = (row.model, row.weights, row.target, row.runtime, row.settings)
    return (*artifact, row.device, row.machine, row.shapes, row.batch, row.threads, row.scope, row.protocol)


def _sentence(row: Row, base: Row) -> Iterable[str]:
    assert row.p50_ms is not None
    assert base.p50_ms is not None
    comparison = (
        f"{row.model} on {row.target}: {row.precision} takes {row.p50_ms / base.p50_ms:.2f} times {base.precision}"
    )
    if row.p50_interval_ms is None or base.p50_interval_ms is None:
        if row.p50_ms > base.p50_ms:
            yield f"Lower precision may be slower here: {comparison} (too few rounds for intervals)."
    elif row.p50_interval_ms[0] > base.p50_interval_ms[1]:
        yield f"Lower precision is slower here: {comparison} (their intervals do not overlap)."
