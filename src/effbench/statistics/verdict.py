"""What a comparison found: the records that `compare` and `gate` return, and that reports render.

Only the standard library is imported here.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from effbench.errors import worst_exit_code

SLOWER, FASTER, UNCHANGED, INCONCLUSIVE, FAILED = "slower", "faster", "unchanged", "inconclusive", "failed"

WHEN_INCONCLUSIVE = {"code": 3, "pass": 0, "fail": 1}


@dataclass(frozen=True)
class Ratio:
    """One question: the ratio of B to A, the interval that holds whenever one stops, and what it could have seen.

    ``low`` or ``high`` is None where the rounds were too few to bound it. ``smallest_detectable_pct`` is the smallest
    slowdown whose interval of this width would have lain above the noise floor.
    """

    question: str
    ratio: float
    low: float | None
    high: float | None
    smallest_detectable_pct: float | None
    outcome: str


@dataclass(frozen=True)
class LayerChange:
    """A layer's share of a slowdown: microseconds per inference on either side, measured in pairs."""

    name: str
    operator: str
    a_us: float
    b_us: float

    @property
    def change_us(self) -> float:
        """How much slower the layer became."""
        return self.b_us - self.a_us


@dataclass(frozen=True)
class Explanation:
    """Where a slowdown comes from: operators that came and went, and the layers that carry it.

    ``operators`` maps an operator to how many more (or fewer) the graph has as given, ``executed`` as the runtime runs
    it after its own fusions. ``unknown_reason`` says why layers could not be timed.
    """

    operators: dict[str, int] = field(default_factory=dict)
    executed: dict[str, int] = field(default_factory=dict)
    lost_fusions: tuple[str, ...] = ()
    layers: tuple[LayerChange, ...] = ()
    total_a_us: float = 0.0
    total_b_us: float = 0.0
    unknown_reason: str = ""


@dataclass(frozen=True)
class BudgetCheck:
    """An absolute budget of one quantity, the value that was measured or counted, and passed, missed or open."""

    quantity: str
    limit: float
    value: float | None
    status: str
    note: str = ""


@dataclass(frozen=True)
class Verdict:
    """How one comparison ended. ``identical`` means that equal files run on an equal runtime, so nothing was timed."""

    name: str
    outcome: str
    ratios: tuple[Ratio, ...] = ()
    identical: bool = False
    rounds: int = 0
    lost_rounds: int = 0
    seconds: float = 0.0
    workers: int = 1
    reason: str = ""
    next_step: str = ""
    fails: bool = False
    exit_code: int = 0
    a_digest: str = ""
    b_digest: str = ""
    latency_ms: float | None = None
    latency_interval_ms: tuple[float, float] | None = None
    size_bytes: int | None = None
    budgets: tuple[BudgetCheck, ...] = ()
    why: Explanation | None = None
    notes: tuple[str, ...] = ()
    round_ratios: tuple[tuple[float, float], ...] = ()
    """Log ratio (typical, tail) of every round: the evidence itself."""


@dataclass(frozen=True)
class ComparisonReport:
    """The verdicts of a suite, the rules they were made by, and where."""

    a: str
    b: str
    verdicts: tuple[Verdict, ...]
    floor_pct: float
    margin_pct: float
    fail_above_pct: float
    false_alarms: float
    compared: int
    inconclusive: str = "code"
    machine: str = ""
    settings: dict[str, str] = field(default_factory=dict)
    interrupted: bool = False

    def exit_code(self) -> int:
        """Return what the command ends with: the most serious verdict's code."""
        return worst_exit_code(code_of(item, self.inconclusive) for item in self.verdicts)


def code_of(item: Verdict, when_inconclusive: str = "code") -> int:
    """Return the exit code of one verdict: 1 regressed or a bound missed, 3 inconclusive, its own where it failed."""
    if item.outcome == FAILED:
        return item.exit_code or 5
    if item.fails or any(budget.status == "missed" for budget in item.budgets):
        return 1
    if item.outcome == INCONCLUSIVE or any(budget.status == "open" for budget in item.budgets):
        return WHEN_INCONCLUSIVE[when_inconclusive]
    return 0
