"""Is B slower than A? A sequential test over rounds that may stop at any time and is robust to outlier rounds.

Each round gives one log ratio B/A per question (typical latency, tail). A and B are loaded and run in random order, so
that a round's log ratio is symmetric about the true one under any noise of the machine. Against every hypothesis "the
true log ratio is at most m" a bettor stakes a share of the wealth on each round being above m. The payoff is a bounded,
odd, increasing function of the distance, so that the wealth cannot grow on average if the hypothesis holds. By Ville's
inequality the wealth exceeds 1/alpha at any time with probability alpha at most; the values m that have not been
rejected form a confidence sequence.

The test assumes nothing about the size of the noise. One outlier round costs about three good ones, and no verdict is
possible before some ten rounds: 2**-n is the chance that n fair coins agree.

Source: Waudby-Smith and Ramdas 2024, "Estimating means of bounded random variables by betting", JRSS B 86:1; the
betting on signs of symmetric variables goes back to de la Pena 1999, Annals of Probability 27:537; Howard, Ramdas,
McAuliffe and Sekhon 2021, Annals of Statistics 49:1055, for confidence sequences.

Numpy and the standard library only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from effbench.errors import UsageError

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

STAKE = 0.9
"""The share of the wealth that is bet: of 0.85 to 0.98 the value with the most power at +5 % with outlier rounds."""

FIRST_SCALE = 0.005
"""The payoff's scale for the first `LEARNED` rounds: two loads of one model differ by about 0.5 %."""

LEARNED = 3
SMALLEST_SCALE = 0.001

OUTCOMES = ("slower", "faster", "unchanged", "inconclusive")
SLOWER, FASTER, UNCHANGED, INCONCLUSIVE = range(4)


@dataclass(frozen=True)
class Rules:
    """The thresholds of a verdict, and its error probability.

    Percentages are slowdowns: 5 means a ratio of 1.05, and of 1/1.05 for a speed-up, so that swapped inputs give
    swapped verdicts. ``false_alarms`` is the probability of any false *slower* or *faster* in a suite.
    """

    floor_pct: float = 1.0
    margin_pct: float = 5.0
    fail_above_pct: float | None = None
    false_alarms: float = 0.005
    tail_share: float = 0.3

    def __post_init__(self) -> None:
        if not 0 <= self.floor_pct < self.margin_pct:
            raise UsageError(f"The floor of {self.floor_pct:g} % must be below the margin of {self.margin_pct:g} %.")
        if not (0 < self.false_alarms < 1 and 0 < self.tail_share < 1):
            raise UsageError("The probability of a false alarm, and the tail's share of it, must be between 0 and 1.")
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

    def alphas(self, comparisons: int = 1) -> tuple[float, float]:
        """Return the one-sided error probability of each question (typical, tail) in a suite of so many comparisons."""
        share = self.false_alarms / max(comparisons, 1) / 2
        return share * (1 - self.tail_share), share * self.tail_share


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
    """The outcome after some rounds, and the estimates of both questions.

    ``settled`` is true if more rounds are not needed; ``by`` names the questions that are slower or faster.
    """

    outcome: str
    settled: bool
    typical: Interval
    tail: Interval
    rounds: int
    by: tuple[str, ...] = ()
    reason: str = ""

    @property
    def fails(self) -> Interval:
        """The interval that ``--fail-above`` is compared with: the slower one of the questions that decided."""
        intervals = {"typical": self.typical, "tail": self.tail}
        deciding = [intervals[name] for name in self.by] or list(intervals.values())
        return max(deciding, key=lambda item: item.low)


def scales(rounds: Floats) -> Floats:
    """Return the payoff's scale for each round, from earlier rounds only: their robust standard deviation.

    Args:
        rounds: Log ratios, shape (..., n); the leading axes are replays.
    """
    result = np.full(rounds.shape, FIRST_SCALE)
    for index in range(LEARNED, rounds.shape[-1]):
        past = rounds[..., :index]
        deviation = np.abs(past - np.median(past, axis=-1, keepdims=True))
        result[..., index] = np.maximum(SMALLEST_SCALE, 1.4826 * np.median(deviation, axis=-1))
    return result


def log_wealth(rounds: Floats, m: float, scale: Floats | None = None) -> Floats:
    """Return, after each round, the log of the largest wealth so far of a bet against "the log ratio is at most m".

    Args:
        rounds: Log ratios, shape (..., n).
        m: The hypothesis; negate both rounds and m for "at least m".
        scale: `scales` of the rounds, if computed already.
    """
    scale = scales(rounds) if scale is None else scale
    payoff = np.clip((rounds - m) / scale, -1, 1)
    # The running maximum, because Ville's inequality holds for the wealth at any time.
    return np.maximum.accumulate(np.cumsum(np.log1p(STAKE * payoff), axis=-1), axis=-1)


def interval(rounds: Floats, alpha: float) -> Interval:
    """Return the confidence sequence's interval after these rounds (one replay), with error alpha on each side."""
    scale = scales(rounds)
    low = _lower_bound(rounds, scale, alpha)
    return Interval(float(np.median(rounds)), low, -_lower_bound(-rounds, scale, alpha))


def _lower_bound(rounds: Floats, scale: Floats, alpha: float) -> float:
    """Return the largest rejected hypothesis m, by bisection; minus infinity if none is rejected."""
    threshold = -math.log(alpha)

    def rejected(m: float) -> bool:
        return bool(log_wealth(rounds, m, scale)[-1] >= threshold)

    below, above = float(rounds.min() - 2 * scale.max()), float(rounds.max())
    if not rejected(below):
        return -math.inf
    for _ in range(60):
        middle = (below + above) / 2
        below, above = (middle, above) if rejected(middle) else (below, middle)
    return below


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
    rejections: list[dict[str, Bools]] = []
    medians: list[Floats] = []
    for rounds, alpha in zip((typical, tail), rules.alphas(comparisons), strict=True):
        scale, threshold = scales(rounds), -math.log(alpha)
        levels = {"floor": rules.floor, "fail": rules.fail_above, "margin": -rules.margin}
        above = {f"above {name}": log_wealth(rounds, m, scale) >= threshold for name, m in levels.items()}
        below = {f"below {name}": log_wealth(-rounds, m, scale) >= threshold for name, m in levels.items()}
        medians.append(np.abs(_running_median(rounds)))
        rejections.append({**above, **below})
    center, extreme = rejections
    slower = center["above floor"] | extreme["above floor"]
    faster = center["below floor"] | extreme["below floor"]
    inside = center["above margin"] & center["below margin"] & extreme["above margin"] & extreme["below margin"]
    code = np.full(typical.shape, INCONCLUSIVE)
    code[inside] = UNCHANGED
    code[slower & ~faster] = SLOWER
    code[faster & ~slower] = FASTER
    code[slower & faster] = INCONCLUSIVE
    # A slowdown between the floor and the margin may still be proved: go on while the median is there.
    calm = inside & (medians[0] <= rules.floor) & (medians[1] <= rules.margin / 2)
    past_fail = center["above fail"] | extreme["above fail"] | center["below fail"] | extreme["below fail"]
    settled = ((slower | faster) & past_fail) | (slower & faster) | (calm & ~slower & ~faster)
    return code, settled


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
    first, second = rules.alphas(comparisons)
    intervals = {"typical": interval(typical, first), "tail": interval(tail, second)}
    outcome = OUTCOMES[int(codes[-1])]
    slower = tuple(name for name, item in intervals.items() if item.outcome(rules) == "slower")
    faster = tuple(name for name, item in intervals.items() if item.outcome(rules) == "faster")
    reason = ""
    if slower and faster:
        reason = f"{slower[0]} latency is slower, {faster[0]} latency faster"
    elif outcome == "inconclusive":
        reason = _reason_open(intervals, rules, len(typical))
    by = {"slower": slower, "faster": faster}.get(outcome, ())
    return Decision(outcome, bool(settled[-1]), intervals["typical"], intervals["tail"], len(typical), by, reason)


def _reason_open(intervals: dict[str, Interval], rules: Rules, rounds: int) -> str:
    unbounded = [name for name, item in intervals.items() if math.isinf(item.low) or math.isinf(item.high)]
    if unbounded:
        return f"{rounds} round(s) are too few to bound the {' and the '.join(unbounded)} latency"
    wide = [name for name, item in intervals.items() if item.high >= rules.margin or item.low <= -rules.margin]
    return f"the interval of the {' and the '.join(wide)} latency extends beyond the margin"


def smallest_detectable(item: Interval, rules: Rules) -> float:
    """Return the smallest slowdown, as a log ratio, that an interval of this width proves to be above the floor."""
    return rules.floor + (item.estimate - item.low)
