"""How many seeded wrong conversions of a model the check for wrong exports finds."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

FOUND, MISSED, EQUIVALENT, REFUSED = "found", "missed", "equivalent", "refused"


@dataclass(frozen=True)
class MutationOutcome:
    """How one wrong conversion ended.

    Attributes:
        kind: Of the fault.
        place: What was changed.
        outcome: ``found`` (the check fails), ``missed`` (it passes although an output changes by more than the model's
            own rounding), ``equivalent`` (no output changes by more than that), or ``refused`` (the engine takes no
            such graph).
        reason: The check's first reason, or what the engine said.
        change: The largest change of an output in float64, of the spread; None where it was found.
    """

    kind: str
    place: str
    outcome: str
    reason: str = ""
    change: float | None = None


@dataclass(frozen=True)
class MutationReport:
    """The outcomes of all wrong conversions of one graph.

    Attributes:
        graph: The artifact whose graph was changed.
        precision: Stored in it.
        engine: What ran the changed graphs.
        images: How many each of them ran on.
        outcomes: In order of kinds.
    """

    graph: str
    precision: str
    engine: str
    images: int
    outcomes: tuple[MutationOutcome, ...]

    def counts(self) -> dict[str, Counter[str]]:
        """Return by kind how many ended in each way."""
        result: dict[str, Counter[str]] = {}
        for item in self.outcomes:
            result.setdefault(item.kind, Counter())[item.outcome] += 1
        return result

    @property
    def share(self) -> float | None:
        """The share found of those that change an output; None if none does."""
        total = Counter(item.outcome for item in self.outcomes)
        changing = total[FOUND] + total[MISSED]
        return total[FOUND] / changing if changing else None
