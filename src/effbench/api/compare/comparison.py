"""A comparison of two artifacts: paired rounds until the sequential test has an answer or the time is over."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from effbench import process
from effbench.api.compare.rounds import MeasureRound, RoundSettings, run_round
from effbench.api.export.stage import Notify
from effbench.api.remote import lost
from effbench.errors import DataError, EffbenchError, MeasurementError
from effbench.profiles.paired import FEWEST_PAIRS, log_ratios, pairs_seconds
from effbench.schema import Artifact
from effbench.statistics import planning, sequential
from effbench.statistics.processes import SlowProcesses
from effbench.statistics.sequential import TAIL, TYPICAL, Rules
from effbench.statistics.verdict import (
    FAILED,
    INCONCLUSIVE,
    PLANNED,
    SLOWER,
    Processes,
    Ratio,
    TimePlan,
    Verdict,
    plan_line,
)

SHORTEST_S = 0.01
"""No round takes less, whatever the clock of a device says of its pairs."""

PLAN_FROM = 3
PLAN_ROUNDS = 5
"""Rounds after which a comparison makes its plan, and those of ``--plan``."""

GIVE_UP = 3
"""A comparison stops after this many lost rounds in a row."""


@dataclass
class Comparison:
    """One comparison in progress; `add_round` adds a round."""

    name: str
    a: Artifact
    b: Artifact
    settings: RoundSettings
    rules: Rules
    comparisons: int = 1
    typical: list[float] = field(default_factory=list)
    tail: list[float] = field(default_factory=list)
    lost: list[EffbenchError] = field(default_factory=list)
    spent_s: float = 0.0
    decision: sequential.Decision | None = None
    stop_reason: str = ""
    plan: TimePlan | None = None
    _lost_in_a_row: int = 0
    _least_s: list[float] = field(default_factory=list)
    """What each round would have taken with the fewest pairs."""

    @property
    def finished(self) -> bool:
        """Whether there is an answer, no time is left, or rounds only fail."""
        settled = self.decision is not None and self.decision.settled
        return settled or bool(self.stop_reason) or self.spent_s >= self.settings.budget_s

    def add_round(self, measure: MeasureRound = run_round) -> None:
        """Run one more round and judge again; a round that is lost adds no evidence."""
        start = time.monotonic()
        seed = self.settings.seed + len(self.typical) + len(self.lost)
        more_s: float | None = None
        try:
            item = measure(self.a, self.b, self._next_settings(), seed)
            ratios = log_ratios(item, self.settings.quantile)
            if not (math.isfinite(ratios.typical) and math.isfinite(ratios.tail)):
                raise DataError("A round's ratio is not finite.")
        except EffbenchError as error:
            self._lose(error)
        else:
            self._lost_in_a_row = 0
            self.typical.append(ratios.typical)
            self.tail.append(ratios.tail)
            more_s = pairs_seconds(item, FEWEST_PAIRS)
            self.decision = sequential.judge(np.array(self.typical), np.array(self.tail), self.rules, self.comparisons)
        took_s = time.monotonic() - start
        self.spent_s += took_s
        if more_s is not None:
            self._least_s.append(took_s - more_s)
        self._look_ahead()

    def _next_settings(self) -> RoundSettings:
        ratios, spent_s = (np.array(self.typical), np.array(self.tail)), np.array(self.spent_s)
        round_s = planning.round_seconds(ratios, spent_s, self.settings.budget_s, self.rules, self.comparisons)
        return replace(self.settings, round_s=float(round_s))

    def _look_ahead(self) -> None:
        """Make the plan after some rounds, and stop where the rest of the budget cannot bring a verdict."""
        rounds = len(self.typical)
        last = PLAN_ROUNDS if self.settings.plan_only else PLAN_FROM
        if rounds < last or self.finished:
            return
        ratios = np.array(self.typical), np.array(self.tail)
        round_s = self.spent_s / (rounds + len(self.lost))
        if self.plan is None:
            self.plan = planning.plan(*ratios, round_s, self.rules, self.comparisons)
        if self.settings.plan_only:
            self.stop_reason = "only the plan was asked for"
            return
        # A round that begins within the budget is finished; the next ones may be shorter than those so far.
        least_s = max(SHORTEST_S, float(np.mean(self._least_s)))
        left = math.ceil((self.settings.budget_s - self.spent_s) / least_s)
        open_ = self.decision is not None and self.decision.outcome == INCONCLUSIVE
        if open_ and not planning.in_reach(*ratios, left, self.rules, self.comparisons):
            self.stop_reason = (
                f"no verdict is in reach: a round takes {least_s:.1f} s at the least, and the budget of "
                f"{self.settings.budget_s:.0f} s holds {rounds + left}"
            )

    def _lose(self, error: EffbenchError) -> None:
        self.lost.append(error)
        self._lost_in_a_row += 1
        transient = isinstance(error, (process.ChildFailure, DataError, MeasurementError)) or lost(error)
        if self._lost_in_a_row >= GIVE_UP or not transient:
            self.stop_reason = error.message

    def verdict(self) -> Verdict:
        """Return the verdict on the rounds so far."""
        blank = Verdict(
            self.name,
            INCONCLUSIVE,
            rounds=len(self.typical),
            lost_rounds=len(self.lost),
            seconds=round(self.spent_s, 2),
            workers=self.settings.workers,
            a_digest=self.a.digest,
            b_digest=self.b.digest,
            size_bytes=self.b.subject.size_bytes,
            round_ratios=tuple(zip(self.typical, self.tail, strict=True)),
        )
        if self.decision is None:
            return self._without_rounds(blank)
        decision = self.decision
        ratios = (ratio(TYPICAL, decision.typical, self.rules), ratio(TAIL, decision.tail, self.rules))
        reason = decision.reason
        if self.stop_reason and decision.outcome == INCONCLUSIVE:
            reason = f"{reason}; {self.stop_reason}"
        fails = decision.outcome == SLOWER and decision.fails.low > self.rules.fail_above
        outcome = PLANNED if self.settings.plan_only else decision.outcome
        return replace(
            blank,
            outcome=outcome,
            plan=self.plan,
            next_step=budget_hint(self.plan) if outcome == INCONCLUSIVE else "",
            ratios=ratios,
            processes=_processes(decision.processes),
            reason="" if outcome == PLANNED else reason,
            fails=fails and outcome != PLANNED,
        )

    def _without_rounds(self, blank: Verdict) -> Verdict:
        if not self.lost:
            return replace(blank, reason="no time was left for a round")
        error = self.lost[-1]
        code = type(error).exit_code
        # A worker that was killed is no evidence about the model; one that crashes each time is.
        killed = isinstance(error, process.ChildFailure) and error.killed
        outcome = INCONCLUSIVE if killed else FAILED
        return replace(blank, outcome=outcome, reason=error.message, next_step=error.hint or "", exit_code=code)


def budget_hint(plan: TimePlan | None) -> str:
    """Return the budget with which equal sides end *unchanged* as a rule, or what to do where there is none."""
    if plan is None:
        return ""
    if plan.unchanged_s is None:
        return "More rounds do not help on this machine now: use a quieter one, or --margin 10."
    return f"Give --budget {10 * math.ceil(1.1 * plan.unchanged_s / 10)}."


def _processes(item: SlowProcesses) -> Processes:
    low, high = item.share
    beyond_pct = 100 * math.expm1(item.beyond)
    return Processes(item.rounds, item.slow, item.fast, round(beyond_pct, 2), round(100 * low, 2), round(100 * high, 2))


def ratio(question: str, interval: sequential.Interval, rules: Rules) -> Ratio:
    """Return an interval of log ratios as the ratio that reports show.

    Args:
        question: ``typical`` or ``tail``.
        interval: Log ratios B/A; infinite where the rounds were too few to bound them.
        rules: Floor and margin.
    """
    outcome = interval.outcome(rules)
    bounded = math.isfinite(interval.low)
    detectable_pct = 100 * math.expm1(sequential.smallest_detectable(interval, rules)) if bounded else None
    low, high = (math.exp(edge) if math.isfinite(edge) else None for edge in (interval.low, interval.high))
    shown = "open" if outcome == INCONCLUSIVE else outcome
    return Ratio(question, math.exp(interval.estimate), low, high, detectable_pct, shown)


def run_comparisons(comparisons: Sequence[Comparison], notify: Notify, measure: MeasureRound | None = None) -> bool:
    """Run rounds of all comparisons in turn until each is finished; returns whether the user interrupted.

    The rounds of a suite are interleaved, so that minutes of noise do not fall on one model alone.
    """
    try:
        while unfinished := [item for item in comparisons if not item.finished]:
            for comparison in unfinished:
                planned = comparison.plan
                comparison.add_round(measure or run_round)
                notify(progress(comparison))
                if comparison.plan is not planned and comparison.plan is not None:
                    notify(f"{comparison.name}: {plan_line(comparison.plan)}")
    except KeyboardInterrupt:
        return True
    return False


def progress(comparison: Comparison) -> str:
    """Return the state of a comparison as one line."""
    if comparison.decision is None:
        return f"{comparison.name}: {comparison.lost[-1].message if comparison.lost else 'starting'}"
    item = comparison.decision.typical
    span = "open" if math.isinf(item.low) else f"{math.exp(item.low):.3f} to {math.exp(item.high):.3f}"
    return (
        f"{comparison.name}: round {len(comparison.typical)}, ratio {math.exp(item.estimate):.3f} ({span}), "
        f"{comparison.decision.outcome}, {comparison.spent_s:.0f} of {comparison.settings.budget_s:.0f} s"
    )
