"""The mechanisms by which half precision breaks a graph: the range of every tensor, and a finding for each island.

An island is explained by overflow, underflow or cancellation if the ranges show one. Otherwise it is accumulation, if
half-precision sums alone make the error, or rounding.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from effbench.deploy.graph.half_types import HALF_MAX

if TYPE_CHECKING:
    from torch import Tensor

    from effbench.deploy.interpreter import Step
    from effbench.deploy.precision.fp32_islands import HalfPrecisionJudge, Islands, LocalErrors

HALF_MIN_NORMAL = 2.0**-14

OVERFLOW, UNDERFLOW, CANCELLATION = "overflow", "underflow", "cancellation"
ACCUMULATION, ROUNDING = "accumulation", "rounding"


@dataclass(frozen=True)
class TensorRange:
    """The magnitudes of one tensor over the images, in float64; ``smallest`` is that of its nonzero values.

    ``subnormal_share`` is the share of the nonzero values that half precision flushes to zero.
    """

    tensor: str
    node: str
    op: str
    smallest: float
    largest: float
    rms: float
    subnormal_share: float


@dataclass(frozen=True)
class NumericsFinding:
    """One place where half precision breaks the model: neighboring nodes, the mechanism, and the evidence."""

    mechanism: str
    nodes: tuple[str, ...]
    op: str
    evidence: str


def measure_ranges(judge: HalfPrecisionJudge) -> dict[str, TensorRange]:
    """Return the range of every floating-point tensor over the images, by name."""
    ranges: dict[str, TensorRange] = {}
    for feed in judge.feeds:
        for executed in judge.interpreter.trace(feed, "float64"):
            for name, value in zip(executed.step.outputs, executed.outputs, strict=False):
                if name and value.is_floating_point() and value.numel():
                    new = _range(name, executed.step, value)
                    ranges[name] = _join(ranges[name], new) if name in ranges else new
    return ranges


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


def findings(judge: HalfPrecisionJudge, islands: Islands, ranges: Mapping[str, TensorRange]) -> list[NumericsFinding]:
    """Return the mechanism of each group of neighboring islands."""
    if not islands:
        return []
    from effbench.deploy.precision.fp32_islands import MODES

    wide, narrow = (judge.local_errors(mode, frozenset()) for mode in MODES)
    return [_finding(judge, group, ranges, wide, narrow) for group in _groups(judge, islands)]


def _groups(judge: HalfPrecisionJudge, islands: Islands) -> list[list[int]]:
    waiting = [i for i in range(len(judge.steps)) if judge.name(i) in islands]
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
) -> NumericsFinding:
    steps = [judge.steps[i] for i in group]
    names = tuple(step.name for step in steps)
    for explain in (_overflow, _underflow, _cancellation):
        for step in steps:
            evidence = explain(judge, step, ranges)
            if evidence:
                return NumericsFinding(explain.__name__[1:], names, step.op, f"{step.name}: {evidence}")
    worst = max(group, key=lambda i: narrow[i].factor)
    step = judge.steps[worst]
    if math.isinf(narrow[worst].error) and math.isfinite(wide[worst].error):
        return NumericsFinding(OVERFLOW, names, step.op, f"{step.name}: a sum inside it exceeds {HALF_MAX:g}")
    mechanism = ACCUMULATION if narrow[worst].error > 4 * wide[worst].error else ROUNDING
    text = f"relative error {narrow[worst].error:.2g} from inputs with {narrow[worst].input_error:.2g}"
    return NumericsFinding(mechanism, names, step.op, f"{step.name}: {text}")


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
    """Return the constants of a step, such as an epsilon, that are not zero but become zero in half precision."""
    constants = []
    for name in step.inputs:
        constant = judge.interpreter.constants.get(name)
        if constant is not None and constant.is_floating_point() and constant.numel():
            largest = float(constant.abs().max())
            if 0 < largest < HALF_MIN_NORMAL:
                constants.append((f"the constant '{name}'", largest))
    epsilon = step.attributes.get("epsilon") if step.op != "BatchNormalization" else None  # folded before the device
    if isinstance(epsilon, float) and 0 < epsilon < HALF_MIN_NORMAL:
        constants.append(("the epsilon", epsilon))
    return constants


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
