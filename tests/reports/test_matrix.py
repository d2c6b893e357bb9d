"""A matrix of cells as a table: no blank cell, and equal reasons share a footnote."""

from __future__ import annotations

import csv
import io
import json

import pytest

from effbench.errors import UsageError
from effbench.reports.matrix import Matrix, counts, render, shared
from effbench.schema import Cell, InputShapes, Proof, Status

PX = InputShapes((224, 224))
PROVED = {"status": Status.OK, "proved_by": Proof.RUNTIME}
STOPPED = {"status": Status.FAILED, "reason": "convert was stopped after 600 s", "cause": "time limit"}
OK = Cell("a", PX, "fp32", "ort", **PROVED, digest="d", placement={"units": {"CPU": 7}, "partitions": 1})
TIMED_OUT = Cell("a", PX, "fp32", "ov", **STOPPED)
MIXED = Cell("b", PX, "fp32", "ov", **PROVED, placement={"units": {"HTP": 9, "CPU": 1}, "partitions": 3, "copies": 2})
TIMED_OUT_TOO = Cell("b", PX, "fp32", "ort", **STOPPED)
MATRIX = Matrix([OK, TIMED_OUT, TIMED_OUT_TOO, MIXED], [("c", "512", "int8", "ort")], {"d": "1.25 ms (A)"})


def test_every_cell_is_counted():
    assert "5 cells: 2 failed: time limit, 2 ok, 1 not run yet" == counts(MATRIX)


@pytest.mark.parametrize("form", ["terminal", "markdown"])
def test_a_table_has_no_blanks_and_each_reason_once(form: str):
    text = render(MATRIX, form)
    assert 1 == text.count("was stopped after 600 s")
    for words in ("ok, 1.25 ms (A)", "failed: time limit", "HTP 9 + CPU 1, 3 partitions", "not run yet: c 512 px int8"):
        assert words in text


def test_a_cell_that_did_not_run_is_marked_in_its_line():
    text = render(Matrix([OK], [("a", "224", "fp32", "ov")]), "terminal")
    assert "not run yet" in text.splitlines()[2]


def test_csv_and_json_hold_every_cell():
    lines = list(csv.DictReader(io.StringIO(render(MATRIX, "csv"))))
    assert ["ok", "failed", "failed", "ok", "not run yet"] == [line["status"] for line in lines]
    assert "HTP:9 CPU:1" == lines[3]["units"]
    assert 5 == len(json.loads(render(MATRIX, "json"))["data"]["cells"])


def test_a_single_unit_is_not_listed():
    assert "" == shared(OK.placement) == shared({})


def test_an_unknown_format_lists_the_known():
    with pytest.raises(UsageError, match="markdown"):
        render(MATRIX, "yaml")
