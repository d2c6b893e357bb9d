"""Text from outside in reports: a name, a note or an answer of a device stays text in every format."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from report_builder import measurement_of

from effbench.errors import DataError
from effbench.reports import FORMATS, build_rows, cells, gate, lab, matrix, render, write_report
from effbench.reports.grouping import grouped
from effbench.schema import Cell, InputShapes, Measurement, Row
from effbench.statistics.verdict import ComparisonReport, Verdict

FORMULAS = ('=HYPERLINK("http://x","y")', "+1+cmd|' /C calc'!A0", "-2+3", "@SUM(1)", "\t=1", "\r=1", "\n=1")
MARKUP = (
    "[a](javascript:alert(1))",
    "![p](http://example.invalid/p.png)",
    "[a][b]",
    "[b]: http://example.invalid",
    "a\n\n# Heading\n\n| a | b |",
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "@octocat",
)
CONTROLS = ("\x1b]0;title\x07\x1b[2J", "\x9b31m", "name\u202egnp.exe", "a\rb", "a\x00b")
TEX = (r"\input{/etc/passwd}", "a % b", r"x \\ & y", r"$\frac{")
HOSTILE = (*FORMULAS, *MARKUP, *CONTROLS, *TEX)


def measurements(text: str) -> list[Measurement]:
    """Return measurements with a text in every place that a kit, a device or another tool fills."""
    one = measurement_of()
    rounds = tuple(replace(item, flags=(text,)) for item in one.samples.rounds)
    return [
        replace(one, notes=(text,), doubts=(text,)),
        replace(one, settings={**one.settings, "tool": text, text: "x"}, time=text),
        replace(one, before={**one.before, "cpu_model": text, "runtime": text, "os": text, "governor": text}),
        replace(one, device=text, placement={text: text}, origin=text),
        replace(one, samples=replace(one.samples, rounds=rounds, protocol=text)),
        replace(one, samples=replace(one.samples, aggregate=text)),
        replace(one, subject=replace(one.subject, notes=(text,), reconstruction=text)),
    ]


def rows(text: str) -> list[Row]:
    return build_rows(measurements(text), grade=lambda _: ("C", (text,)))


def no_markup(text: str) -> None:
    assert not re.search(r"(?<!\\)\]\(|(?<!\\)\]\[|(?m:^\[b\]:)|(?m:^# Heading)|(?<!\\)<(script|img)|(?<!\w)@\w", text)
    no_controls(text)


def no_controls(text: str) -> None:
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", text)


def no_formula(text: str) -> None:
    for line in csv.reader(io.StringIO(text)):
        for cell in line:
            assert not cell.startswith(cells.FORMULA) or re.fullmatch(r"-?[\d.]+(e-?\d+)?", cell), cell


@pytest.mark.parametrize("text", HOSTILE)
def test_a_report_shows_text_as_text(text: str):
    shown = {name: render(rows(text), name) for name in FORMATS if name != "terminal"}
    no_formula(shown["csv"])
    no_markup(shown["markdown"])
    assert not re.search(r"<(script|img)", shown["html"])
    no_controls(shown["html"])
    assert not re.search(r"(?<!\\)%|\\(input|frac)\{", shown["latex"])
    no_controls(shown["latex"])


@pytest.mark.parametrize("text", HOSTILE)
def test_the_table_of_a_sweep_shows_text_as_text(text: str):
    cell = Cell.of("net", InputShapes((64, 64)), "fp32", "ort", DataError(text, hint=text), artifact=text)
    for name in ("csv", "markdown"):
        shown = matrix.render(matrix.Matrix((cell,), {}), name)
        no_formula(shown) if name == "csv" else no_markup(shown)
        assert "net" in shown, shown  # the row itself is there


@pytest.mark.parametrize("text", HOSTILE)
def test_the_table_of_a_lab_shows_text_as_text(text: str):
    record: dict[str, Any] = dict.fromkeys(("device", "model", "resolution", "precision", "target", "status"), text)
    record |= {"reason": text, "next_step": text, "trust": text, "origin": text}
    shown = lab.render([record], {text: text}, "csv")
    no_formula(shown)
    no_markup(lab.render([record], {text: text}, "markdown"))
    assert 2 == len(list(csv.reader(io.StringIO(shown)))), shown  # the header and the row


@pytest.mark.parametrize("text", HOSTILE)
def test_a_gate_shows_text_as_text(text: str):
    verdict = Verdict(text, "failed", reason=text, next_step=text, notes=(text,), identity={text: (text, text)})
    report = ComparisonReport(text, text, (verdict,), 1, 5, 1, 0.05, 1, machine=text, policy_changes=(text,))
    no_markup(gate.render(report, "markdown"))
    ElementTree.fromstring(gate.render(report, "junit"))
    annotations = gate.render(report, "github")
    assert 2 == len(annotations.splitlines()), annotations
    assert all(line.startswith(("::error ", "::warning ")) for line in annotations.splitlines())


@pytest.mark.parametrize("field", ["model", "family", "target", "storage_precision", "compute_precision", "published"])
@pytest.mark.parametrize("text", [*CONTROLS, "a\nnext: rm -rf ~", "a\tb"])
def test_a_name_has_no_control_characters(field: str, text: str):
    with pytest.raises(DataError, match="has control characters"):
        replace(measurement_of().subject, **{field: text})


def test_numbers_and_usual_text_stay_as_they_are():
    for value in (-1.5, -3, None, True, "regla_m 224", "99.5 [88.9, 116.9]", "a-b"):
        assert value == cells.spreadsheet(value)
    assert r"regla\_m 99.5 [88.9, 116.9] a@b #" == cells.markdown("regla_m 99.5 [88.9, 116.9] a@b #")


def test_remarks_that_imitate_a_range_are_no_range():
    """``#`` stands for a number in the form that remarks are grouped by."""
    remarks = [("a", "slow by # %"), ("b", "slow by 5 %"), ("c", "slow by 7 %")]
    assert ["a: slow by # %", "b, c: slow by 5 to 7 %"] == grouped(remarks, 4, ranges=True)


def test_a_plot_takes_a_name_with_dollars_as_text(tmp_path: Path):
    pytest.importorskip("matplotlib")
    one = measurement_of()
    named = replace(one, subject=replace(one.subject, model="$$"))
    measured = build_rows([named, measurement_of("iformer_s", 5.0)], grade=lambda _: ("A", ()))
    assert any("local" in path.name for path in write_report(measured, tmp_path, formats=()))
