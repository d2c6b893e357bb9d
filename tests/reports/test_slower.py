"""A lower precision is reported as slower if the measurements show it, and only then."""

from __future__ import annotations

from typing import Any

import pytest
from report_builder import grade_a, measurement_of

from effbench.reports import build_rows, render
from effbench.reports.slower import slower_than_fp32
from effbench.schema import InputShapes, Measurement, Row


def rows_of(*measurements: Measurement, letter: str = "A") -> tuple[Row, ...]:
    return build_rows(measurements, grade=lambda measurement: (letter, ()), published_rows="none")


def of(precision: str, p50_ms: float, **changes: Any) -> Measurement:
    return measurement_of("regla_m", p50_ms, storage_precision=precision, compute_precision=precision, **changes)


def test_a_slower_int8_row_is_reported_with_its_factor():
    (text,) = slower_than_fp32(rows_of(of("fp32", 10.0), of("int8", 16.7), of("fp16", 9.0)))
    assert text.startswith("Lower precision is slower here: regla_m on ort: int8/int8 takes 1.6")
    assert "times fp32/fp32" in text


def test_faster_or_equal_rows_are_not_reported():
    assert () == slower_than_fp32(rows_of(of("fp32", 10.0), of("int8", 5.0), of("fp16", 10.0)))


@pytest.mark.parametrize(
    "change",
    [
        {"target": "ov"},
        {"threads": 2},
        {"shapes": InputShapes((512, 512))},
        {"settings": {"device": "GPU"}},
        {"device": "phone"},
        {"before": {"cpu_model": "Another CPU"}},
        {"scope": "device-only"},
    ],
)
def test_only_rows_that_differ_in_precision_alone_are_compared(change: dict[str, Any]):
    assert () == slower_than_fp32(rows_of(of("fp32", 10.0), of("int8", 20.0, **change)))


def test_rows_graded_d_are_ignored():
    assert () == slower_than_fp32(rows_of(of("fp32", 10.0), of("int8", 20.0), letter="D"))


def test_without_intervals_a_row_only_may_be_slower():
    (text,) = slower_than_fp32(rows_of(of("fp32", 10.0, rounds=2), of("int8", 20.0, rounds=2)))
    assert text.startswith("Lower precision may be slower here")


def test_every_report_format_contains_the_sentence():
    rows = build_rows([of("fp32", 10.0), of("int8", 20.0)], grade=grade_a)
    for name in ("terminal", "markdown", "html"):
        assert "Lower precision is slower here" in render(rows, name, "top1")
