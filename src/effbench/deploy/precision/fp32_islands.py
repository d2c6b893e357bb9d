"""Which operators of an fp16 graph compute in float32: islands, as few as hold an error bound.

A culprit is an operator whose result is broken, or far worse than its inputs. It becomes an island. If it stays bad
although it computes in float32, its inputs had already lost the digits that matter, so its producers join. When no
culprit is left, every island that is not needed is removed (`find_culprits`).

If rounding is spread over the network, no single operator is a culprit. Then operators are ordered by the noise of
their rounding at the outputs, and the shortest prefix that holds the limits of `fidelity` joins (`add_noisiest`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from onnx import ModelProto
from torch import Tensor

from effbench.deploy import Array
from effbench.deploy.artifact import fidelity
from effbench.deploy.artifact.judge import compare
from effbench.deploy.artifact.limits import LIMITS
from effbench.deploy.interpreter import Interpreter
from effbench.deploy.interpreter.session import HALF_SUMS_SLACK
from effbench.deploy.precision.float_nodes import shortest_prefix
from effbench.deploy.precision.noise import rounding_noise

MODES = ("half-acc32", "half-acc16")
SLACK = {"half-acc32": 1.0, "half-acc16": HALF_SUMS_SLACK}
"""How many times the fp16 limits of `fidelity` an error may be in a mode. The order in which a device adds up in half
precision is unknown; the simulated order is a pessimistic one."""

ROUNDOFF = 2.0**-11
SUSPECT = ((12.0, 0.01), (4.0, 0.004))
"""How many times worse than its inputs a culprit's result is, and its relative error; the second pair is used if the
first does not hold the bound. Networks without defects stay below a factor of 8."""
LARGEST_SHARE = 0.1
"""Of all operators; the search for culprits stops beyond it: then no operator is to blame, or nearly all."""

SHARES = (0.03, 0.06, 0.12, 0.25, 0.4)
"""Of all operators: the lengths of the prefixes in `add_noisiest`; beyond the last, little is in half precision."""
MARGIN = 0.8
"""Of the limits, for runtimes that differ from the simulation: for MobileViTv2 it showed 0.017, Core ML's evaluator
0.022."""

SAMPLE = 4096
"""Elements of a tensor that its median is taken from."""

Islands = frozenset[str]


@dataclass(frozen=True)
class LocalErrors:
    """The largest relative error of one operator's result against float64 over the images, and that of its inputs.

    ``error`` is infinite if the result is not finite but should be.
    """

    index: int
    error: float
    input_error: float

    @property
    def factor(self) -> float:
        """How many times worse the result is than the inputs (or than one rounding)."""
        return self.error / max(self.input_error, ROUNDOFF) if math.isfinite(self.input_error) else 1.0


@dataclass
class HalfPrecisionJudge:
    """Runs a graph over images in simulated half precision, with islands in float32, and judges its outputs.

    ``natural`` is the number of natural images, which come first; ``fixed`` are islands in every run; ``runs`` counts
    the runs so far.
    """

    model: ModelProto
    feeds: Sequence[Mapping[str, Array]]
    natural: int = fidelity.NATURAL
    fixed: Islands = frozenset()
    runs: int = 0
    until: float = math.inf
    """When the search for culprits ends (`time.monotonic`); it returns what it has by then."""
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

    @property
    def late(self) -> bool:
        """Whether the time for the search is over."""
        return time.monotonic() >= self.until

    def _outputs(self, mode: str, islands: Islands) -> dict[str, Array]:
        self.runs += len(self.feeds)
        return fidelity.run_all(lambda feed: self.interpreter.run(feed, mode, islands | self.fixed), self.feeds)

    def error(self, mode: str, islands: Islands) -> float:
        """Return the outputs' error as a multiple of the limit in a mode; at most 1 holds the bound."""
        if (mode, islands) not in self._errors:
            outputs = self._outputs(mode, islands)
            limits = LIMITS["fp16"]
            worst = math.inf
            if all(_finite(value) for value in outputs.values()):
                figures = compare(self.exact, outputs, self.natural)
                # 1 - cosine grows with the square of an error.
                angle = math.sqrt(max(1 - figures["cosine"], 0) / (1 - limits["cosine"]))
                worst = max(figures["p99_error"] / limits["p99_error"], angle) / SLACK[mode]
            self._errors[mode, islands] = worst
        return self._errors[mode, islands]

    def broken(self) -> list[int]:
        """Return the indices of the images, batches of one, whose outputs are not finite in one of the modes."""
        values = [value for mode in MODES for value in self._outputs(mode, frozenset()).values()]
        return [i for i in range(len(self.feeds)) if not all(_finite(value[i]) for value in values)]

    def holds(self, islands: Islands) -> bool:
        """Tell whether both modes hold the limits themselves, without slack and with a margin."""
        return all(self.error(mode, islands) * SLACK[mode] <= MARGIN for mode in reversed(MODES))

    def worst(self, islands: Islands) -> float:
        """Return the larger error of the two modes."""
        return max(self.error(mode, islands) for mode in MODES)

    def local_errors(self, mode: str, islands: Islands, images: int | None = None) -> list[LocalErrors]:
        """Compare every operator's result in a half mode with the exact one, over the first images."""
        errors = [0.0] * len(self.steps)
        input_errors = [0.0] * len(self.steps)
        feeds = self.feeds[:images]
        self.runs += 2 * len(feeds)
        for feed in feeds:
            by_tensor: dict[str, float] = {}
            runs = (self.interpreter.trace(feed, *a) for a in (("float64",), (mode, islands | self.fixed)))
            for i, (exact, half) in enumerate(zip(*runs, strict=True)):
                for name, want, have in zip(exact.step.outputs, exact.outputs, half.outputs, strict=False):
                    by_tensor[name] = relative_error(want, have)
                error = by_tensor[exact.step.outputs[0]]
                if error >= errors[i]:
                    errors[i] = error
                    input_errors[i] = max((by_tensor.get(name, 0.0) for name in exact.step.inputs), default=0.0)
        return [LocalErrors(i, *pair) for i, pair in enumerate(zip(errors, input_errors, strict=True))]

    def name(self, index: int) -> str:
        """Return the name of a step in a set of islands: its first output."""
        return self.steps[index].outputs[0]


def relative_error(want: Tensor, have: Tensor) -> float:
    """Return |have - want| / |want| by the Euclidean norm of the tensor or by the median element, the larger of both.

    The norm would hide the rest behind a few outliers, and the median would be zero behind a ReLU. Infinite if a finite
    value became NaN or infinite.
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
    by_norm = float(error.norm()) / size if size else 0.0
    stride = max(1, want.numel() // SAMPLE)
    median = float(want.flatten()[::stride].abs().median())
    return max(by_norm, float(error.flatten()[::stride].median()) / median if median else 0.0)


def _finite(value: Array) -> bool:
    return bool(np.isfinite(value).all())


def find_culprits(judge: HalfPrecisionJudge) -> Islands:
    """Return islands around the culprits, as few as hold the bound in both modes or at least halve the error.

    Empty if the graph needs none, and if no operator is to blame (rounding is spread over the whole network).
    """
    start = judge.worst(frozenset())
    if start <= 1:
        return frozenset()
    islands: Islands = frozenset()
    for factor, visible in SUSPECT:
        for mode in MODES:
            islands = _grow(judge, mode, islands, factor, visible)
        if judge.worst(islands) <= 1 or judge.late:
            break
    error = judge.worst(islands)
    if error > max(1.0, start / 2):
        return frozenset()
    return _shrink(judge, islands, max(1.0, 1.25 * error))


def add_noisiest(judge: HalfPrecisionJudge, islands: Islands) -> Islands:
    """Return islands and the operators whose rounding disturbs the outputs most, so that both modes hold the limits.

    If storing a result makes the larger part of its noise, its readers join as well: between islands tensors stay in
    fp32. The islands are returned as they are if they hold the limits, and if the largest of `SHARES` does not suffice.
    """
    if judge.holds(islands):
        return islands
    powers = rounding_noise(judge.interpreter, judge.feeds, MODES[-1])
    noisiest: list[str] = []
    for name in sorted(powers, key=lambda name: sum(powers[name]), reverse=True):
        computing, storing = powers[name]
        readers = judge.readers[judge.producers[name]] if storing > computing else []
        noisiest += [name, *(judge.name(reader) for reader in readers)]
    order = [name for name in dict.fromkeys(noisiest) if name not in islands]
    lengths = [math.ceil(share * len(judge.steps)) for share in SHARES]
    length = shortest_prefix(lengths, lambda length: judge.holds(islands | set(order[:length])))
    return islands if length is None else islands | set(order[:length])


def _grow(judge: HalfPrecisionJudge, mode: str, islands: Islands, factor: float, visible: float) -> Islands:
    limit = max(8, int(LARGEST_SHARE * len(judge.steps)))
    while judge.error(mode, islands) > 1 and len(islands) <= limit and not judge.late:
        added: Islands = frozenset()
        for images in (1, None):  # if one image shows a culprit, the others need not run
            added = added or _next(judge, judge.local_errors(mode, islands, images), islands, factor, visible)
        if not added:
            break
        islands |= added
    return islands


def _next(
    judge: HalfPrecisionJudge, errors: list[LocalErrors], islands: Islands, factor: float, visible: float
) -> Islands:
    """Return the first culprit, or, if it is an island already, its producers.

    A result that is not finite goes first: nothing else can hold the bound before.
    """
    harmful, islands = _harmful(judge, errors, visible), islands | judge.fixed
    for local in sorted(errors, key=lambda local: math.isfinite(local.error)):
        if local.index not in harmful or local.factor < factor or local.error < visible:
            continue
        if judge.name(local.index) not in islands:
            return frozenset({judge.name(local.index)})
        producers = _producers_outside(judge, local.index, islands)
        if producers:
            return producers
    return frozenset()


def _producers_outside(judge: HalfPrecisionJudge, index: int, islands: Islands) -> Islands:
    """Return the nearest producers of a step that are not islands yet, looking back through those that are."""
    outside: set[str] = set()
    waiting, visited = [index], {index}
    while waiting:
        step = judge.steps[waiting.pop()]
        for i in {judge.producers[name] for name in step.inputs if name in judge.producers} - visited:
            visited.add(i)
            if judge.name(i) in islands:
                waiting.append(i)
            else:
                outside.add(judge.name(i))
    return frozenset(outside)


def _harmful(judge: HalfPrecisionJudge, errors: list[LocalErrors], visible: float) -> set[int]:
    """Return the steps from which visible errors lead to an output; the error of others vanishes on the way."""
    outputs = set(judge.interpreter.outputs)
    harmful: set[int] = set()
    for i in reversed(range(len(errors))):
        if errors[i].error < visible:
            continue
        ends = any(name in outputs for name in judge.steps[i].outputs)
        if ends or any(reader in harmful for reader in judge.readers[i]):
            harmful.add(i)
    return harmful


def _shrink(judge: HalfPrecisionJudge, islands: Islands, bound: float) -> Islands:
    """Remove islands that are not needed: halves while that works, then one by one, the last in the graph first."""
    order = [judge.name(i) for i in range(len(judge.steps)) if judge.name(i) in islands]
    size = max(1, len(order) // 2)
    while size:
        for start in reversed(range(0, len(order), size)):
            if judge.late:
                return frozenset(order)
            fewer = order[:start] + order[start + size :]
            if all(judge.error(mode, frozenset(fewer)) <= bound for mode in reversed(MODES)):
                order = fewer
        size //= 2
    return frozenset(order)
