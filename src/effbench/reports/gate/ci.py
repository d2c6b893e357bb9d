"""Verdicts in the formats that programs read: JSON, JUnit, GitHub annotations, Bencher and github-action-benchmark."""

from __future__ import annotations

import json
from typing import Any
from xml.etree import ElementTree

from effbench.boundary.names import printable
from effbench.codec import document, plain
from effbench.reports.gate.text import budgets, explanation, one_line, span, word
from effbench.statistics.verdict import FAILED, INCONCLUSIVE, ComparisonReport, Verdict, code_of


def as_json(report: ComparisonReport) -> str:
    """Return the whole report, including the log ratios of all rounds."""
    return document({**plain(report), "exit_code": report.exit_code()})


def junit(report: ComparisonReport) -> str:
    """Return JUnit XML: a regression or missed budget is a failure, inconclusive a skip, a breakdown an error."""
    suite = ElementTree.Element("testsuite", name="effbench gate", tests=str(len(report.verdicts)))
    counts = {"failures": 0, "errors": 0, "skipped": 0}
    for item in report.verdicts:
        case = ElementTree.SubElement(
            suite, "testcase", classname="effbench.gate", name=item.name, time=f"{item.seconds:.3f}"
        )
        message = one_line(item)
        if item.outcome == FAILED:
            counts["errors"] += 1
            ElementTree.SubElement(case, "error", message=message)
        elif code_of(item, report.inconclusive) in (1, 2):
            counts["failures"] += 1
            ElementTree.SubElement(case, "failure", message=message).text = "\n".join(budgets(item) + _why(item))
        elif item.outcome == INCONCLUSIVE:
            counts["skipped"] += 1
            ElementTree.SubElement(case, "skipped", message=message)
        ElementTree.SubElement(case, "system-out").text = message
    for name, count in counts.items():
        suite.set(name, str(count))
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    # Control characters are no XML, in no notation.
    return '<?xml version="1.0" encoding="utf-8"?>\n' + printable(ElementTree.tostring(root, encoding="unicode")) + "\n"


def _why(item: Verdict) -> list[str]:
    return [] if item.why is None else explanation(item.why)


def github(report: ComparisonReport) -> str:
    """Return GitHub workflow commands: errors, warnings and notices that show up beside the change.

    Source: docs.github.com, "Workflow commands for GitHub Actions".
    """
    lines = []
    for item in report.verdicts:
        code = code_of(item, report.inconclusive)
        level = "error" if code in (1, 2, 4, 5) else "warning" if item.outcome == INCONCLUSIVE else "notice"
        body = "\n".join([one_line(item), *budgets(item), *_why(item)])
        lines.append(f"::{level} title=effbench {word(item)}::{_command_data(body)}")
    lines += [f"::warning title=effbench policy::{_command_data(line)}" for line in report.policy_changes]
    return "\n".join(lines) + "\n"


def _command_data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def bencher(report: ComparisonReport) -> str:
    """Return Bencher Metric Format: latency in nanoseconds if it was measured separately, and the ratio with bounds.

    Source: bencher.dev/docs/reference/bencher-metric-format.
    """
    metrics: dict[str, Any] = {}
    for item in report.verdicts:
        measures: dict[str, Any] = {}
        if item.latency_ms is not None:
            measures["latency"] = _metric(item.latency_ms * 1e6, *_scaled(item.latency_interval_ms, 1e6))
        for ratio in item.ratios:
            measures[f"ratio-{ratio.question}"] = _metric(ratio.ratio, ratio.low, ratio.high)
        if item.identical:
            measures["ratio-typical"] = _metric(1.0, 1.0, 1.0)
        if item.size_bytes:
            measures["file-size"] = _metric(float(item.size_bytes), None, None)
        if measures:
            metrics[item.name] = measures
    return json.dumps(metrics, indent=1, sort_keys=True) + "\n"


def _metric(value: float, low: float | None, high: float | None) -> dict[str, float]:
    bounds = {"lower_value": low, "upper_value": high}
    return {"value": value, **{key: edge for key, edge in bounds.items() if edge is not None}}


def _scaled(interval: tuple[float, float] | None, factor: float) -> tuple[float | None, float | None]:
    return (None, None) if interval is None else (interval[0] * factor, interval[1] * factor)


def action_benchmark(report: ComparisonReport) -> str:
    """Return the ``customSmallerIsBetter`` list of github-action-benchmark.

    Source: github.com/benchmark-action/github-action-benchmark, README, "Custom benchmark".
    """
    entries = []
    for item in report.verdicts:
        if item.latency_ms is not None:
            interval = item.latency_interval_ms
            wide = f"± {(interval[1] - interval[0]) / 2:.4g}" if interval else ""
            entries.append({"name": f"{item.name} p50", "unit": "ms", "value": item.latency_ms, "range": wide})
        for ratio in item.ratios:
            entry = {
                "name": f"{item.name} {ratio.question} ratio",
                "unit": "ratio",
                "value": ratio.ratio,
                "extra": span(ratio),
            }
            entries.append(entry)
    return json.dumps(entries, indent=1) + "\n"
