"""Claims of papers and their verdicts on a machine: records, and the page that shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

HOLDS, FAILS, UNTESTED = "holds here", "does not hold here", "not testable here"
VERDICTS = (HOLDS, FAILS, UNTESTED)


@dataclass(frozen=True)
class Judgement:
    """The outcome of a test: a verdict, the figures behind it, and what the test lacks if it is not testable."""

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


def terminal(results: Sequence[Finding]) -> str:
    """Return one paragraph per claim, verdict first."""
    blocks = []
    for result in results:
        judged = result.judgement
        lines = [f"{judged.verdict}: {result.claim} ({result.name})", f"  source: {result.source}"]
        lines += [f"  {label}: {text}" for label, text in _details(result)]
        blocks.append("\n".join(lines))
    return "\n\n".join([*blocks, _count(results)])


def markdown(results: Sequence[Finding], machine: Sequence[str], laws: str = "", image: str = "") -> str:
    """Return the page, verdicts in one table and the details below it.

    Args:
        results: In the order of the registry.
        machine: What the figures were measured on, one sentence each.
        laws: A Markdown table of exponents, or nothing.
        image: The path of the plot as the page sees it, or nothing.
    """
    summary = ["| claim | source | verdict |", "|---|---|---|"]
    summary += [
        f"| [{result.claim}](#{result.name}) | {result.source} | **{result.judgement.verdict}** |" for result in results
    ]
    details = [
        f"### {result.name}\n\n{result.claim}. *{result.judgement.verdict}*\n\n"
        + "\n".join(f"- {label}: {text}" for label, text in (("source", result.source), *_details(result)))
        for result in results
    ]
    scaling = ["## Growth with resolution", laws] if laws else []
    if image:
        scaling.append(f"![Latency and peak memory over resolution, with the fitted laws]({image})")
    return "\n\n".join([*INTRODUCTION, *machine, "\n".join(summary), *scaling, "## Each claim", *details]) + "\n"


INTRODUCTION = (
    "# What the papers claim, tested here",
    "`effbench claims --page docs/generated/claims.md` writes this page. "
    "A claim *holds here* or *does not hold here* if the whole 95 % interval supports that verdict on the machine "
    "named below. If the interval is inconclusive, or the claim concerns other hardware, it is *not testable here*, "
    "and the page lists what a test needs. Evidence of grade C or D, and a law that misses one of its points by more "
    "than 15 %, decide nothing; ratios of alternating inferences have no grade, because a load meets both sides. "
    "A measurement on a CPU supports no claim about a phone.",
    "ReGLA is a reconstruction from an abstract; a result for it here need not hold for the authors' network. "
    "Weights are untrained, so no claim about accuracy can be tested.",
)


def _details(result: Finding) -> list[tuple[str, str]]:
    judged = result.judgement
    lines = [("how", result.method), ("result", judged.result), ("needs", judged.needs)]
    return [(label, text) for label, text in lines if text]


def _count(results: Sequence[Finding]) -> str:
    counts = [(sum(result.judgement.verdict == verdict for result in results), verdict) for verdict in VERDICTS]
    return ", ".join(f"{count} {verdict}" for count, verdict in counts)
