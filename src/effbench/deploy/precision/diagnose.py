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
    from effbench.deploy.precision.fp32_islands import HalfPrecisionJudge, Islands, LocalErrors

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
    judge = search.HalfPrecisionJudge(model, feeds, natural, long_softmaxes(model))
    ranges = measure_ranges(judge)
    chosen = search.find_culprits(judge)
    errors = tuple(
        ModeErrors(mode, finite(judge.error(mode, frozenset())), finite(judge.error(mode, chosen)))
        for mode in search.MODES
    )
    passed = judge.worst(chosen) <= 1
    return NumericsReport(
        precision=precision,
        nodes=len(judge.steps),
        images=len(feeds),
        passed=passed,
        findings=tuple(_findings(judge, chosen, ranges)),
        islands=_named(judge, chosen),
        errors=errors,
        ranges=tuple(ranges.values()),
        notes=tuple(_notes(judge, chosen, ranges, passed)),
        runs=judge.runs,
    )


def find_islands(model: ModelProto, feeds: Sequence[Mapping[str, Array]], culprit_images: int) -> tuple[str, ...]:
    """Return the fp32 islands with which a graph holds the limits of fp16 over images; empty if none were found.

    If an output is not finite, the culprits are searched first. Then the operators join whose rounding disturbs the
    outputs most.

    Args:
        model: An fp32 graph.
        feeds: Inputs of a fidelity check, one image each: `fidelity.NATURAL` natural ones, then extremes.
        culprit_images: How many natural images the search for culprits takes, beside those that are not finite.

    Raises:
        ConversionError: The interpreter lacks an operator of the graph.
    """
    from effbench.deploy.precision import fp32_islands as search

    model = shorten_means(model)
    fixed = long_softmaxes(model)
    judge = search.HalfPrecisionJudge(model, feeds, fidelity.NATURAL, fixed)
    islands: Islands = frozenset()
    if broken := judge.broken():
        chosen = [*feeds[:culprit_images], *(feeds[i] for i in broken if i >= culprit_images)]
        islands = search.find_culprits(search.HalfPrecisionJudge(model, chosen, culprit_images, fixed))
    return _named(judge, search.add_noisiest(judge, islands))


def _named(judge: HalfPrecisionJudge, chosen: Islands) -> tuple[str, ...]:
    """Return islands in the order of the graph; half of a mean that was split stands for the whole."""
    names = (judge.name(i) for i in range(len(judge.steps)))
    return tuple(dict.fromkeys(name.removesuffix(COLUMNS) for name in names if name in chosen))


def measure_ranges(judge: HalfPrecisionJudge) -> dict[str, TensorRange]:
    """Return the range of every floating tensor over the images, by tensor."""
    found: dict[str, TensorRange] = {}
    for feed in judge.feeds:
        for done in judge.interpreter.trace(feed, "float64"):
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


def _findings(judge: HalfPrecisionJudge, chosen: Islands, ranges: Mapping[str, TensorRange]) -> list[Finding]:
    """Name the mechanism of each group of neighboring islands."""
    if not chosen:
        return []
    from effbench.deploy.precision.fp32_islands import MODES

    first, second = (judge.local_errors(mode, frozenset()) for mode in MODES)
    return [_finding(judge, group, ranges, first, second) for group in _groups(judge, chosen)]


def _groups(judge: HalfPrecisionJudge, chosen: Islands) -> list[list[int]]:
    waiting = [i for i in range(len(judge.steps)) if judge.name(i) in chosen]
    groups: list[list[int]] = []
    while waiting:
        group, edge = [], [waiting[0]]
        while edge:
            i = edge.pop()
            if i not in waiting:
                continue
            waiting.remove(i)
            group.append(i)
            before = [judge.producers[n] for n in judge.steps[i].inputs if n in judge.producers]
            # Two islands that read the same tensor belong together as well: E[x^2] and E[x], say.
            edge += [*before, *judge.readers[i], *(r for b in before for r in judge.readers[b])]
        groups.append(sorted(group))
    return groups


def _finding(
    judge: HalfPrecisionJudge,
    group: list[int],
    ranges: Mapping[str, TensorRange],
    wide: list[LocalErrors],
    narrow: list[LocalErrors],
) -> Finding:
    steps = [judge.steps[i] for i in group]
    names = tuple(step.name for step in steps)
    for explain in (_overflow, _underflow, _cancellation):
        for step in steps:
            evidence = explain(judge, step, ranges)
            if evidence:
                return Finding(explain.__name__[1:], names, step.op, f"{step.name}: {evidence}")
    worst = max(group, key=lambda i: narrow[i].factor)
    step = judge.steps[worst]
    if math.isinf(narrow[worst].error) and math.isfinite(wide[worst].error):
        return Finding(OVERFLOW, names, step.op, f"{step.name}: a sum inside it exceeds {HALF_MAX:g}")
    mechanism = ACCUMULATION if narrow[worst].error > 4 * wide[worst].error else ROUNDING
    text = f"relative error {narrow[worst].error:.2g} from inputs with {narrow[worst].input_error:.2g}"
    return Finding(mechanism, names, step.op, f"{step.name}: {text}")


def _overflow(judge: HalfPrecisionJudge, step: Step, ranges: Mapping[str, TensorRange]) -> str | None:
    for name in (*step.outputs, *step.inputs):
        largest = ranges[name].largest if name in ranges else 0.0
        if largest > HALF_MAX:
            return f"'{name}' reaches {largest:.3g}, half precision ends at {HALF_MAX:g}"
    for name in step.inputs:
        if name in judge.interpreter.constants:
            constant = judge.interpreter.constants[name]
            if constant.is_floating_point() and constant.numel() and float(constant.abs().max()) > HALF_MAX:
                return (
                    f"the constant '{name}' is {float(constant.abs().max()):.3g}, half precision ends at {HALF_MAX:g}"
                )
    return None


def _underflow(judge: HalfPrecisionJudge, step: Step, ranges: Mapping[str, TensorRange]) -> str | None:
    for name, value in dying_constants(judge, step):
        return f"{name} of {value:.3g} becomes 0; half precision flushes below {HALF_MIN_NORMAL:.3g}"
    for name in (*step.outputs, *step.inputs):
        if name in ranges and 0 < ranges[name].rms < 4 * HALF_MIN_NORMAL and ranges[name].subnormal_share > 0.1:
            share = 100 * ranges[name].subnormal_share
            return f"{share:.0f} % of '{name}' (rms {ranges[name].rms:.3g}) is flushed to zero"
    return None


def dying_constants(judge: HalfPrecisionJudge, step: Step) -> list[tuple[str, float]]:
    """Return the constants of a step, an epsilon say, that are not zero but become zero in half precision."""
    found = []
    for name in step.inputs:
        constant = judge.interpreter.constants.get(name)
        if constant is not None and constant.is_floating_point() and constant.numel():
            largest = float(constant.abs().max())
            if 0 < largest < HALF_MIN_NORMAL:
                found.append((f"the constant '{name}'", largest))
    epsilon = step.attributes.get("epsilon") if step.op != "BatchNormalization" else None  # folded before the device
    if isinstance(epsilon, float) and 0 < epsilon < HALF_MIN_NORMAL:
        found.append(("the epsilon", epsilon))
    return found


def _cancellation(judge: HalfPrecisionJudge, step: Step, ranges: Mapping[str, TensorRange]) -> str | None:
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


def _notes(judge: HalfPrecisionJudge, chosen: Islands, ranges: Mapping[str, TensorRange], passed: bool) -> list[str]:
    notes = []
    if not passed and not chosen:
        notes.append("The bound is missed, but no operator is to blame: rounding adds up over the whole network.")
    elif not passed:
        notes.append("The islands remove the culprits found; what is left is rounding that adds up over the network.")
    if judge.fixed:
        notes.append(f"{len(judge.fixed)} operators stay in fp32 in any case: long softmaxes and sums of them.")
    inside = chosen | judge.fixed
    beyond = [r.node for r in ranges.values() if r.largest > HALF_MAX and r.tensor not in inside]
    if beyond:
        notes.append(f"Beyond half range without harm to the outputs: {_some(beyond)}.")
    dying = [s.name for s in judge.steps if s.outputs[0] not in inside and dying_constants(judge, s)]
    if dying:
        notes.append(f"Constants that become 0 without harm to the outputs: {_some(dying)}.")
    return notes


def _some(names: Sequence[str], count: int = 5) -> str:
    rest = len(names) - count
    return ", ".join(names[:count]) + (f" and {rest} more" if rest > 0 else "")
