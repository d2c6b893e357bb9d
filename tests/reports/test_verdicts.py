"""Every rendering of a verdict agrees: table, Markdown, JUnit, annotations, and the formats of two other tools."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from effbench.errors import UsageError
from effbench.reports import gate as reports
from effbench.reports.gate import ci
from effbench.reports.gate.text import markdown, notes, terminal
from effbench.statistics.verdict import (
    BudgetCheck,
    ComparisonReport,
    Explanation,
    LayerChange,
    Processes,
    Ratio,
    Verdict,
    code_of,
)

SLOWER = Verdict(
    "tiny 64 px",
    "slower",
    ratios=(Ratio("typical", 1.05, 1.03, 1.07, 2.5, "slower"), Ratio("tail", 1.04, None, None, None, "open")),
    rounds=12,
    seconds=20.4,
    fails=True,
    size_bytes=1000,
    latency_ms=2.0,
    latency_interval_ms=(1.9, 2.1),
    why=Explanation(
        {"Conv": 2},
        {"Conv": 2},
        ("Gelu (-1), now in parts",),
        (LayerChange("a/Conv", "Conv", 0.0, 90.0),),
        1000.0,
        1100.0,
    ),
)
SAME = Verdict("same 64 px", "unchanged", identical=True, reason="equal files on an equal runtime", size_bytes=5)
OPEN = Verdict("open 64 px", "inconclusive", reason="3 rounds are too few", rounds=3)
BROKEN = Verdict("broken", "failed", reason="no such operator: <If> 100 %", next_step="export again", exit_code=5)


def report(*verdicts: Verdict, inconclusive: str = "code") -> ComparisonReport:
    settings = {"threads": "1", "workers": "1"}
    return ComparisonReport("main", "working tree", verdicts, 1, 5, 1, 0.005, 1, inconclusive, "a machine", settings)


@pytest.mark.parametrize(
    ("verdicts", "when", "code"),
    [
        ((SAME,), "code", 0),
        ((SLOWER, SAME), "code", 1),
        ((replace(SLOWER, fails=False),), "code", 0),
        ((OPEN,), "code", 3),
        ((OPEN,), "pass", 0),
        ((OPEN,), "fail", 1),
        ((SLOWER, OPEN), "code", 1),
        ((SLOWER, BROKEN), "code", 5),
        ((replace(SAME, budgets=(BudgetCheck("macs", 1, 2, "missed"),)),), "code", 1),
        ((replace(SAME, budgets=(BudgetCheck("p50 ms", 1, None, "open"),)),), "code", 3),
        ((Verdict("x", "new"),), "code", 0),
    ],
)
def test_the_exit_code_is_that_of_the_most_serious_verdict(verdicts: tuple[Verdict, ...], when: str, code: int):
    assert code == report(*verdicts, inconclusive=when).exit_code()


def test_the_table_shows_ratio_interval_detectable_change_rounds_and_seconds():
    text = terminal(report(SLOWER, SAME))
    for part in ("+5.0 %", "+3.0 % to +7.0 %", "12", "20 s", "+2.5 %", "not bounded yet", "unchanged (identical)"):
        assert part in text
    assert "layer a/Conv (Conv): 90 us, new; 90 % of the change" in text
    assert "fusions lost: Gelu (-1), now in parts" in text
    assert "2.000 ms [1.900, 2.100], measured separately" in text


def test_the_notes_say_how_many_processes_were_slow_and_what_unchanged_does_not_exclude():
    ratios = (Ratio("typical", 1.0, 0.99, 1.019, 2.5, "unchanged"), Ratio("tail", 1.0, 0.96, 1.04, None, "unchanged"))
    verdict = Verdict("tiny", "unchanged", ratios=ratios, rounds=23, processes=Processes(23, 0, 1, 7.2, 0.0, 12.2))
    text = terminal(report(verdict, replace(verdict, name="lottery", processes=Processes(34, 4, 0, 7, 3, 27))))
    assert "slower by more than 7 % in 0 of 23 processes, faster in 1: with 95 % confidence, at most 12 % of" in text
    assert "in 4 of 34 processes, faster in 0: with 95 % confidence, 3 to 27 % of all processes are slower" in text
    assert "tiny: unchanged does not exclude a slowdown of up to +1.9 %" in text
    assert "1 thread, 1 worker a round" in text


def test_junit_counts_match_its_test_cases():
    root = ElementTree.fromstring(ci.junit(report(SLOWER, SAME, OPEN, BROKEN)))
    suite = root[0]
    assert ("4", "1", "1", "1") == tuple(suite.get(key) for key in ("tests", "failures", "errors", "skipped"))
    kinds = [sorted(child.tag for child in case) for case in suite]
    assert [["failure", "system-out"], ["system-out"], ["skipped", "system-out"], ["error", "system-out"]] == kinds


def test_annotations_are_one_line_each_and_escaped():
    lines = ci.github(report(SLOWER, SAME, OPEN, BROKEN)).splitlines()
    assert ["error", "notice", "warning", "error"] == [line[2:].split(" ")[0] for line in lines]
    assert "%0A" in lines[0]
    assert "+5.0 %25" in lines[0]


def test_bencher_holds_values_with_their_bounds():
    metrics = json.loads(ci.bencher(report(SLOWER, SAME)))
    assert {"value": 2e6, "lower_value": 1.9e6, "upper_value": 2.1e6} == metrics["tiny 64 px"]["latency"]
    assert {"value": 1.04} == metrics["tiny 64 px"]["ratio-tail"]
    assert 1.0 == metrics["same 64 px"]["ratio-typical"]["value"]
    assert 1000.0 == metrics["tiny 64 px"]["file-size"]["value"]


def test_github_action_benchmark_holds_a_list_of_entries():
    entries = json.loads(ci.action_benchmark(report(SLOWER, SAME)))
    assert {"name", "unit", "value"} <= set.intersection(*(set(entry) for entry in entries))
    assert [2.0, 1.05, 1.04] == [entry["value"] for entry in entries]


def test_markdown_is_one_table_and_a_list():
    text = markdown(report(SLOWER, BROKEN))
    assert text.startswith("### Latency gate: 1 slower, 1 failed")
    assert r"\<If\>" in text
    assert len({line.count("|") for line in text.splitlines() if line.startswith("|")}) == 1


def test_json_holds_everything_and_the_exit_code():
    data = json.loads(ci.as_json(report(SLOWER)))["data"]
    assert (1, "slower") == (data["exit_code"], data["verdicts"][0]["outcome"])


def test_files_are_written_and_unknown_formats_refused(tmp_path: Path):
    written = reports.write(report(SLOWER), list(reports.FORMATS), tmp_path)
    assert len(reports.FORMATS) == len({path.name for path in written})
    with pytest.raises(UsageError, match="junit"):
        reports.write(report(SLOWER), ["junt"], tmp_path)


def test_a_failure_ends_with_its_own_code():
    assert 4 == code_of(replace(BROKEN, exit_code=4))


def test_a_reason_that_several_comparisons_share_is_printed_once():
    broken = [replace(BROKEN, name=name) for name in ("a", "b", "c", "d")]
    lines = notes(report(SLOWER, *broken))
    assert ["on 4 comparisons: failed: no such operator: <If> 100 %\n  export again"] == [
        line for line in lines if "no such operator" in line
    ]
