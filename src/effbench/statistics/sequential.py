"""Is B slower than A? A sequential test over rounds that may stop at any time and is robust to outlier rounds.

Each round gives one log ratio B/A per question: typical latency and tail. A and B are loaded and run in random order,
so that a round's log ratio is symmetric about the true one under any noise that differs between rounds. Three questions
share the error probability, each a bet over the rounds (`effbench.statistics.betting`): the typical latency, the tail
inside a round, and the *processes*, that is the sign of the rounds in which B was far slower or far faster. The last
finds a candidate that is slow in some of its processes and equal in the others, which no median shows.

The test assumes nothing about the size of the noise, only that it is independent of the side from round to round: a
load that slows one side in all rounds alike cannot be told from a slower model. One outlier round costs about three
good ones, and no verdict is possible before some ten rounds: 2**-n is the chance that n fair coins agree.

Numpy and the standard library only.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from effbench.errors import UsageError, counted
from effbench.statistics import betting
from effbench.statistics.betting import Floats, Payoff
from effbench.statistics.processes import SlowProcesses, bounded, slow_processes

Bools = npt.NDArray[np.bool_]

OUTCOMES = ("slower", "faster", "unchanged", "inconclusive")
SLOWER, FASTER, UNCHANGED, INCONCLUSIVE = range(4)

TYPICAL, TAIL, PROCESSES = QUESTIONS = ("typical", "tail", "processes")


@dataclass(frozen=True)
class Rules:
    """The thresholds of a verdict, and its error probability.

    Percentages are slowdowns: 5 means a ratio of 1.05, and of 1/1.05 for a speed-up, so that swapped inputs give
    swapped verdicts. ``false_alarms`` is the probability of any false *slower* or *faster* in a suite. The shares of it
    are the largest that leave the typical latency decided after 10 rounds, the tail after 12, the processes after 13.
    ``processes`` is the number of processes without a slow one that *unchanged* needs: 23 exclude a share of 10 % of
    slow processes, 44 one of 5 %.
    """

    floor_pct: float = 1.0
    margin_pct: float = 5.0
    fail_above_pct: float | None = None
    false_alarms: float = 0.005
    tail_share: float = 0.25
    process_share: float = 0.096
    processes: int = 23

    def __post_init__(self) -> None:
        if not 0 <= self.floor_pct < self.margin_pct:
            raise UsageError(f"The floor of {self.floor_pct:g} % must be below the margin of {self.margin_pct:g} %.")
        if not (0 < self.false_alarms < 1 and 0 < self.tail_share < 1):
            raise UsageError("The probability of a false alarm, and the tail's share of it, must be between 0 and 1.")
        if not 0 < self.process_share < 1 - self.tail_share:
            raise UsageError("The share of the false alarms for processes must be above 0 and leave some for the rest.")
        if self.processes < 1:
            raise UsageError(f"--processes {self.processes} is not above zero.")
        if self.fail_above_pct is not None and self.fail_above_pct < self.floor_pct:
            raise UsageError(
                f"--fail-above {self.fail_above_pct:g} is below the noise floor of {self.floor_pct:g} %.",
                hint="A change below the floor cannot be distinguished from noise.",
            )

    @property
    def floor(self) -> float:
        """The noise floor as a log ratio."""
        return math.log1p(self.floor_pct / 100)

    @property
    def margin(self) -> float:
        """The margin as a log ratio."""
        return math.log1p(self.margin_pct / 100)

    @property
    def fail_above(self) -> float:
        """The slowdown, as a log ratio, above which the exit code is 1."""
        return self.floor if self.fail_above_pct is None else math.log1p(self.fail_above_pct / 100)

    def alphas(self, comparisons: int = 1) -> tuple[float, float, float]:
        """Return the one-sided error probability of each of `QUESTIONS` in a suite of so many comparisons."""
        share = self.false_alarms / max(comparisons, 1) / 2
        tail, processes = share * self.tail_share, share * self.process_share
        return share - tail - processes, tail, processes

    def missed(self, comparisons: int = 1) -> float:
        """Return the probability of a false *unchanged*, in each direction.

        It is not divided among the questions: one of them that truly lies beyond the margin suffices against it.
        """
        return self.false_alarms / max(comparisons, 1) / 2

    def fewest_rounds(self, comparisons: int = 1) -> tuple[int, int]:
        """Return the fewest rounds after which *slower* is possible, and those for *unchanged*."""
        slower = betting.fewest_rounds(self.alphas(comparisons)[0])
        return slower, max(betting.fewest_rounds(self.missed(comparisons)), self.processes)


@dataclass(frozen=True)
class Interval:
    """The estimate of one question as a log ratio, with an interval that is valid at any stopping time."""

    estimate: float
    low: float
    high: float

    def outcome(self, rules: Rules) -> str:
        """Return the element of `OUTCOMES` that the whole interval supports."""
        if self.low > rules.floor:
            return OUTCOMES[SLOWER]
        if self.high < -rules.floor:
            return OUTCOMES[FASTER]
        if -rules.margin < self.low and self.high < rules.margin:
            return OUTCOMES[UNCHANGED]
        return OUTCOMES[INCONCLUSIVE]


@dataclass(frozen=True)
class Decision:
    """The outcome after some rounds, and the estimates of the questions.

    ``settled`` is true if more rounds are not needed; ``by`` names the questions that are slower or faster. ``far`` is
    the interval of the question about processes: below its low end no ratio exceeds the margin more often on one side.
    """

    outcome: str
    settled: bool
    typical: Interval
    tail: Interval
    far: Interval
    processes: SlowProcesses
    rounds: int
    by: tuple[str, ...] = ()
    reason: str = ""

    @property
    def fails(self) -> Interval:
        """The interval that ``--fail-above`` is compared with: the slowest one of the questions that decided."""
        intervals = dict(zip(QUESTIONS, (self.typical, self.tail, self.far), strict=True))
        deciding = [intervals[name] for name in self.by] or list(intervals.values())
        return max(deciding, key=lambda item: item.low)


class _Question(NamedTuple):
    """One bet: the log ratios, the error probability, the payoff, and the distance at which it pays in full."""

    rounds: Floats
    alpha: float
    payoff: Payoff
    reach: float

    def above(self, m: float, alpha: float | None = None) -> Bools:
        """Return after each round whether "the log ratio is at most m" is rejected."""
        return np.asarray(betting.log_wealth(self.rounds, m, self.payoff) >= -math.log(alpha or self.alpha))

    def below(self, m: float, alpha: float | None = None) -> Bools:
        """Return after each round whether "the log ratio is at least m" is rejected."""
        return np.asarray(betting.log_wealth(-self.rounds, -m, self.payoff) >= -math.log(alpha or self.alpha))

    def interval(self, alpha: float | None = None) -> Interval:
        """Return the interval after all rounds of one run."""
        low = betting.lower_bound(self.rounds, alpha or self.alpha, self.payoff, self.reach)
        high = -betting.lower_bound(-self.rounds, alpha or self.alpha, self.payoff, self.reach)
        return Interval(float(np.median(self.rounds)), low, high)


def _questions(typical: Floats, tail: Floats, rules: Rules, comparisons: int) -> tuple[_Question, ...]:
    alphas = rules.alphas(comparisons)
    ratios = [_by_distance(rounds, alpha) for rounds, alpha in zip((typical, tail), alphas[:2], strict=True)]
    return (*ratios, _Question(typical, alphas[2], betting.by_sign_beyond(rules.margin), rules.margin))


def _by_distance(rounds: Floats, alpha: float) -> _Question:
    scale = betting.scales(rounds)
    return _Question(rounds, alpha, betting.by_distance(scale), float(scale.max()))


def interval(rounds: Floats, alpha: float) -> Interval:
    """Return the confidence sequence's interval after these rounds of one run, with error alpha on each side."""
    return _by_distance(rounds, alpha).interval()


def outcomes(typical: Floats, tail: Floats, rules: Rules, comparisons: int = 1) -> tuple[Floats, Bools]:
    """Return the outcome after each round, and whether it is settled; live runs and replays share this rule.

    Args:
        typical: Log ratios of the typical latency, shape (..., n).
        tail: Log ratios of the tail, same shape.
        rules: Noise floor, margin, error probability.
        comparisons: How many comparisons share the error probability.

    Returns:
        Codes (indices into `OUTCOMES`), shape (..., n), and booleans.
    """
    questions = _questions(typical, tail, rules, comparisons)
    ratios = questions[:2]
    slower = _any(item.above(rules.floor) for item in questions)
    faster = _any(item.below(-rules.floor) for item in questions)
    inside = bounded(typical, rules.margin, rules.processes)
    missed = rules.missed(comparisons)
    for item in ratios:
        inside &= item.above(-rules.margin, missed) & item.below(rules.margin, missed)
    code = np.full(typical.shape, INCONCLUSIVE)
    code[inside] = UNCHANGED
    code[slower & ~faster] = SLOWER
    code[faster & ~slower] = FASTER
    code[slower & faster] = INCONCLUSIVE
    # A slowdown between the floor and the margin may still be proved: go on while the median is there.
    medians = [np.abs(_running_median(item.rounds)) for item in ratios]
    calm = (medians[0] <= rules.floor) & (medians[1] <= rules.margin / 2)
    # --fail-above is answered: above it, or below it and no longer open whether B is slower at all.
    passes = np.full(typical.shape, rules.fail_above_pct is not None)
    for item in ratios:
        passes &= item.below(rules.fail_above)
    fails = _any(item.above(rules.fail_above) for item in questions)
    answered = faster | (slower & (fails | passes)) | (inside & (calm | passes))
    return code, answered


def _any(arrays: Iterable[Bools]) -> Bools:
    return np.asarray(np.logical_or.reduce(list(arrays)))


def _running_median(rounds: Floats) -> Floats:
    return np.stack([np.median(rounds[..., : n + 1], axis=-1) for n in range(rounds.shape[-1])], axis=-1)


def judge(typical: Floats, tail: Floats, rules: Rules, comparisons: int = 1) -> Decision:
    """Return the decision after the rounds so far.

    Args:
        typical: Log ratios B/A of the typical latency, one per round.
        tail: Log ratios of the tail, one per round.
        rules: Noise floor, margin, error probability.
        comparisons: How many comparisons share the error probability.

    Raises:
        UsageError: There is no round, or a ratio is not finite.
    """
    typical, tail = np.asarray(typical, float), np.asarray(tail, float)
    if not len(typical) or len(typical) != len(tail) or not np.isfinite([*typical, *tail]).all():
        raise UsageError("A verdict needs one finite log ratio of each question for every round, and one round.")
    codes, settled = outcomes(typical, tail, rules, comparisons)
    outcome = OUTCOMES[int(codes[-1])]
    # A verdict is shown with the intervals that it rests on.
    alpha = rules.missed(comparisons) if outcome == OUTCOMES[UNCHANGED] else None
    questions = _questions(typical, tail, rules, comparisons)
    intervals = {name: item.interval(alpha) for name, item in zip(QUESTIONS, questions, strict=True)}
    processes = slow_processes(typical, rules.margin)
    slower = tuple(name for name, item in intervals.items() if item.low > rules.floor)
    faster = tuple(name for name, item in intervals.items() if item.high < -rules.floor)
    reason = ""
    if slower and faster:
        reason = f"{_latency(slower)} slower, {_latency(faster)} faster"
    elif outcome == "inconclusive":
        reason = _reason_open(intervals, rules, processes)
    by = {"slower": slower, "faster": faster}.get(outcome, ())
    center, tails, far = intervals.values()
    return Decision(outcome, bool(settled[-1]), center, tails, far, processes, len(typical), by, reason)


def _latency(names: tuple[str, ...]) -> str:
    return "some processes are" if names[0] == PROCESSES else f"{names[0]} latency is"


def _reason_open(intervals: dict[str, Interval], rules: Rules, processes: SlowProcesses) -> str:
    ratios = {name: intervals[name] for name in (TYPICAL, TAIL)}
    unbounded = [name for name, item in ratios.items() if math.isinf(item.low) or math.isinf(item.high)]
    if unbounded:
        verb = "is" if processes.rounds == 1 else "are"
        return f"{counted(processes.rounds, 'round')} {verb} too few to bound the {' and the '.join(unbounded)} latency"
    wide = [name for name, item in ratios.items() if item.high >= rules.margin or item.low <= -rules.margin]
    reasons = [f"the interval of the {' and the '.join(wide)} latency extends beyond the margin"] if wide else []
    number = counted(processes.rounds, "process", "processes")
    if processes.slow or processes.fast:
        counts = f"slower in {processes.slow} and faster in {processes.fast}"
        reasons.append(f"of {number}, B was {counts} by more than {100 * math.expm1(processes.beyond):.0f} %")
    elif not wide:
        reasons.append(f"{number} are too few to exclude that some are slow")
    return "; ".join(reasons)


def smallest_detectable(item: Interval, rules: Rules) -> float:
    """Return the smallest slowdown, as a log ratio, that an interval of this width proves to be above the floor."""
    return rules.floor + (item.estimate - item.low)
