"""Is B slower than A? A test over rounds that may stop whenever it likes, and is not moved by wild rounds.

Each round gives one log ratio B/A per question (typical latency, tail). Sides are loaded and run in random order, so
that a round's log ratio is symmetric about the true one, whatever the noise of the machine. Against every hypothesis
"the true log ratio is at most m" a gambler bets a share of his money on each round lying above m; the payoff is a
bounded, odd, increasing function of the distance, so that he cannot win on average where the hypothesis holds. By
Ville's inequality his wealth ever reaches 1/alpha with probability alpha at most; the m that he has not beaten form a
confidence sequence.

What this buys and costs: no assumption about the size of the noise, one wild round costs about three good ones, and no
verdict before some ten rounds: 2**-n is the chance that n fair coins agree.

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
"""The share of his wealth that the gambler bets: of 0.85 to 0.98 the surest at +5 % with wild rounds."""

FIRST_SCALE = 0.005
"""The payoff's scale while fewer than `LEARNED` rounds are known: two loads of one model differ by about 0.5 %."""

LEARNED = 3
SMALLEST_SCALE = 0.001

OUTCOMES = ("slower", "faster", "unchanged", "inconclusive")
SLOWER, FASTER, UNCHANGED, INCONCLUSIVE = range(4)


@dataclass(frozen=True)
class Rules:
    """What is called slower, and how sure a verdict has to be.

    Percentages are slowdowns: 5 means a ratio of 1.05, and of 1/1.05 on the other side, so that mirrored inputs give
    mirrored verdicts. ``false_alarms`` is the chance of any false *slower* or *faster* in a whole suite.
    """

    floor_pct: float = 1.0
    margin_pct: float = 5.0
    fail_above_pct: float | None = None
    false_alarms: float = 0.005
    tail_share: float = 0.3

    def __post_init__(self) -> None:
        if not 0 <= self.floor_pct < self.margin_pct:
            raise UsageError(f"A floor of {self.floor_pct:g} % and a margin of {self.margin_pct:g} % leave no room.")
        if not (0 < self.false_alarms < 1 and 0 < self.tail_share < 1):
            raise UsageError("The chance of a false alarm, and the tail's share of it, lie between 0 and 1.")
        if self.fail_above_pct is not None and self.fail_above_pct < self.floor_pct:
            raise UsageError(
                f"--fail-above {self.fail_above_pct:g} lies below the noise floor of {self.floor_pct:g} %.",
                hint="Nothing below the floor can be told from noise.",
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
        """The slowdown, as a log ratio, from which the exit code is 1."""
        return self.floor if self.fail_above_pct is None else math.log1p(self.fail_above_pct / 100)

    def alphas(self, comparisons: int = 1) -> tuple[float, float]:
        """Return the error budget of one side of each question (typical, tail) in a suite of so many comparisons."""
        each = self.false_alarms / max(comparisons, 1) / 2
        return each * (1 - self.tail_share), each * self.tail_share


@dataclass(frozen=True)
class Interval:
    """What is known of one question: log ratios, an interval that holds whenever one stops."""

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
    """The outcome after some rounds, and what is known of both questions.

    ``settled`` says that more rounds are not needed; ``by`` names the questions that decided a slower or faster.
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
        """The question that counts for ``--fail-above``: the slower one of those that decided."""
        found = {"typical": self.typical, "tail": self.tail}
        asked = [found[name] for name in self.by] or list(found.values())
        return max(asked, key=lambda item: item.low)


def scales(rounds: Floats) -> Floats:
    """Return the payoff's scale for each round, from the rounds before it alone: their robust standard deviation.

    Args:
        rounds: Log ratios, shape (..., n); replays lie along the leading axes.
    """
    found = np.full(rounds.shape, FIRST_SCALE)
    for index in range(LEARNED, rounds.shape[-1]):
        past = rounds[..., :index]
        deviation = np.abs(past - np.median(past, axis=-1, keepdims=True))
        found[..., index] = np.maximum(SMALLEST_SCALE, 1.4826 * np.median(deviation, axis=-1))
    return found


def log_wealth(rounds: Floats, m: float, scale: Floats | None = None) -> Floats:
    """Return the log of the most that a gambler against "the log ratio is at most m" has owned, after each round.

    Args:
        rounds: Log ratios, shape (..., n).
        m: The hypothesis; negate both rounds and m for "at least m".
        scale: `scales` of the rounds, where it is known already.
    """
    scale = scales(rounds) if scale is None else scale
    payoff = np.clip((rounds - m) / scale, -1, 1)
    # The most so far, for Ville's inequality is about ever reaching a level.
    return np.maximum.accumulate(np.cumsum(np.log1p(STAKE * payoff), axis=-1), axis=-1)


def interval(rounds: Floats, alpha: float) -> Interval:
    """Return the confidence sequence's interval after these rounds (one replay), error alpha on each side."""
    scale = scales(rounds)
    low = _edge(rounds, scale, alpha)
    return Interval(float(np.median(rounds)), low, -_edge(-rounds, scale, alpha))


def _edge(rounds: Floats, scale: Floats, alpha: float) -> float:
    """Return the largest m that the gambler has beaten, by bisection; minus infinity where he has beaten none."""
    need = -math.log(alpha)

    def beaten(m: float) -> bool:
        return bool(log_wealth(rounds, m, scale)[-1] >= need)

    below, above = float(rounds.min() - 2 * scale.max()), float(rounds.max())
    if not beaten(below):
        return -math.inf
    for _ in range(60):
        middle = (below + above) / 2
        below, above = (middle, above) if beaten(middle) else (below, middle)
    return below


def outcomes(typical: Floats, tail: Floats, rules: Rules, comparisons: int = 1) -> tuple[Floats, Bools]:
    """Return the outcome after each round, and whether it is settled then; the rule that live runs and replays share.

    Args:
        typical: Log ratios of the typical latency, shape (..., n).
        tail: Of the tail, same shape.
        rules: Floor, margin, error budget.
        comparisons: How many comparisons share the budget.

    Returns:
        Codes (indices into `OUTCOMES`), shape (..., n), and booleans.
    """
    beats: list[dict[str, Bools]] = []
    middles: list[Floats] = []
    for rounds, alpha in zip((typical, tail), rules.alphas(comparisons), strict=True):
        scale, need = scales(rounds), -math.log(alpha)
        levels = {"floor": rules.floor, "fail": rules.fail_above, "margin": -rules.margin}
        up = {f"above {name}": log_wealth(rounds, m, scale) >= need for name, m in levels.items()}
        down = {f"below {name}": log_wealth(-rounds, m, scale) >= need for name, m in levels.items()}
        middles.append(np.abs(_running_median(rounds)))
        beats.append({**up, **down})
    one, two = beats
    slower = one["above floor"] | two["above floor"]
    faster = one["below floor"] | two["below floor"]
    inside = one["above margin"] & one["below margin"] & two["above margin"] & two["below margin"]
    code = np.full(typical.shape, INCONCLUSIVE)
    code[inside] = UNCHANGED
    code[slower & ~faster] = SLOWER
    code[faster & ~slower] = FASTER
    code[slower & faster] = INCONCLUSIVE
    # Between the floor and the margin a slowdown may still show itself: go on while the middle points there.
    calm = inside & (middles[0] <= rules.floor) & (middles[1] <= rules.margin / 2)
    past_fail = one["above fail"] | two["above fail"] | one["below fail"] | two["below fail"]
    settled = ((slower | faster) & past_fail) | (slower & faster) | (calm & ~slower & ~faster)
    return code, settled


def _running_median(rounds: Floats) -> Floats:
    return np.stack([np.median(rounds[..., : n + 1], axis=-1) for n in range(rounds.shape[-1])], axis=-1)


def judge(typical: Floats, tail: Floats, rules: Rules, comparisons: int = 1) -> Decision:
    """Return what the rounds so far say.

    Args:
        typical: Log ratios B/A of the typical latency, one per round.
        tail: Of the tail, one per round.
        rules: Floor, margin, error budget.
        comparisons: How many comparisons share the budget.

    Raises:
        UsageError: There is no round, or a ratio is not finite.
    """
    typical, tail = np.asarray(typical, float), np.asarray(tail, float)
    if not len(typical) or len(typical) != len(tail) or not np.isfinite([*typical, *tail]).all():
        raise UsageError("A verdict needs one finite log ratio of each question for every round, and one round.")
    codes, settled = outcomes(typical, tail, rules, comparisons)
    first, second = rules.alphas(comparisons)
    found = {"typical": interval(typical, first), "tail": interval(tail, second)}
    outcome = OUTCOMES[int(codes[-1])]
    slower = tuple(name for name, item in found.items() if item.outcome(rules) == "slower")
    faster = tuple(name for name, item in found.items() if item.outcome(rules) == "faster")
    reason = ""
    if slower and faster:
        reason = f"{slower[0]} latency is slower, {faster[0]} latency faster"
    elif outcome == "inconclusive":
        reason = _why_open(found, rules, len(typical))
    by = {"slower": slower, "faster": faster}.get(outcome, ())
    return Decision(outcome, bool(settled[-1]), found["typical"], found["tail"], len(typical), by, reason)


def _why_open(found: dict[str, Interval], rules: Rules, rounds: int) -> str:
    unbounded = [name for name, item in found.items() if math.isinf(item.low) or math.isinf(item.high)]
    if unbounded:
        return f"{rounds} round(s) are too few to bound the {' and the '.join(unbounded)} latency"
    wide = [name for name, item in found.items() if item.high >= rules.margin or item.low <= -rules.margin]
    return f"the interval of the {' and the '.join(wide)} latency reaches beyond the margin"


def smallest_detectable(item: Interval, rules: Rules) -> float:
    """Return the smallest slowdown, as a log ratio, whose interval of this width would have lain above the floor."""
    return rules.floor + (item.estimate - item.low)
