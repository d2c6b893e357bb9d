"""Search for the operators that half precision breaks: the fewest whose computing in float32 holds an error bound.

A culprit is found where it acts: an operator whose result is broken, or far worse than what it was given. It becomes
an island. If it stays bad although it computes in float32, what it was given had already lost the digits that matter,
so its producers join. When no culprit is left, every island that is not needed is given back.

Where rounding is spread over the network no operator is to blame. Then those join that disturb the outputs most
(`quieten`), as many as the limits of `fidelity` themselves ask for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from onnx import ModelProto
from torch import Tensor

from effbench.deploy import Array
from effbench.deploy.artifact import fidelity
from effbench.deploy.interpreter import Interpreter
from effbench.deploy.precision.noise import rounding

MODES = ("half-acc32", "half-acc16")
SLACK = {"half-acc32": 1.0, "half-acc16": 2.5}
"""How much of the fp16 limits of `fidelity` a mode may use up. How a device orders a sum in half precision is not
known; the simulated order is a pessimistic one."""

ROUNDOFF = 2.0**-11
SUSPECT = ((12.0, 0.01), (4.0, 0.004))
"""How many times worse than its inputs a result must be, and its relative error, to count as a culprit; the second
pair is tried where the first does not hold the bound. Networks without defects stay below a factor of 8."""
LARGEST_SHARE = 0.1
"""The search gives up beyond this share of all operators: then no operator is to blame, or nearly all."""

SHARES = (0.03, 0.06, 0.12, 0.25, 0.4)
"""Of all operators, how many `quieten` lets join, until the limits hold; with more, little is in half precision."""
MARGIN = 0.8
"""Of the limits, for what a runtime does otherwise than the simulation: of MobileViTv2 it showed 0.017, and Core ML's
evaluator 0.022."""

SAMPLE = 4096
"""Elements of a tensor that its median is taken from."""

Islands = frozenset[str]


@dataclass(frozen=True)
class Local:
    """How one operator fared against float64, at its worst over the images; errors are relative, of the whole tensor.

    ``error`` is infinite where the result is not finite but should be.
    """

    index: int
    error: float
    input_error: float

    @property
    def factor(self) -> float:
        """How many times worse the result is than what it was made from (or than one rounding)."""
        return self.error / max(self.input_error, ROUNDOFF) if math.isfinite(self.input_error) else 1.0


@dataclass
class Experiment:
    """A graph, its images, its exact outputs, and what was tried; ``kept`` are islands in any case."""

    model: ModelProto
    feeds: Sequence[Mapping[str, Array]]
    natural: int = fidelity.NATURAL
    kept: Islands = frozenset()
    runs: int = 0
    _errors: dict[tuple[str, Islands], float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.interpreter = Interpreter(self.model)
        self.steps = self.interpreter.steps
        self.exact = self._outputs("float64", frozenset())
        self.producers = {name: i for i, step in enumerate(self.steps) for name in step.outputs if name}
        self.readers: dict[int, list[int]] = {i: [] for i in range(len(self.steps))}
        for i, step in enumerate(self.steps):
            for name in {n for n in step.inputs if n in self.producers}:
                self.readers[self.producers[name]].append(i)

    def _outputs(self, mode: str, islands: Islands) -> dict[str, Array]:
        self.runs += len(self.feeds)
        return fidelity.run_all(lambda feed: self.interpreter.run(feed, mode, islands | self.kept), self.feeds)

    def error(self, mode: str, islands: Islands) -> float:
        """Return the outputs' error as a multiple of what is allowed in a mode; at most 1 holds the bound."""
        if (mode, islands) not in self._errors:
            found = self._outputs(mode, islands)
            limits = fidelity.LIMITS["fp16"]
            worst = math.inf
            if all(_finite(value) for value in found.values()):
                figures = fidelity.compare(self.exact, found, self.natural)
                # 1 - cosine grows with the square of an error.
                turned = math.sqrt(max(1 - figures["cosine"], 0) / (1 - limits["cosine"]))
                worst = max(figures["p99_error"] / limits["p99_error"], turned) / SLACK[mode]
            self._errors[mode, islands] = worst
        return self._errors[mode, islands]

    def broken(self) -> list[int]:
        """Return the images, batches of one, whose outputs are not finite in one of the modes."""
        runs = [self._outputs(mode, frozenset()) for mode in MODES]
        outputs = [value for found in runs for value in found.values()]
        return [i for i in range(len(self.feeds)) if not all(_finite(value[i]) for value in outputs)]

    def holds(self, islands: Islands) -> bool:
        """Tell whether the limits themselves hold in both modes, without slack and with a margin."""
        return all(self.error(mode, islands) * SLACK[mode] <= MARGIN for mode in reversed(MODES))

    def worst(self, islands: Islands) -> float:
        """Return the larger error of the two modes."""
        return max(self.error(mode, islands) for mode in MODES)

    def locals(self, mode: str, islands: Islands, images: int | None = None) -> list[Local]:
        """Follow the half run beside the exact one over the first images and compare every operator's result."""
        errors = [0.0] * len(self.steps)
        given = [0.0] * len(self.steps)
        feeds = self.feeds[:images]
        self.runs += 2 * len(feeds)
        for feed in feeds:
            known: dict[str, float] = {}
            runs = (self.interpreter.trace(feed, *how) for how in (("float64",), (mode, islands | self.kept)))
            for i, (exact, half) in enumerate(zip(*runs, strict=True)):
                for name, want, have in zip(exact.step.outputs, exact.outputs, half.outputs, strict=False):
                    known[name] = relative_error(want, have)
                worst = known[exact.step.outputs[0]]
                before = max((known.get(name, 0.0) for name in exact.step.inputs), default=0.0)
                if worst >= errors[i]:
                    errors[i], given[i] = worst, before
        return [Local(i, error, before) for i, (error, before) in enumerate(zip(errors, given, strict=True))]

    def name(self, index: int) -> str:
        """Return the name of a step as islands have it."""
        return self.steps[index].outputs[0]


def relative_error(want: Tensor, have: Tensor) -> float:
    """Return |have - want| / |want|: of the whole tensor (Euclidean) or of its median element, whichever is larger.

    A few outliers would hide the rest from the norm, and zeros of a ReLU from the median. Infinite where a finite value
    became NaN or infinite.
    """
    if not want.is_floating_point() or not want.numel():
        return 0.0
    have, finite = have.double(), torch.isfinite(want)
    if not bool(torch.isfinite(have)[finite].all()):
        return math.inf
    want = want.double()
    if not bool(finite.all()):
        want, have = want[finite], have[finite]
    size = float(want.norm())
    error = (have - want).abs()
    whole = float(error.norm()) / size if size else 0.0
    stride = max(1, want.numel() // SAMPLE)
    typical = float(want.flatten()[::stride].abs().median())
    return max(whole, float(error.flatten()[::stride].median()) / typical if typical else 0.0)


def _finite(value: Array) -> bool:
    return bool(np.isfinite(value).all())


def find(experiment: Experiment) -> Islands:
    """Return the smallest set found that holds the bound in both modes, or that helps at least by half.

    Empty where the graph needs none, and where no operator is to blame (rounding is spread over the whole network).
    """
    start = experiment.worst(frozenset())
    if start <= 1:
        return frozenset()
    islands: Islands = frozenset()
    for factor, visible in SUSPECT:
        for mode in MODES:
            islands = _grow(experiment, mode, islands, factor, visible)
        if experiment.worst(islands) <= 1:
            break
    reached = experiment.worst(islands)
    if reached > max(1.0, start / 2):
        return frozenset()
    return _shrink(experiment, islands, max(1.0, 1.25 * reached))


def quieten(experiment: Experiment, islands: Islands) -> Islands:
    """Return islands and the operators whose rounding disturbs the outputs most, until both modes hold the limits.

    Where storing a result is the larger part, its readers join as well: between islands tensors stay in fp32. The
    given islands are returned where they hold the limits, and where the largest of `SHARES` does not suffice.
    """
    if experiment.holds(islands):
        return islands
    powers = rounding(experiment.interpreter, experiment.feeds, MODES[-1])
    joining: list[str] = []
    for name in sorted(powers, key=lambda name: sum(powers[name]), reverse=True):
        computing, storing = powers[name]
        readers = experiment.readers[experiment.producers[name]] if storing > computing else []
        joining += [name, *(experiment.name(reader) for reader in readers)]
    order = [name for name in dict.fromkeys(joining) if name not in islands]
    for share in SHARES:
        joined = islands | set(order[: math.ceil(share * len(experiment.steps))])
        if experiment.holds(joined):
            return joined
    return islands


def _grow(experiment: Experiment, mode: str, islands: Islands, factor: float, visible: float) -> Islands:
    limit = max(8, int(LARGEST_SHARE * len(experiment.steps)))
    while experiment.error(mode, islands) > 1 and len(islands) <= limit:
        added: Islands = frozenset()
        for images in (1, None):  # what one image shows need not be asked of all
            added = added or _next(experiment, experiment.locals(mode, islands, images), islands, factor, visible)
        if not added:
            break
        islands |= added
    return islands


def _next(experiment: Experiment, found: list[Local], islands: Islands, factor: float, visible: float) -> Islands:
    """Return what the first culprit calls for: itself, or, where it is an island already, its producers.

    One whose result is not finite goes first: while it is there, nothing else can hold the bound.
    """
    harmful, islands = _harmful(experiment, found, visible), islands | experiment.kept
    for local in sorted(found, key=lambda local: math.isfinite(local.error)):
        if local.index not in harmful or local.factor < factor or local.error < visible:
            continue
        if experiment.name(local.index) not in islands:
            return frozenset({experiment.name(local.index)})
        suppliers = _suppliers(experiment, local.index, islands)
        if suppliers:
            return suppliers
    return frozenset()


def _suppliers(experiment: Experiment, index: int, islands: Islands) -> Islands:
    """Return the nearest producers of a step that are no islands yet, looking back through those that are."""
    found: set[str] = set()
    waiting, seen = [index], {index}
    while waiting:
        step = experiment.steps[waiting.pop()]
        for i in {experiment.producers[name] for name in step.inputs if name in experiment.producers} - seen:
            seen.add(i)
            if experiment.name(i) in islands:
                waiting.append(i)
            else:
                found.add(experiment.name(i))
    return frozenset(found)


def _harmful(experiment: Experiment, found: list[Local], visible: float) -> set[int]:
    """Return the steps whose visible error reaches an output through visible errors; others are forgiven later on."""
    outputs = set(experiment.interpreter.outputs)
    harmful: set[int] = set()
    for i in reversed(range(len(found))):
        if found[i].error < visible:
            continue
        ends = any(name in outputs for name in experiment.steps[i].outputs)
        if ends or any(reader in harmful for reader in experiment.readers[i]):
            harmful.add(i)
    return harmful


def _shrink(experiment: Experiment, islands: Islands, bound: float) -> Islands:
    """Give back what is not needed: halves while that works, then one by one, the last in the graph first."""
    order = [experiment.name(i) for i in range(len(experiment.steps)) if experiment.name(i) in islands]
    size = max(1, len(order) // 2)
    while size:
        for start in reversed(range(0, len(order), size)):
            kept = order[:start] + order[start + size :]
            if all(experiment.error(mode, frozenset(kept)) <= bound for mode in reversed(MODES)):
                order = kept
        size //= 2
    return frozenset(order)
