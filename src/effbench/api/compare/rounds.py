"""Rounds of two artifacts against each other, until the sequential test has an answer or the time is over."""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from effbench import process
from effbench.api.remote import Remote, lost
from effbench.errors import DataError, EffbenchError, MeasurementError, UsageError
from effbench.profiles.paired import MIN_PAIRS, PairedRound, join_turns, log_ratios
from effbench.schema import Artifact
from effbench.statistics import sequential
from effbench.statistics.sequential import Rules
from effbench.statistics.verdict import FAILED, INCONCLUSIVE, Ratio, Verdict

Notify = Callable[[str], None]
PAIR_AGENT = "effbench.device.agent_pair"
ROUND_LIMIT_S = 120.0

GIVE_UP = 3
"""So many rounds lost one after the other, and none is tried any more."""


@dataclass(frozen=True)
class RoundSettings:
    """How rounds are run.

    ``workers`` is 1 (both sides in a process) or 2 (taking turns). ``round_seconds`` and ``min_pairs`` bound the timed
    phase; about as long as a process takes to start is best, since both buy evidence.
    """

    threads: int = 1
    batch: int | None = None
    workers: int = 1
    budget_s: float = 60.0
    round_seconds: float = 0.5
    min_pairs: int = MIN_PAIRS
    quantile: float = 0.5
    python: tuple[tuple[str, ...], tuple[str, ...]] = ((sys.executable,), (sys.executable,))
    seed: int = field(default_factory=lambda: secrets.randbits(31))


def job_of(a: Artifact, b: Artifact, setting: RoundSettings, seed: int) -> dict[str, Any]:
    """Return the job of one round."""
    return {
        "op": "pair" if setting.workers == 1 else "turn",
        "sides": [{"artifact": str(item.folder.resolve())} for item in (a, b)],
        "threads": setting.threads,
        "batch": setting.batch,
        "seed": seed,
        "seconds": setting.round_seconds,
        "min_pairs": setting.min_pairs,
    }


def run_round(a: Artifact, b: Artifact, setting: RoundSettings, seed: int) -> PairedRound:
    """Measure one round in fresh processes.

    Raises:
        EffbenchError: A side could not be loaded, a worker was lost, or its samples are no latencies.
    """
    job = job_of(a, b, setting, seed)
    if setting.workers == 2:
        return _two_workers(job, setting)
    (answer,) = process.run(PAIR_AGENT, job, time_limit_s=ROUND_LIMIT_S, python=setting.python[0])
    return _paired(answer)


def on_device(remote: Remote) -> Callable[[Artifact, Artifact, RoundSettings, int], PairedRound]:
    """Return how a round is measured on a device: both sides inside one agent there.

    Its rounds raise `UsageError` where two workers are asked for, and `MeasurementError` where the clock there jumped.
    """

    def measure(a: Artifact, b: Artifact, setting: RoundSettings, seed: int) -> PairedRound:
        if setting.workers == 2:
            text = "On a device both sides run in one process."
            raise UsageError(text, hint="Leave --workers and --base-python out.")
        job = {**job_of(a, b, setting, seed), "sides": [{"artifact": remote.place(item)} for item in (a, b)]}
        began = time.monotonic()
        (answer,) = remote.run(PAIR_AGENT, job, time_limit_s=ROUND_LIMIT_S)
        found = _paired(answer)
        remote.check_clock([*found.a_ns, *found.b_ns], answer, time.monotonic() - began)
        return found

    return measure


def _paired(answer: dict[str, Any]) -> PairedRound:
    fields = {key: tuple(value) for key, value in answer["round"].items() if key != "observed"}
    return PairedRound(**fields, observed=answer["round"]["observed"])


def _two_workers(job: dict[str, Any], setting: RoundSettings) -> PairedRound:
    process.require_posix("A comparison with two workers")
    with tempfile.TemporaryDirectory() as folder:
        pipes = [Path(folder) / name for name in ("a", "b")]
        for pipe in pipes:
            os.mkfifo(pipe)

        def serve(side: int) -> dict[str, Any]:
            mine = {**job, "side": side, "pipes": [str(pipe) for pipe in pipes]}
            try:
                env = library_path(Path(folder) / f"lib{side}") if setting.python[side] != (sys.executable,) else None
                python = setting.python[side]
                (answer,) = process.run(PAIR_AGENT, mine, time_limit_s=ROUND_LIMIT_S, python=python, env=env)
                half: dict[str, Any] = answer["half"]
                return half
            except BaseException:
                _release(pipes)
                raise

        with ThreadPoolExecutor(2) as pool:
            halves = [pool.submit(serve, side) for side in (0, 1)]
            errors = [half.exception() for half in halves]
            # The one that went first is the cause; that its partner is gone is only what the other one saw.
            for error in sorted((e for e in errors if e), key=lambda e: isinstance(e, MeasurementError)):
                raise error
            return join_turns(halves[0].result(), halves[1].result())


def _release(pipes: Sequence[Path]) -> None:
    """Let a worker go that waits for the other to open its pipe."""
    for pipe in pipes:
        with contextlib.suppress(OSError):
            os.close(os.open(pipe, os.O_RDWR | os.O_NONBLOCK))


def library_path(folder: Path) -> dict[str, str]:
    """Return the environment in which another interpreter finds this effbench, and none of our other packages."""
    folder.mkdir(exist_ok=True)
    link = folder / "effbench"
    if not link.exists():
        link.symlink_to(Path(process.__file__).parent, target_is_directory=True)
    return {"PYTHONPATH": str(folder)}


@dataclass
class Comparison:
    """One comparison under way; `step` adds a round."""

    name: str
    a: Artifact
    b: Artifact
    setting: RoundSettings
    rules: Rules
    comparisons: int = 1
    typical: list[float] = field(default_factory=list)
    tail: list[float] = field(default_factory=list)
    lost: list[EffbenchError] = field(default_factory=list)
    spent_s: float = 0.0
    answer: sequential.Decision | None = None
    stopped: str = ""
    _in_a_row: int = 0

    @property
    def done(self) -> bool:
        """Whether there is an answer, no time left, or no hope."""
        settled = self.answer is not None and self.answer.settled
        return settled or bool(self.stopped) or self.spent_s >= self.setting.budget_s

    def step(self, measure: Callable[[Artifact, Artifact, RoundSettings, int], PairedRound] = run_round) -> None:
        """Run one more round and judge anew; a round that is lost says nothing."""
        start = time.monotonic()
        seed = self.setting.seed + len(self.typical) + len(self.lost)
        try:
            found = log_ratios(measure(self.a, self.b, self.setting, seed), self.setting.quantile)
            if not (math.isfinite(found.typical) and math.isfinite(found.tail)):
                raise DataError("A round's ratio is not finite.")
        except EffbenchError as error:
            self._lose(error)
        else:
            self._in_a_row = 0
            self.typical.append(found.typical)
            self.tail.append(found.tail)
            self.answer = sequential.judge(np.array(self.typical), np.array(self.tail), self.rules, self.comparisons)
        self.spent_s += time.monotonic() - start

    def _lose(self, error: EffbenchError) -> None:
        self.lost.append(error)
        self._in_a_row += 1
        transient = isinstance(error, (process.ChildFailure, DataError, MeasurementError)) or lost(error)
        if self._in_a_row >= GIVE_UP or not transient:
            self.stopped = error.message

    def verdict(self) -> Verdict:
        """Return what is known now."""
        blank = Verdict(
            self.name,
            INCONCLUSIVE,
            rounds=len(self.typical),
            lost_rounds=len(self.lost),
            seconds=round(self.spent_s, 2),
            workers=self.setting.workers,
            a_digest=self.a.digest,
            b_digest=self.b.digest,
            size_bytes=self.b.subject.size_bytes,
            round_ratios=tuple(zip(self.typical, self.tail, strict=True)),
        )
        if self.answer is None:
            return self._nothing(blank)
        answer = self.answer
        ratios = (self._ratio("typical", answer.typical), self._ratio("tail", answer.tail))
        reason = answer.reason
        if self.stopped and answer.outcome == "inconclusive":
            reason = f"{reason}; {self.stopped}"
        fails = answer.outcome == "slower" and answer.fails.low > self.rules.fail_above
        return replace(blank, outcome=answer.outcome, ratios=ratios, reason=reason, fails=fails)

    def _nothing(self, blank: Verdict) -> Verdict:
        if not self.lost:
            return replace(blank, reason="no time was left for a round")
        error = self.lost[-1]
        code = type(error).exit_code
        # A worker that was killed is no evidence about the model; one that crashes each time is.
        killed = isinstance(error, process.ChildFailure) and error.killed
        outcome = INCONCLUSIVE if killed else FAILED
        return replace(blank, outcome=outcome, reason=error.message, next_step=error.hint or "", exit_code=code)

    def _ratio(self, question: str, item: sequential.Interval) -> Ratio:
        rules = self.rules
        outcome = "open"
        if item.low > rules.floor:
            outcome = "slower"
        elif item.high < -rules.floor:
            outcome = "faster"
        elif -rules.margin < item.low and item.high < rules.margin:
            outcome = "unchanged"
        bounded = math.isfinite(item.low)
        seen = 100 * math.expm1(sequential.smallest_detectable(item, rules)) if bounded else None
        low, high = (math.exp(edge) if math.isfinite(edge) else None for edge in (item.low, item.high))
        return Ratio(question, math.exp(item.estimate), low, high, seen, outcome)


def run(
    duels: Sequence[Comparison],
    notify: Notify,
    measure: Callable[[Artifact, Artifact, RoundSettings, int], PairedRound] | None = None,
) -> bool:
    """Run rounds of all comparisons in turn until each has its answer; returns whether the user interrupted.

    The rounds of a suite are interleaved, so that a quarter of an hour of noise cannot spoil one model's whole share.
    """
    try:
        while open_ones := [duel for duel in duels if not duel.done]:
            for duel in open_ones:
                duel.step(measure or run_round)
                notify(progress(duel))
    except KeyboardInterrupt:
        return True
    return False


def progress(duel: Comparison) -> str:
    """Return one line on how a comparison stands."""
    if duel.answer is None:
        return f"{duel.name}: {duel.lost[-1].message if duel.lost else 'starting'}"
    item = duel.answer.typical
    span = "open" if math.isinf(item.low) else f"{math.exp(item.low):.3f} to {math.exp(item.high):.3f}"
    return (
        f"{duel.name}: round {len(duel.typical)}, ratio {math.exp(item.estimate):.3f} ({span}), "
        f"{duel.answer.outcome}, {duel.spent_s:.0f} of {duel.setting.budget_s:.0f} s"
    )
