"""Paired rounds of two artifacts, until the sequential test has an answer or the time is over."""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from effbench import drafts, process
from effbench.api.export.stage import Notify
from effbench.api.remote import Remote, lost
from effbench.device import PAIR_AGENT
from effbench.errors import DataError, EffbenchError, MeasurementError, UsageError
from effbench.profiles.paired import FEWEST_PAIRS, MIN_PAIRS, PairedRound, log_ratios, pairs_seconds
from effbench.profiles.turns import join_turns
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

ROUND_LIMIT_S = 120.0

SHORTEST_S = 0.01
"""No round takes less, whatever the clock of a device says of its pairs."""

PLAN_FROM = 3
PLAN_ROUNDS = 5
"""Rounds after which a comparison makes its plan, and those of ``--plan``."""

GIVE_UP = 3
"""A comparison stops after this many lost rounds in a row."""


@dataclass(frozen=True)
class RoundSettings:
    """How rounds are run.

    ``workers`` is 1 (both sides in one process) or 2 (taking turns). ``round_seconds`` and ``min_pairs`` are the least
    length of the timed phase. About the time in which a process starts is best: starts and samples both add evidence.
    ``round_s`` is the time of a whole round beyond which it gets fewer pairs; a comparison sets it for each round from
    what is left of the budget. With ``plan_only``, a comparison ends after `PLAN_ROUNDS`.
    """

    threads: int = 1
    batch: int | None = None
    workers: int = 1
    budget_s: float = 60.0
    round_seconds: float = 0.5
    min_pairs: int = MIN_PAIRS
    round_s: float | None = None
    plan_only: bool = False
    quantile: float = 0.5
    python: tuple[tuple[str, ...], tuple[str, ...]] = ((sys.executable,), (sys.executable,))
    seed: int = field(default_factory=lambda: secrets.randbits(31))


MeasureRound = Callable[[Artifact, Artifact, RoundSettings, int], PairedRound]
"""Measures one round of A and B, under settings and a seed."""


def job_of(a: Artifact, b: Artifact, settings: RoundSettings, seed: int) -> dict[str, Any]:
    """Return the job of one round for `PAIR_AGENT`."""
    return {
        "op": "pair" if settings.workers == 1 else "turn",
        "sides": [{"artifact": str(item.folder.resolve())} for item in (a, b)],
        "threads": settings.threads,
        "batch": settings.batch,
        "seed": seed,
        "seconds": settings.round_seconds,
        "min_pairs": settings.min_pairs,
        "round_s": settings.round_s,
    }


def run_round(a: Artifact, b: Artifact, settings: RoundSettings, seed: int) -> PairedRound:
    """Measure one round in fresh processes.

    Raises:
        EffbenchError: A side could not be loaded, a worker was lost, or a sample is not a valid latency.
    """
    job = job_of(a, b, settings, seed)
    if settings.workers == 2:
        return _two_workers(job, settings)
    python = process.Python(settings.python[0])
    answer = process.single(process.run(PAIR_AGENT, job, time_limit_s=ROUND_LIMIT_S, python=python))
    return _paired(answer)


class DeviceRounds:
    """Measures rounds on a device, where one agent runs both sides.

    Args:
        remote: The device in use.
        force: Measure also where the machine that answers contradicts the device; ``doubts`` then holds how.
    """

    def __init__(self, remote: Remote, force: bool = False) -> None:
        self.remote, self.force = remote, force
        self.doubts: dict[str, None] = {}
        """Sentences, in their order."""

    def __call__(self, a: Artifact, b: Artifact, settings: RoundSettings, seed: int) -> PairedRound:
        """Measure one round of A and B, under settings and a seed.

        Raises:
            UsageError: There are two workers, or the machine contradicts the device.
            MeasurementError: The device's clock jumped, or its answer is malformed.
        """
        remote = self.remote
        if settings.workers == 2:
            text = "On a device both sides run in one process."
            raise UsageError(text, hint="Leave --workers and --base-python out.")
        job = {**job_of(a, b, settings, seed), "sides": [{"artifact": remote.place(item)} for item in (a, b)]}
        start = time.monotonic()
        answer = process.single(remote.run(PAIR_AGENT, job, time_limit_s=ROUND_LIMIT_S))
        measured = _paired(answer)
        with process.reading_answer(f"'{remote.device.name}'"):
            counted_s = float(answer.get("agent_s", 0.0))
            self.doubts |= dict.fromkeys(remote.contradictions({**answer.get("machine", {})}, self.force))
        remote.check_clock([*measured.a_ns, *measured.b_ns], counted_s, time.monotonic() - start)
        return measured


def _paired(answer: dict[str, Any]) -> PairedRound:
    with process.reading_answer("a paired round"):
        fields = {key: tuple(value) for key, value in answer["round"].items() if key != "observed"}
        return PairedRound(**fields, observed=answer["round"]["observed"])


def _two_workers(job: dict[str, Any], settings: RoundSettings) -> PairedRound:
    """Measure a round of two processes; by the seed, A or B is the one that leads."""
    process.require_posix("A comparison with two workers")
    if job["seed"] % 2 == 0:
        return _led_by_first(job, settings)
    swapped = replace(settings, python=settings.python[::-1])
    return _led_by_first({**job, "sides": job["sides"][::-1]}, swapped).swapped()


def _led_by_first(job: dict[str, Any], settings: RoundSettings) -> PairedRound:
    with drafts.scratch() as folder:
        pipes = [Path(folder) / name for name in ("a", "b")]
        for pipe in pipes:
            os.mkfifo(pipe)

        def serve(side: int) -> dict[str, Any]:
            own_job = {**job, "side": side, "pipes": [str(pipe) for pipe in pipes]}
            try:
                python = other_python(settings.python[side])
                answer = process.single(process.run(PAIR_AGENT, own_job, time_limit_s=ROUND_LIMIT_S, python=python))
                half: dict[str, Any] = answer["half"]
                return half
            except BaseException:
                _unblock(pipes)
                raise

        with ThreadPoolExecutor(2) as pool:
            halves = [pool.submit(serve, side) for side in (0, 1)]
            errors = [half.exception() for half in halves]
            # The worker that failed first is the cause; its partner's MeasurementError is only the consequence.
            for error in sorted((e for e in errors if e), key=lambda e: isinstance(e, MeasurementError)):
                raise error
            return join_turns(halves[0].result(), halves[1].result())


def _unblock(pipes: Sequence[Path]) -> None:
    """Release a worker that waits for the other to open its pipe."""
    for pipe in pipes:
        with contextlib.suppress(OSError):
            os.close(os.open(pipe, os.O_RDWR | os.O_NONBLOCK))


def other_python(command: tuple[str, ...]) -> process.Python:
    """Return an interpreter with this effbench; if it is not this one, then with no other package of this one."""
    return process.Python(command, None if command == (sys.executable,) else {"PYTHONPATH": ""})


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
