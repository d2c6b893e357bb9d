"""Remarks that several rows share."""

from __future__ import annotations

import pytest

from effbench.reports.grouping import grouped, merged, template


def test_a_remark_of_every_row_is_printed_once():
    remarks = [(name, "computed fp32") for name in "abc"]
    assert ["all: computed fp32"] == grouped(remarks, 3)
    assert ["a, b, c: computed fp32"] == grouped(remarks, 4)


def test_many_rows_are_counted_and_few_are_named():
    remarks = [*((str(number), "slow") for number in range(6)), ("x", "odd")]
    assert ["on 6 cells: slow", "x: odd"] == grouped(remarks, 9)
    assert ["x: odd"] == grouped([("x", "odd")], 1)
    assert ["on 4 rows: slow"] == grouped([(name, "slow") for name in "abcd"], 9, noun="rows")


def test_a_row_counts_once():
    assert ["a: slow"] == grouped([("a", "slow"), ("a", "slow")], 2)


def test_numbers_become_ranges_on_request():
    remarks = [("a", "drift: -14.1 % in 3 rounds"), ("b", "drift: +2.2 % in 3 rounds")]
    assert ["all: drift: -14.1 to +2.2 % in 3 rounds"] == grouped(remarks, 2, ranges=True)
    assert 2 == len(grouped(remarks, 2))


@pytest.mark.parametrize("text", ["fp16 at 384x640", "regla_m-224-b1", "torch 2.13.0+cpu", "sha 12ab34"])
def test_digits_inside_a_name_are_no_number(text: str):
    assert text == template(text)


def test_equal_texts_stay_as_they_are():
    assert "p50 is 1.50 ms" == merged(["p50 is 1.50 ms", "p50 is 1.50 ms"])
    assert "±12.7 to ±24.6% only" == merged(["±24.6% only", "±12.7% only", "±13% only"])
