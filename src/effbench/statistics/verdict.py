"""The result of a comparison: the records that `compare` and `gate` return, and that reports render.

Only the standard library is imported here.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from effbench.errors import worst_exit_code

SLOWER, FASTER, UNCHANGED, INCONCLUSIVE, FAILED = "slower", "faster", "unchanged", "inconclusive", "failed"

PLANNED = "planned"
"""The outcome with ``--plan``, which measures only how long a verdict would take."""

WHEN_INCONCLUSIVE = {"code": 3, "pass": 0, "fail": 1}


@dataclass(frozen=True)
class Ratio:
    """The ratio of B to A for one question, with an interval that is valid at any stopping time.

    ``low`` or ``high`` is None if there were too few rounds to bound it. ``smallest_detectable_pct`` is the smallest
    slowdown that an interval of this width proves to be above the noise floor.
    """

    question: str
    ratio: float
    low: float | None
    high: float | None
    smallest_detectable_pct: float | None
    outcome: str


@dataclass(frozen=True)
class Processes:
    """How many of the processes, one a round, were slower or faster than the base by more than ``beyond_pct``.

    ``slow_low_pct`` and ``slow_high_pct`` are the 95 % interval of the share of slow ones among all processes.
    """

    count: int
    slow: int
    fast: int
    beyond_pct: float
    slow_low_pct: float
    slow_high_pct: float


@dataclass(frozen=True)
class TimePlan:
    """How long verdicts take, from the spread and the length of some rounds; None for more than 90 rounds.

    ``slower_s`` maps a slowdown in percent to the seconds in which 95 % of runs find it; ``unchanged_s`` are those in
    which 90 % of runs on equal sides are *unchanged*.
    """

    rounds: int
    seconds_per_round: float
    slower_s: dict[str, float | None]
    unchanged_s: float | None


@dataclass(frozen=True)
class LayerChange:
    """A layer's share of a slowdown: its microseconds per inference in A and in B, measured in pairs."""

    name: str
    operator: str
    a_us: float
    b_us: float

    @property
    def change_us(self) -> float:
        """How much slower the layer became, in microseconds."""
        return self.b_us - self.a_us


@dataclass(frozen=True)
class Explanation:
    """The causes of a slowdown: operators that were added or removed, and the layers that became slower.

    ``operators`` maps an operator to the change of its count in the graph, ``executed`` in the graph that the runtime
    runs after its fusions. ``unknown_reason`` states why layers could not be timed.
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
    """The result of one comparison.

    ``identical`` means that nothing was timed, because graph, weights, files, runtime and options of both sides are
    equal. ``identity`` holds what was compared to decide that: each quantity with its value on A and on B.
    """

    name: str
    outcome: str
    ratios: tuple[Ratio, ...] = ()
    identical: bool = False
    identity: dict[str, tuple[str, str]] = field(default_factory=dict)
    rounds: int = 0
    lost_rounds: int = 0
    seconds: float = 0.0
    workers: int = 1
    processes: Processes | None = None
    plan: TimePlan | None = None
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
    """Log ratios (typical, tail) of every round."""


@dataclass(frozen=True)
class ComparisonReport:
    """The verdicts of a suite with the thresholds, the machine and the settings."""

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
    policy_changes: tuple[str, ...] = ()
    """What a change would have changed in the policy of its gate; the base's applies."""

    def exit_code(self) -> int:
        """Return the exit code of the command: that of the most serious verdict."""
        return worst_exit_code(code_of(item, self.inconclusive) for item in self.verdicts)


def code_of(item: Verdict, when_inconclusive: str = "code") -> int:
    """Return the exit code of one verdict: 1 for a regression or a missed budget, 3 inconclusive, its own if failed."""
    if item.outcome == FAILED:
        return item.exit_code or 5
    if item.fails or any(budget.status == "missed" for budget in item.budgets):
        return 1
    if item.outcome == INCONCLUSIVE or any(budget.status == "open" for budget in item.budgets):
        return WHEN_INCONCLUSIVE[when_inconclusive]
    return 0


def plan_line(plan: TimePlan) -> str:
    """Return a plan as a sentence."""

    def within(seconds: float | None) -> str:
        return "in no reasonable time" if seconds is None else f"in {seconds:.0f} s"

    durations = ", ".join(f"+{pct} % {within(seconds)}" for pct, seconds in plan.slower_s.items())
    return (
        f"plan after {plan.rounds} rounds of {plan.seconds_per_round:.1f} s: found with 95 % probability: {durations}; "
        f"equal sides are unchanged {within(plan.unchanged_s)}"
    )
