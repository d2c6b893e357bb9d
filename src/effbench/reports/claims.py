"""Claims of papers and what became of them on a machine: records, and the page that shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

HOLDS, FAILS, UNTESTED = "holds here", "does not hold here", "not testable here"
VERDICTS = (HOLDS, FAILS, UNTESTED)


@dataclass(frozen=True)
class Judgement:
    """What a test found: a verdict, the figures behind it, and what it would need where there is none."""

    verdict: str
    result: str = ""
    needs: str = ""


@dataclass(frozen=True)
class Finding:
    """A claim with its judgement."""

    name: str
    claim: str
    source: str
    method: str
    judgement: Judgement


def terminal(found: Sequence[Finding]) -> str:
    """Return one paragraph per claim, verdict first."""
    blocks = []
    for one in found:
        judged = one.judgement
        lines = [f"{judged.verdict}: {one.claim} ({one.name})", f"  source: {one.source}"]
        lines += [f"  {label}: {text}" for label, text in _details(one)]
        blocks.append("\n".join(lines))
    return "\n\n".join([*blocks, _count(found)])


def markdown(found: Sequence[Finding], machine: Sequence[str], laws: str = "", image: str = "") -> str:
    """Return the page, verdicts in one table and the details below it.

    Args:
        found: In the order of the registry.
        machine: What the figures were measured on, one sentence each.
        laws: A Markdown table of exponents, or nothing.
        image: The path of the plot as the page sees it, or nothing.
    """
    summary = ["| claim | source | verdict |", "|---|---|---|"]
    summary += [f"| [{one.claim}](#{one.name}) | {one.source} | **{one.judgement.verdict}** |" for one in found]
    details = [
        f"### {one.name}\n\n{one.claim}. *{one.judgement.verdict}*\n\n"
        + "\n".join(f"- {label}: {text}" for label, text in (("source", one.source), *_details(one)))
        for one in found
    ]
    scaling = ["## Growth with resolution", laws] if laws else []
    if image:
        scaling.append(f"![Latency and peak memory over resolution, with the fitted laws]({image})")
    return "\n\n".join([*INTRODUCTION, *machine, "\n".join(summary), *scaling, "## Each claim", *details]) + "\n"


INTRODUCTION = (
    "# What the papers claim, tested here",
    "Written by `effbench claims --page docs/generated/claims.md`; not by hand. "
    "A claim *holds here* or *does not hold here* "
    "where the whole 95 % interval says so, on the machine named below. Where the interval leaves it open, or the "
    "claim is about something that this machine is not or has not, it is *not testable here*, with what a test "
    "would need. Nothing on this page is a statement about a phone: no claim about one is made from a CPU.",
    "ReGLA is a reconstruction from an abstract; what holds for it here need not hold for the authors' network. "
    "Weights are untrained: no claim about accuracy can be tested with them.",
)


def _details(one: Finding) -> list[tuple[str, str]]:
    judged = one.judgement
    lines = [("how", one.method), ("result", judged.result), ("needs", judged.needs)]
    return [(label, text) for label, text in lines if text]


def _count(found: Sequence[Finding]) -> str:
    counts = [(sum(one.judgement.verdict == verdict for one in found), verdict) for verdict in VERDICTS]
    return ", ".join(f"{count} {verdict}" for count, verdict in counts)
