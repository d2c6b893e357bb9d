"""The table of wrong conversions, and those that the check misses."""

from __future__ import annotations

from collections.abc import Sequence

from effbench.commands.text.layout import table
from effbench.schema import MutationReport
from effbench.schema.mutation import EQUIVALENT, FOUND, MISSED, REFUSED

HEADER = ("wrong conversion", "made", "found", "missed", "equivalent", "refused")


def reports(items: Sequence[MutationReport]) -> str:
    """Return a table per graph, then each fault that was missed or changes nothing, with its size."""
    return "\n\n".join(_report(item) for item in items)


def _report(item: MutationReport) -> str:
    lines = [f"{item.graph}: wrong conversions, run by {item.engine}, on {item.images} images"]
    rows = [
        (kind, counts.total(), *(counts[name] or "" for name in (FOUND, MISSED, EQUIVALENT, REFUSED)))
        for kind, counts in item.counts().items()
    ]
    lines.append(table(HEADER, rows))
    share = "no change of the graph changes its outputs" if item.share is None else f"{100 * item.share:.1f} % found"
    lines.append(f"{share}, of those that change an output by more than the model's own rounding")
    for outcome, text in (
        (MISSED, "missed"),
        (EQUIVALENT, "equivalent (no output changes by more than the model's own rounding)"),
        (REFUSED, "refused"),
    ):
        for one in item.outcomes:
            if one.outcome == outcome:
                change = "" if one.change is None else f": changes {one.change:.1e} of the spread in float64"
                lines.append(f"{text}: {one.kind}, {one.place}{change}{f': {one.reason}' if one.reason else ''}")
    return "\n".join(lines)
