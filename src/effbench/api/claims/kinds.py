"""Kinds of tests: the measurements that each needs, and how they decide.

A verdict needs the whole interval on one side of a bound; an interval across the bound leaves the claim open.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np

from effbench import models
from effbench.api.claims.campaign import Campaign, PointPair
from effbench.api.claims.request import RANGE
from effbench.api.claims.scaling import series, sizes
from effbench.models.parts import parts
from effbench.reports.claims import FAILS, HOLDS, UNTESTED, Judgement
from effbench.reports.growth import Series, ratio
from effbench.reports.scaling import exponent

LINEAR = (0.9, 1.1)
"""A latency is called linear if its exponent lies within these."""

LARGEST_MISFIT = 0.15
"""A law that misses one of its points by more is not the law of these latencies; its exponent decides nothing."""

MORE = "more passes on an idle machine: run `effbench claims` again"


class Test(Protocol):
    """The test of a claim."""

    @property
    def method(self) -> str:
        """The test in a sentence."""

    def plan(self, campaign: Campaign, targets: Sequence[str]) -> None:
        """Add what has to be measured to a campaign."""

    def judge(self, campaign: Campaign, targets: Sequence[str]) -> Judgement:
        """Return the verdict on the measurements."""


def decide(low: float, high: float, inside: tuple[float, float]) -> str:
    """Return the verdict on whether a quantity lies within bounds, from its interval."""
    if inside[0] <= low and high <= inside[1]:
        return HOLDS
    return FAILS if high < inside[0] or low > inside[1] else UNTESTED


def combined(verdicts: Sequence[str]) -> str:
    """Return FAILS if any verdict is FAILS, HOLDS if all are HOLDS."""
    if FAILS in verdicts:
        return FAILS
    return HOLDS if verdicts and set(verdicts) == {HOLDS} else UNTESTED


@dataclass(frozen=True)
class Grows:
    """Latency and MACs of a part over resolution: linear, or quadratic as softmax attention is."""

    part: str
    quadratic: bool = False
    resolutions: str = RANGE

    @property
    def method(self) -> str:
        """The test in a sentence."""
        counted = "a N + b N^2 with b > 0, exactly" if self.quadratic else "exactly proportional to the pixels"
        bound = "above 1.5" if self.quadratic else f"within {LINEAR[0]} and {LINEAR[1]}"
        part = parts()[self.part]
        return (
            f"`{self.part}` alone, {part.channels} channels, a map of 1/{part.stride} of the image's side, "
            f"{self.resolutions} px: MACs are {counted}; the exponent of a + b N^p, fitted to latency, lies {bound}"
        )

    def plan(self, campaign: Campaign, targets: Sequence[str]) -> None:
        """Add every size."""
        for px in sizes(self.resolutions):
            campaign.add(self.part, px, targets[0])

    def judge(self, campaign: Campaign, targets: Sequence[str]) -> Judgement:
        """Return the verdict on MACs and on the interval of the exponent."""
        measured = series(campaign, self.part, sizes(self.resolutions), targets[0])
        law = measured.growth("latency")
        if law is None or law.interval is None:
            return unmeasured(measured)
        counted = exactly_quadratic(measured) if self.quadratic else measured.exactly_linear
        inside = (1.5, math.inf) if self.quadratic else LINEAR
        timed = decide(*law.interval, inside)
        result = (
            f"MACs {'as claimed' if counted else 'not as claimed'}; latency exponent {exponent(law)} on {targets[0]} "
            f"({law.passes} passes, misfit {100 * law.law.misfit:.0f} %, trust {measured.trust})"
        )
        verdict = timed if counted else FAILS
        if counted and (weak := weakness(law.law.misfit, measured.trust)):
            return Judgement(UNTESTED, f"{result}: no verdict, {weak}", MORE)
        return Judgement(verdict, result, MORE if verdict == UNTESTED else "")


def exactly_quadratic(item: Series) -> bool:
    """Return whether MACs are ``a N + b N**2`` with b > 0 at every size, in whole numbers."""
    n, macs = item.pixels, item.macs
    # Second differences of MACs / N over N are zero, and the first are above.
    slopes = [(macs[i + 1] * n[i] - macs[i] * n[i + 1], (n[i + 1] - n[i]) * n[i] * n[i + 1]) for i in range(len(n) - 1)]
    return all(a * d == c * b for (a, b), (c, d) in pairwise(slopes)) and slopes[0][0] > 0


def weakness(misfit: float, trust: str) -> str:
    """Return why a fitted law decides nothing: it misses its own points, or they are no trusted latencies."""
    if misfit > LARGEST_MISFIT:
        return f"the law misses a point by {100 * misfit:.0f} %"
    return f"the evidence has grade {trust}" if trust in ("C", "D") else ""


def unmeasured(item: Series) -> Judgement:
    """Return the judgement on a series that lacks measurements."""
    reasons = "; ".join(f"{px} px: {reason}" for px, reason in sorted(item.failures.items()))
    return Judgement(UNTESTED, reasons, MORE)


@dataclass(frozen=True)
class Faster:
    """B over A, inferences alternating in one process: B takes at most ``1 + margin`` of A's time at every size."""

    a: str
    b: str
    at: tuple[int, ...]
    margin: float = 0.0

    @property
    def method(self) -> str:
        """The test in a sentence."""
        bound = f"at most {1 + self.margin:g}" if self.margin else "below 1"
        px = ", ".join(map(str, self.at))
        return f"`{self.b}` over `{self.a}` at {px} px, alternating in one process: latency ratio {bound}"

    def plan(self, campaign: Campaign, targets: Sequence[str]) -> None:
        """Add the pairs if both names are known."""
        if not unknown_names(self.a, self.b):
            self._pairs(campaign, targets)

    def _pairs(self, campaign: Campaign, targets: Sequence[str]) -> list[PointPair]:
        return [campaign.pair(self.a, self.b, px, target) for target in targets for px in self.at]

    def judge(self, campaign: Campaign, targets: Sequence[str]) -> Judgement:
        """Return the verdict on all sizes and targets together."""
        if names := unknown_names(self.a, self.b):
            return Judgement(UNTESTED, "", f"a model or part named {', '.join(names)}")
        verdicts, texts = [], []
        for pair in self._pairs(campaign, targets):
            place = f"{pair.a.target} {pair.a.px} px"
            if pair.failure or not pair.logs:
                verdicts.append(UNTESTED)
                texts.append(f"{place}: {pair.failure or 'not measured yet'}")
                continue
            middle, span = ratio(pair.logs)
            verdicts.append(UNTESTED if span is None else decide(*span, (0, 1 + self.margin)))
            texts.append(f"{place}: {with_interval(middle, span)}")
        verdict = combined(verdicts)
        return Judgement(verdict, "; ".join(texts), MORE if verdict == UNTESTED else "")


def with_interval(middle: float, span: tuple[float, float] | None) -> str:
    """Return ``0.88 [0.87, 0.89]``."""
    return f"{middle:.3f}" + ("" if span is None else f" [{span[0]:.3f}, {span[1]:.3f}]")


def unknown_names(*names: str) -> list[str]:
    """Return the names that are neither a part nor a model."""
    valid = {**parts(), **models.models()}
    return [name for name in names if name not in valid]


@dataclass(frozen=True)
class LessMemory:
    """From the smallest size to the largest, the memory of B's process grows by less than that of A's."""

    a: str
    b: str
    resolutions: str = RANGE

    @property
    def method(self) -> str:
        """The test in a sentence."""
        low, high = sizes(self.resolutions)[0], sizes(self.resolutions)[-1]
        return (
            f"`{self.b}` and `{self.a}` alone: rise of the process's peak memory from {low} to {high} px, B over A; "
            "the memory of the runtime itself cancels out"
        )

    def plan(self, campaign: Campaign, targets: Sequence[str]) -> None:
        """Add both ends of the range."""
        for part in (self.a, self.b):
            for px in self._ends():
                campaign.add(part, px, targets[0])

    def _ends(self) -> list[int]:
        px = sizes(self.resolutions)
        return [px[0], px[-1]]

    def judge(self, campaign: Campaign, targets: Sequence[str]) -> Judgement:
        """Return the verdict on the ratio of the two rises."""
        rises = []
        for part in (self.a, self.b):
            measured = series(campaign, part, self._ends(), targets[0])
            if len(measured.px) < 2 or not measured.memory_bytes:
                return unmeasured(measured)
            rises.append([high - low for low, high in measured.memory_bytes])
        pairs = list(zip(*rises, strict=False))
        if any(min(pair) <= 0 for pair in pairs):
            return Judgement(UNTESTED, "memory did not rise", "larger images")
        middle, span = ratio([math.log(b / a) for a, b in pairs])
        verdict = UNTESTED if span is None else decide(*span, (0, 1))
        mib = [float(np.median(rise)) / 2**20 for rise in rises]
        result = (
            f"{self.b} {mib[1]:.0f} MiB, {self.a} {mib[0]:.0f} MiB on {targets[0]}; ratio {with_interval(middle, span)}"
        )
        return Judgement(verdict, result, MORE if verdict == UNTESTED else "")


@dataclass(frozen=True)
class Counted:
    """A figure that is counted from the code of a registered model, against the published one."""

    model: str
    quantity: str
    count: Callable[[dict[str, int]], float]
    published: float
    unit: str = ""

    @property
    def method(self) -> str:
        """The test in a sentence."""
        quantity = f"{self.quantity} of `{self.model}`, counted from the code"
        return f"{quantity}: within 1 % of the published figure, or equal when rounded"

    def plan(self, campaign: Campaign, targets: Sequence[str]) -> None:
        """Add nothing."""

    def judge(self, campaign: Campaign, targets: Sequence[str]) -> Judgement:
        """Return the verdict on the count, which has no interval."""
        backbone = models.models().get(self.model)
        if backbone is None:
            return Judgement(UNTESTED, "", f"a model named {self.model}")
        value = self.count(backbone.counts)
        decimals = len(f"{self.published:g}".partition(".")[2])
        same = abs(value / self.published - 1) <= 0.01 or round(value, decimals) == self.published
        result = f"counted {value:.{decimals + 1}f}{self.unit}, published {self.published:g}{self.unit}"
        return Judgement(HOLDS if same else FAILS, result)


@dataclass(frozen=True)
class Untestable:
    """A claim that this machine cannot test, with what a test needs."""

    needs: str

    @property
    def method(self) -> str:
        """No test."""
        return ""

    def plan(self, campaign: Campaign, targets: Sequence[str]) -> None:
        """Add nothing."""

    def judge(self, campaign: Campaign, targets: Sequence[str]) -> Judgement:
        """Return what a test needs."""
        return Judgement(UNTESTED, "", self.needs)
