"""Will this graph survive half precision? Which operators will not, by which mechanism, and what saves them.

The graph is run over images in float64 and in simulated half precision, with fp32 and with half accumulation and
subnormals flushed to zero (`effbench.deploy.interpreter`); docs/explanation/numerics.md says what it cannot find.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from effbench.deploy import Array
from effbench.deploy.artifact import fidelity
from effbench.deploy.graph.half_types import HALF_MAX
from effbench.deploy.precision.half import COLUMNS, long_softmaxes, shorten_means
from effbench.errors import UsageError
from effbench.schema import finite

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch import Tensor

    from effbench.deploy.interpreter import Step
    from effbench.deploy.precision.fp32_islands import Experiment, Islands, Local

HALF_MIN_NORMAL = 2.0**-14

OVERFLOW, UNDERFLOW, CANCELLATION = "overflow", "underflow", "cancellation"
ACCUMULATION, ROUNDING = "accumulation", "rounding"


@dataclass(frozen=True)
class TensorRange:
    """What the values of one tensor spanned over the images, in float64; magnitudes, zeros left out of ``smallest``.

    ``subnormal_share`` is the share of its nonzero values that half precision flushes to zero.
    """

    tensor: str
    node: str
    op: str
    smallest: float
    largest: float
    rms: float
    subnormal_share: float


@dataclass(frozen=True)
class Finding:
    """One place where half precision breaks the model: neighboring nodes, the mechanism, and what was seen."""

    mechanism: str
    nodes: tuple[str, ...]
    op: str
    evidence: str


@dataclass(frozen=True)
class ModeErrors:
    """Errors of the outputs in one half mode, as multiples of what is allowed; None is not finite."""

    mode: str
    without_islands: float | None
    with_islands: float | None


@dataclass(frozen=True)
class NumericsReport:
    """What `examine` found. ``islands`` are names that `effbench.deploy.precision.half.to_fp16` takes."""

    precision: str
    nodes: int
    images: int
    passed: bool
    findings: tuple[Finding, ...]
    islands: tuple[str, ...]
    errors: tuple[ModeErrors, ...]
    ranges: tuple[TensorRange, ...]
    notes: tuple[str, ...]
    runs: int

    @property
    def island_share_pct(self) -> float:
        """Share of the operators that stay in fp32."""
        return 100 * len(self.islands) / max(self.nodes, 1)

    def rows(self) -> list[dict[str, str | float]]:
        """Return a table of the findings: one row each, values ready to be printed."""
        return [
            {"mechanism": f.mechanism, "operator": f.op, "nodes": ", ".join(f.nodes), "what was seen": f.evidence}
            for f in self.findings
        ]

    def range_rows(self, count: int = 10) -> list[dict[str, str | float]]:
        """Return a table of the tensors nearest to the end of the range of half precision."""
        near = sorted(self.ranges, key=lambda r: -r.largest)[:count]
        return [
            {"node": r.node, "operator": r.op, "largest": r.largest, "of 65504": r.largest / HALF_MAX, "rms": r.rms}
            for r in near
        ]


def examine(
    model: ModelProto, feeds: Sequence[Mapping[str, Array]], precision: str = "fp16", natural: int = fidelity.NATURAL
) -> NumericsReport:
    """Examine a graph's precision over images.

    Args:
        model: An fp32 graph.
        feeds: Inputs, already preprocessed; at least two different images.
        precision: ``fp16``; for int8 the error is measured on the quantized graph itself.
        natural: Of so many images, the first, errors are relative to the spread; the others are extremes.

    Raises:
        UsageError: The precision is another, or there are fewer than two images.
        ConversionError: The interpreter lacks an operator of the graph.
    """
    from effbench.deploy.precision import fp32_islands as search

    if precision != "fp16":
        raise UsageError(f"Precision '{precision}' has no range to examine.", hint="numerics examines fp16.")
    if sum(len(next(iter(feed.values()))) for feed in feeds) < 2:
        raise UsageError("Numerics needs at least two images: errors are judged by the spread between them.")
    model = shorten_means(model)
    experiment = search.Experiment(model, feeds, natural, long_softmaxes(model))
    ranges = measure_ranges(experiment)
    chosen = search.find(experiment)
    errors = tuple(
        ModeErrors(mode, finite(experiment.error(mode, frozenset())), finite(experiment.error(mode, chosen)))
        for mode in search.MODES
    )
    passed = experiment.worst(chosen) <= 1
    return NumericsReport(
        precision=precision,
        nodes=len(experiment.steps),
        images=len(feeds),
        passed=passed,
        findings=tuple(_findings(experiment, chosen, ranges)),
        islands=_named(experiment, chosen),
        errors=errors,
        ranges=tuple(ranges.values()),
        notes=tuple(_notes(experiment, chosen, ranges, passed)),
        runs=experiment.runs,
    )


def rescued(model: ModelProto, feeds: Sequence[Mapping[str, Array]], few: int) -> tuple[str, ...]:
    """Return the fp32 islands with which a graph holds the limits of fp16 over images; empty where none were found.

    What is not finite is found by its culprits; then those operators join that disturb the outputs most.

    Args:
        model: An fp32 graph.
        feeds: Inputs as a check has them, an image each: `fidelity.NATURAL` natural ones, then extremes.
        few: How many of the natural images the search for culprits takes, beside those that are not finite.

    Raises:
        ConversionError: The interpreter lacks an operator of the graph.
    """
    from effbench.deploy.precision import fp32_islands as search

    model = shorten_means(model)
    kept = long_softmaxes(model)
    whole = search.Experiment(model, feeds, fidelity.NATURAL, kept)
    chosen: Islands = frozenset()
    if broken := whole.broken():
        some = [*feeds[:few], *(feeds[i] for i in broken if i >= few)]
        chosen = search.find(search.Experiment(model, some, few, kept))
    return _named(whole, search.quieten(whole, chosen))


def _named(experiment: Experiment, chosen: Islands) -> tuple[str, ...]:
    """Return islands in the order of the graph; half of a mean that was split stands for the whole."""
    names = (experiment.name(i) for i in range(len(experiment.steps)))
    return tuple(dict.fromkeys(name.removesuffix(COLUMNS) for name in names if name in chosen))


def measure_ranges(experiment: Experiment) -> dict[str, TensorRange]:
    """Return the range of every floating tensor over the images, by tensor."""
    found: dict[str, TensorRange] = {}
    for feed in experiment.feeds:
        for done in experiment.interpreter.trace(feed, "float64"):
            for name, value in zip(done.step.outputs, done.outputs, strict=False):
                if name and value.is_floating_point() and value.numel():
                    new = _range(name, done.step, value)
                    found[name] = _join(found[name], new) if name in found else new
    return found


def _range(name: str, step: Step, value: Tensor) -> TensorRange:
    sizes = value[value.isfinite()].abs()
    nonzero = sizes[sizes > 0]
    if not nonzero.numel():
        return TensorRange(name, step.name, step.op, 0.0, 0.0, 0.0, 0.0)
    lost = float((nonzero < HALF_MIN_NORMAL).double().mean())
    rms = math.sqrt(float((sizes * sizes).mean()))
    return TensorRange(name, step.name, step.op, float(nonzero.min()), float(nonzero.max()), rms, lost)


def _join(a: TensorRange, b: TensorRange) -> TensorRange:
    smallest = min((s for s in (a.smallest, b.smallest) if s > 0), default=0.0)
    lost = max(a.subnormal_share, b.subnormal_share)
    return TensorRange(a.tensor, a.node, a.op, smallest, max(a.largest, b.largest), max(a.rms, b.rms), lost)


def _findings(experiment: Experiment, chosen: Islands, ranges: Mapping[str, TensorRange]) -> list[Finding]:
    """Name the mechanism of each group of neighboring islands."""
    if not chosen:
        return []
    from effbench.deploy.precision.fp32_islands import MODES

    first, second = (experiment.locals(mode, frozenset()) for mode in MODES)
    return [_finding(experiment, group, ranges, first, second) for group in _groups(experiment, chosen)]


def _groups(experiment: Experiment, chosen: Islands) -> list[list[int]]:
    waiting = [i for i in range(len(experiment.steps)) if experiment.name(i) in chosen]
    groups: list[list[int]] = []
    while waiting:
        group, edge = [], [waiting[0]]
        while edge:
            i = edge.pop()
            if i not in waiting:
                continue
            waiting.remove(i)
            group.append(i)
            before = [experiment.producers[n] for n in experiment.steps[i].inputs if n in experiment.producers]
            # Two islands that read the same tensor belong together as well: E[x^2] and E[x], say.
            edge += [*before, *experiment.readers[i], *(r for b in before for r in experiment.readers[b])]
        groups.append(sorted(group))
    return groups


def _finding(
    experiment: Experiment,
    group: list[int],
    ranges: Mapping[str, TensorRange],
    wide: list[Local],
    narrow: list[Local],
) -> Finding:
    steps = [experiment.steps[i] for i in group]
    names = tuple(step.name for step in steps)
    for explain in (_overflow, _underflow, _cancellation):
        for step in steps:
            evidence = explain(experiment, step, ranges)
            if evidence:
                return Finding(explain.__name__[1:], names, step.op, f"{step.name}: {evidence}")
    worst = max(group, key=lambda i: narrow[i].factor)
    step = experiment.steps[worst]
    if math.isinf(narrow[worst].error) and math.isfinite(wide[worst].error):
        return Finding(OVERFLOW, names, step.op, f"{step.name}: a sum inside it exceeds {HALF_MAX:g}")
    mechanism = ACCUMULATION if narrow[worst].error > 4 * wide[worst].error else ROUNDING
    text = f"relative error {narrow[worst].error:.2g} from inputs with {narrow[worst].input_error:.2g}"
    return Finding(mechanism, names, step.op, f"{step.name}: {text}")


def _overflow(experiment: Experiment, step: Step, ranges: Mapping[str, TensorRange]) -> str | None:
    for name in (*step.outputs, *step.inputs):
        largest = ranges[name].largest if name in ranges else 0.0
        if largest > HALF_MAX:
            return f"'{name}' reaches {largest:.3g}, half precision ends at {HALF_MAX:g}"
    for name in step.inputs:
        if name in experiment.interpreter.constants:
            constant = experiment.interpreter.constants[name]
            if constant.is_floating_point() and constant.numel() and float(constant.abs().max()) > HALF_MAX:
                return (
                    f"the constant '{name}' is {float(constant.abs().max()):.3g}, half precision ends at {HALF_MAX:g}"
                )
    return None


def _underflow(experiment: Experiment, step: Step, ranges: Mapping[str, TensorRange]) -> str | None:
    for name, value in dying_constants(experiment, step):
        return f"{name} of {value:.3g} becomes 0; half precision flushes below {HALF_MIN_NORMAL:.3g}"
    for name in (*step.outputs, *step.inputs):
        if name in ranges and 0 < ranges[name].rms < 4 * HALF_MIN_NORMAL and ranges[name].subnormal_share > 0.1:
            share = 100 * ranges[name].subnormal_share
            return f"{share:.0f} % of '{name}' (rms {ranges[name].rms:.3g}) is flushed to zero"
    return None


def dying_constants(experiment: Experiment, step: Step) -> list[tuple[str, float]]:
    """Return the constants of a step, an epsilon say, that are not zero but become zero in half precision."""
    found = []
    for name in step.inputs:
        constant = experiment.interpreter.constants.get(name)
        if constant is not None and constant.is_floating_point() and constant.numel():
            largest = float(constant.abs().max())
            if 0 < largest < HALF_MIN_NORMAL:
                found.append((f"the constant '{name}'", largest))
    epsilon = step.attributes.get("epsilon") if step.op != "BatchNormalization" else None  # folded before the device
    if isinstance(epsilon, float) and 0 < epsilon < HALF_MIN_NORMAL:
        found.append(("the epsilon", epsilon))
    return found


def _cancellation(experiment: Experiment, step: Step, ranges: Mapping[str, TensorRange]) -> str | None:
    if step.op not in ("Add", "Sub", "Sum"):
        return None
    operands = [ranges[name].rms for name in step.inputs if name in ranges]
    result = ranges[step.outputs[0]].rms if step.outputs[0] in ranges else 0.0
    if operands and result < max(operands) / 8:
        lost = math.log2(max(operands) / result) if result else 11.0
        return (
            f"the result (rms {result:.3g}) is left of operands of {max(operands):.3g}: {lost:.0f} of 11 bits are lost"
        )
    return None


def _notes(experiment: Experiment, chosen: Islands, ranges: Mapping[str, TensorRange], passed: bool) -> list[str]:
    notes = []
    if not passed and not chosen:
        notes.append("The bound is missed, but no operator is to blame: rounding adds up over the whole network.")
    elif not passed:
        notes.append("The islands remove the culprits found; what is left is rounding that adds up over the network.")
    if experiment.kept:
        notes.append(f"{len(experiment.kept)} operators stay in fp32 in any case: long softmaxes and sums of them.")
    inside = chosen | experiment.kept
    beyond = [r.node for r in ranges.values() if r.largest > HALF_MAX and r.tensor not in inside]
    if beyond:
        notes.append(f"Beyond half range without harm to the outputs: {_some(beyond)}.")
    dying = [s.name for s in experiment.steps if s.outputs[0] not in inside and dying_constants(experiment, s)]
    if dying:
        notes.append(f"Constants that become 0 without harm to the outputs: {_some(dying)}.")
    return notes


def _some(names: Sequence[str], count: int = 5) -> str:
    rest = len(names) - count
    return ", ".join(names[:count]) + (f" and {rest} more" if rest > 0 else "")
