"""CONTRIBUTING.md names files and functions that exist."""

from __future__ import annotations

import re

import pytest
from places import ROOT

TEXT = (ROOT / "CONTRIBUTING.md").read_text()
PATHS = sorted(set(re.findall(r"(?:src|tests|docs|benchmarks|examples)/[\w/.-]*\w", TEXT)))


def test_every_file_exists():
    named = [path for path in PATHS if not re.search(r"[A-Z]{4}", path)]  # without placeholders such as NAME
    assert len(named) > 15
    assert [] == [path for path in named if not (ROOT / path).exists()]


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("Row", "src/effbench/schema/row.py"),
        ("measured_row", "src/effbench/reports/rows.py"),
        ("_record", "src/effbench/reports/table.py"),
        ("_measured_columns", "src/effbench/reports/layout.py"),
        ("GateRequest", "src/effbench/api/compare/request.py"),
        ("SUITE_KEYS", "src/effbench/api/compare/budgets.py"),
        ("GATE_KEYS", "src/effbench/api/compare/budgets.py"),
    ],
)
def test_every_name_is_in_its_file(name: str, path: str):
    assert f"`{name}`" in TEXT
    assert re.search(rf"^(?:def |class )?{name}\b", (ROOT / path).read_text(), re.MULTILINE)
