"""Lower precision that is slower is said to be, where the measurements show it and nowhere else."""

from __future__ import annotations

from typing import Any

import pytest
from report_builder import grade_a, measurement_of

from effbench.reports import build_rows, render
from effbench.reports.slower import slower_than_fp32
from effbench.schema import Measurement, Row


def rows_of(*measurements: Measurement, letter: str = "A") -> tuple[Row, ...]:
    return build_rows(measurements, grade=lambda one: (letter, ()), published_rows="none")


def of(precision: str, p50_ms: float, **changes: Any) -> Measurement:
    return measurement_of("regla_m", p50_ms, storage_precision=precision, compute_precision=precision, **changes)


def test_slower_int8_is_named_with_its_factor():
    (text,) = slower_than_fp32(rows_of(of("fp32", 10.0), of("int8", 16.7), of("fp16", 9.0)))
    assert text.startswith("Lower precision is slower here: regla_m on ort: int8/int8 takes 1.6")
    assert "times fp32/fp32" in text


def test_faster_or_equal_says_nothing():
    assert () == slower_than_fp32(rows_of(of("fp32", 10.0), of("int8", 5.0), of("fp16", 10.0)))


@pytest.mark.parametrize(
    "other",
    [
        {"target": "ov"},
        {"threads": 2},
        {"resolution": (512, 512)},
        {"settings": {"device": "GPU"}},
        {"device": "phone"},
        {"before": {"cpu_model": "Another CPU"}},
        {"scope": "device-only"},
    ],
)
def test_only_rows_of_one_kind_are_paired(other: dict[str, Any]):
    assert () == slower_than_fp32(rows_of(of("fp32", 10.0), of("int8", 20.0, **other)))


def test_a_grade_of_d_is_no_evidence():
    assert () == slower_than_fp32(rows_of(of("fp32", 10.0), of("int8", 20.0), letter="D"))


def test_without_intervals_nothing_is_claimed():
    (text,) = slower_than_fp32(rows_of(of("fp32", 10.0, rounds=2), of("int8", 20.0, rounds=2)))
    assert text.startswith("Lower precision may be slower here")


def test_the_report_says_so_under_the_facts():
    rows = build_rows([of("fp32", 10.0), of("int8", 20.0)], grade=grade_a)
    for name in ("terminal", "markdown", "html"):
        assert "Lower precision is slower here" in render(rows, name, "top1")
