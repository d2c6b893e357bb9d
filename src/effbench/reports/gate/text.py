"""Verdicts as text that a person reads: the table, its notes, and a sentence per verdict."""

from __future__ import annotations

from effbench.errors import counted
from effbench.reports import cells
from effbench.reports.grouping import grouped
from effbench.statistics.verdict import (
    INCONCLUSIVE,
    PLANNED,
    UNCHANGED,
    ComparisonReport,
    Explanation,
    Ratio,
    Verdict,
    plan_line,
)

SHOWN_LAYERS = 5


def percent(ratio: float) -> str:
    """Return a ratio as a signed change: 1.05 is +5.0 %."""
    return f"{100 * (ratio - 1):+.1f} %"


def span(item: Ratio) -> str:
    """Return a ratio's interval as changes; an open end is shown as such."""
    if item.low is None and item.high is None:
        return "not bounded yet"
    low, high = ("open" if edge is None else percent(edge) for edge in (item.low, item.high))
    return f"{low} to {high}"


def word(item: Verdict) -> str:
    """Return the outcome, and whether the sides are identical."""
    return f"{item.outcome} (identical)" if item.identical else item.outcome


def _rows(report: ComparisonReport) -> list[list[str]]:
    rows = []
    for item in report.verdicts:
        head = [item.name, word(item)]
        tail = [str(item.rounds) if item.rounds else "", f"{item.seconds:.0f} s" if item.rounds else ""]
        if not item.ratios:
            rows.append([*head, "", "", "", "", *tail])
        for index, ratio in enumerate(item.ratios):
            detectable = "" if ratio.smallest_detectable_pct is None else f"+{ratio.smallest_detectable_pct:.1f} %"
            middle = [ratio.question, percent(ratio.ratio), span(ratio), detectable]
            rows.append([*head, *middle, *tail] if index == 0 else ["", "", *middle, "", ""])
    return rows


def _reason(item: Verdict) -> str:
    reason = f"{'identical' if item.identical else item.outcome}: {item.reason}" if item.reason else ""
    return "\n  ".join(text for text in (reason, item.next_step) if text)


HEADER = ("comparison", "verdict", "quantity", "change", "95 % interval", "detectable", "rounds", "time")


def notes(report: ComparisonReport) -> list[str]:
    """Return the lines below the table: rules, machine, reasons, missed budgets, and why a side is slower."""
    share = f"{100 * report.false_alarms:g} % for the suite"
    lines = [
        f"{report.a} -> {report.b}; noise floor {report.floor_pct:g} %, margin {report.margin_pct:g} %, fails above "
        f"{report.fail_above_pct:g} %; chance of a false alarm at most {share} ({report.compared} timed)",
        f"{report.machine}; {counted(int(report.settings.get('threads', 1)), 'thread')}, "
        f"{counted(int(report.settings.get('workers', 1)), 'worker')} a round",
    ]
    reasons = [(item.name, text) for item in report.verdicts if (text := _reason(item))]
    lines += grouped(reasons, len(report.verdicts), noun="comparisons")
    for item in report.verdicts:
        if item.lost_rounds:
            lost = counted(item.lost_rounds, "round was", "rounds were")
            lines.append(f"{item.name}: {lost} lost and not counted")
        lines += [f"{item.name}: {line}" for line in (*_processes(item), *_unseen(item), *_plan(item), *item.notes)]
        if item.latency_ms is not None:
            low_high = item.latency_interval_ms
            around = f" [{low_high[0]:.3f}, {low_high[1]:.3f}]" if low_high else ""
            lines.append(f"{item.name}: p50 {item.latency_ms:.3f} ms{around}, measured separately, not in alternation")
        lines += [f"{item.name}: {line}" for line in budgets(item)]
        if item.why is not None:
            lines += [f"{item.name}: {line}" for line in explanation(item.why)]
    lines += [f"policy: {line}" for line in report.policy_changes]
    if report.interrupted:
        lines.append("interrupted: comparisons without a verdict are inconclusive")
    return lines


def _processes(item: Verdict) -> list[str]:
    """Return how many processes were slow, where rounds were measured."""
    share = item.processes
    if share is None:
        return []
    number = counted(share.count, "process", "processes")
    span = f"{share.slow_low_pct:.0f} to " if share.slow else "at most "
    return [
        f"slower by more than {share.beyond_pct:.0f} % in {share.slow} of {number}, faster in {share.fast}: with 95 % "
        f"confidence, {span}{share.slow_high_pct:.0f} % of all processes are slower"
    ]


def _plan(item: Verdict) -> list[str]:
    """Return the plan where there is no verdict."""
    return [plan_line(item.plan)] if item.plan and item.outcome in (INCONCLUSIVE, PLANNED) else []


def _unseen(item: Verdict) -> list[str]:
    """Return what a verdict of unchanged does not exclude."""
    highs = [ratio.high for ratio in item.ratios if ratio.question == "typical" and ratio.high is not None]
    if item.outcome != UNCHANGED or not highs:
        return []
    return [f"unchanged does not exclude a slowdown of up to {percent(max(1.0, *highs))}; small ones can add up"]


def budgets(item: Verdict) -> list[str]:
    """Return a line for each budget: its value, limit and status."""
    lines = []
    for budget in item.budgets:
        value = "unknown" if budget.value is None else f"{budget.value:g}"
        note = f" ({budget.note})" if budget.note else ""
        lines.append(f"budget {budget.quantity}: {value}, limit {budget.limit:g}: {budget.status}{note}")
    return lines


def explanation(why: Explanation) -> list[str]:
    """Return lines that explain where a slowdown comes from."""
    lines = []
    if why.operators:
        lines.append("operators: " + ", ".join(f"{name} {change:+d}" for name, change in why.operators.items()))
    if why.executed and why.executed != why.operators:
        lines.append("as executed: " + ", ".join(f"{name} {change:+d}" for name, change in why.executed.items()))
    if why.lost_fusions:
        lines.append("fusions lost: " + ", ".join(why.lost_fusions))
    change = why.total_b_us - why.total_a_us
    carried = [layer for layer in why.layers if change * layer.change_us > 0][:SHOWN_LAYERS]
    for layer in carried:
        share = 100 * layer.change_us / change
        was = "new" if not layer.a_us else f"was {layer.a_us:.0f} us"
        lines.append(f"layer {layer.name} ({layer.operator}): {layer.b_us:.0f} us, {was}; {share:.0f} % of the change")
    if why.unknown_reason:
        lines.append(why.unknown_reason)
    return lines


def _table(report: ComparisonReport, style: str) -> str:
    from tabulate import tabulate

    rows = _rows(report)
    if style == "github":
        rows = [[cells.markdown(cell) for cell in row] for row in rows]
    return tabulate(rows, headers=HEADER, tablefmt=style, disable_numparse=True)


def terminal(report: ComparisonReport) -> str:
    """Return the table and its notes as plain text."""
    table = _table(report, "simple")
    return "\n".join([table, *notes(report)]) + "\n"


def markdown(report: ComparisonReport) -> str:
    """Return a section for a job summary or a pull request."""
    table = _table(report, "github")
    listed = "\n".join(f"- {cells.markdown(line.strip())}" for line in notes(report))
    return f"### Latency gate: {headline(report)}\n\n{table}\n\n{listed}\n"


def headline(report: ComparisonReport) -> str:
    """Return the outcome in a few words: how many of each kind."""
    kinds: dict[str, int] = {}
    for item in report.verdicts:
        kinds[item.outcome] = kinds.get(item.outcome, 0) + 1
        if any(budget.status == "missed" for budget in item.budgets):
            kinds["over budget"] = kinds.get("over budget", 0) + 1
    return ", ".join(f"{count} {kind}" for kind, count in kinds.items()) or "nothing compared"


def one_line(item: Verdict) -> str:
    """Return a verdict as a sentence."""
    parts = [f"{item.name}: {word(item)}"]
    parts += [f"{ratio.question} {percent(ratio.ratio)} ({span(ratio)})" for ratio in item.ratios]
    if item.rounds:
        parts.append(f"{item.rounds} rounds, {item.seconds:.0f} s")
    parts += [f"missed: {budget.quantity}" for budget in item.budgets if budget.status == "missed"]
    return "; ".join([*parts, *([item.reason] if item.reason else [])])
