"""Kinds of tests: what each has to be measured, and how the figures decide.

A verdict needs a whole interval on one side. Whatever lies across a bound is open, and says so.
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
from effbench.api.claims.scaling import RANGE, series, sizes
from effbench.models.parts import parts
from effbench.reports.claims import FAILS, HOLDS, UNTESTED, Judgement
from effbench.reports.growth import Series, ratio
from effbench.reports.scaling import exponent

LINEAR = (0.9, 1.1)
"""A latency whose exponent lies within this is called linear."""

MORE = "more passes, on a machine that does nothing else: run `effbench claims` again"


class Test(Protocol):
    """How a claim is tested."""

    @property
    def method(self) -> str:
        """The test in a sentence."""

    def ask(self, campaign: Campaign, targets: Sequence[str]) -> None:
        """Say what has to be measured."""

    def judge(self, campaign: Campaign, targets: Sequence[str]) -> Judgement:
        """Decide on what was measured."""


def decide(low: float, high: float, inside: tuple[float, float]) -> str:
    """Return a verdict on whether something lies within bounds, from its interval."""
    if inside[0] <= low and high <= inside[1]:
        return HOLDS
    return FAILS if high < inside[0] or low > inside[1] else UNTESTED


def together(verdicts: Sequence[str]) -> str:
    """Return FAILS where any part does, HOLDS where all do."""
    if FAILS in verdicts:
        return FAILS
    return HOLDS if verdicts and set(verdicts) == {HOLDS} else UNTESTED


@dataclass(frozen=True)
class Grows:
    """Latency and MACs of a part over resolution: linear, or quadratic as softmax attention is."""

    what: str
    quadratic: bool = False
    resolutions: str = RANGE

    @property
    def method(self) -> str:
        """The test in a sentence."""
        counted = "a N + b N^2 with b > 0, exactly" if self.quadratic else "in the very ratio of the pixels"
        bound = "above 1.5" if self.quadratic else f"within {LINEAR[0]} and {LINEAR[1]}"
        part = parts()[self.what]
        return (
            f"`{self.what}` alone, {part.channels} channels, map of 1/{part.stride} of the side, "
            f"{self.resolutions} px: MACs are {counted}; the exponent of a + b N^p, fitted to latency, lies {bound}"
        )

    def ask(self, campaign: Campaign, targets: Sequence[str]) -> None:
        """Ask for every size."""
        for px in sizes(self.resolutions):
            campaign.measured(self.what, px, targets[0])

    def judge(self, campaign: Campaign, targets: Sequence[str]) -> Judgement:
        """Decide on MACs and on the interval of the exponent."""
        found = series(campaign, self.what, sizes(self.resolutions), targets[0])
        law = found.growth("latency")
        if law is None or law.interval is None:
            return unmeasured(found)
        counted = exactly_quadratic(found) if self.quadratic else found.exactly_linear
        inside = (1.5, math.inf) if self.quadratic else LINEAR
        timed = decide(*law.interval, inside)
        result = (
            f"MACs {'as said' if counted else 'not as said'}; latency exponent {exponent(law)} on {targets[0]} "
            f"({law.passes} passes, misfit {100 * law.law.misfit:.0f} %, trust {found.trust})"
        )
        verdict = timed if counted else FAILS
        return Judgement(verdict, result, MORE if verdict == UNTESTED else "")


def exactly_quadratic(found: Series) -> bool:
    """Say whether MACs are ``a N + b N**2`` with b > 0 at every size, in whole numbers."""
    n, macs = found.pixels, found.macs
    # Second differences of MACs / N over N are zero, and the first are above.
    slopes = [(macs[i + 1] * n[i] - macs[i] * n[i + 1], (n[i + 1] - n[i]) * n[i] * n[i + 1]) for i in range(len(n) - 1)]
    return all(a * d == c * b for (a, b), (c, d) in pairwise(slopes)) and slopes[0][0] > 0


def unmeasured(found: Series) -> Judgement:
    """Say what is missing of a series."""
    reasons = "; ".join(f"{px} px: {why}" for px, why in sorted(found.failures.items()))
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
        sides = ", ".join(map(str, self.at))
        return f"`{self.b}` over `{self.a}` at {sides} px, alternating in one process: latency ratio {bound}"

    def ask(self, campaign: Campaign, targets: Sequence[str]) -> None:
        """Ask for the pairs, where both sides are known."""
        if not unknown(self.a, self.b):
            for pair in self._pairs(campaign, targets):
                assert pair is not None

    def _pairs(self, campaign: Campaign, targets: Sequence[str]) -> list[PointPair]:
        return [campaign.pair(self.a, self.b, px, target) for target in targets for px in self.at]

    def judge(self, campaign: Campaign, targets: Sequence[str]) -> Judgement:
        """Decide on every size and target together."""
        if names := unknown(self.a, self.b):
            return Judgement(UNTESTED, "", f"a model or part named {', '.join(names)}")
        verdicts, texts = [], []
        for pair in self._pairs(campaign, targets):
            where = f"{pair.a.target} {pair.a.px} px"
            if pair.failure or not pair.logs:
                verdicts.append(UNTESTED)
                texts.append(f"{where}: {pair.failure or 'not measured yet'}")
                continue
            middle, span = ratio(pair.logs)
            verdicts.append(UNTESTED if span is None else decide(*span, (0, 1 + self.margin)))
            texts.append(f"{where}: {spanned(middle, span)}")
        verdict = together(verdicts)
        return Judgement(verdict, "; ".join(texts), MORE if verdict == UNTESTED else "")


def spanned(middle: float, span: tuple[float, float] | None) -> str:
    """Return ``0.88 [0.87, 0.89]``."""
    return f"{middle:.3f}" + ("" if span is None else f" [{span[0]:.3f}, {span[1]:.3f}]")


def unknown(*names: str) -> list[str]:
    """Return the names that are neither a part nor a model."""
    known = {**parts(), **models.models()}
    return [name for name in names if name not in known]


@dataclass(frozen=True)
class LessMemory:
    """From the smallest size to the largest, B's process grows by less memory than A's."""

    a: str
    b: str
    resolutions: str = RANGE

    @property
    def method(self) -> str:
        """The test in a sentence."""
        low, high = sizes(self.resolutions)[0], sizes(self.resolutions)[-1]
        return (
            f"`{self.b}` and `{self.a}` alone: rise of the process's peak memory from {low} to {high} px, B over A; "
            "what the runtime itself takes drops out"
        )

    def ask(self, campaign: Campaign, targets: Sequence[str]) -> None:
        """Ask for both ends."""
        for what in (self.a, self.b):
            for px in self._ends():
                campaign.measured(what, px, targets[0])

    def _ends(self) -> list[int]:
        found = sizes(self.resolutions)
        return [found[0], found[-1]]

    def judge(self, campaign: Campaign, targets: Sequence[str]) -> Judgement:
        """Decide on the ratio of the two rises."""
        rises = []
        for what in (self.a, self.b):
            found = series(campaign, what, self._ends(), targets[0])
            if len(found.px) < 2 or not found.memory_bytes:
                return unmeasured(found)
            rises.append([high - low for low, high in found.memory_bytes])
        pairs = list(zip(*rises, strict=False))
        if any(min(pair) <= 0 for pair in pairs):
            return Judgement(UNTESTED, "memory did not rise", "larger images")
        middle, span = ratio([math.log(b / a) for a, b in pairs])
        verdict = UNTESTED if span is None else decide(*span, (0, 1))
        mib = [float(np.median(one)) / 2**20 for one in rises]
        result = f"{self.b} {mib[1]:.0f} MiB, {self.a} {mib[0]:.0f} MiB on {targets[0]}; ratio {spanned(middle, span)}"
        return Judgement(verdict, result, MORE if verdict == UNTESTED else "")


@dataclass(frozen=True)
class Counted:
    """A figure that is counted from the code of a registered model, against a printed one."""

    model: str
    text: str
    count: Callable[[dict[str, int]], float]
    published: float
    unit: str = ""

    @property
    def method(self) -> str:
        """The test in a sentence."""
        return f"{self.text} of `{self.model}`, counted from the code: within 1 % of what is printed, or equal rounded"

    def ask(self, campaign: Campaign, targets: Sequence[str]) -> None:
        """Ask for nothing."""

    def judge(self, campaign: Campaign, targets: Sequence[str]) -> Judgement:
        """Decide on the count, which has no interval."""
        found = models.models().get(self.model)
        if found is None:
            return Judgement(UNTESTED, "", f"a model named {self.model}")
        value = self.count(found.counts)
        decimals = len(f"{self.published:g}".partition(".")[2])
        same = abs(value / self.published - 1) <= 0.01 or round(value, decimals) == self.published
        result = f"counted {value:.{decimals + 1}f}{self.unit}, printed {self.published:g}{self.unit}"
        return Judgement(HOLDS if same else FAILS, result)


@dataclass(frozen=True)
class Elsewhere:
    """A claim that this machine cannot test, with what a test would need."""

    needs: str

    @property
    def method(self) -> str:
        """No test."""
        return ""

    def ask(self, campaign: Campaign, targets: Sequence[str]) -> None:
        """Ask for nothing."""

    def judge(self, campaign: Campaign, targets: Sequence[str]) -> Judgement:
        """Say what it would need."""
        return Judgement(UNTESTED, "", self.needs)
