"""Which operators of a graph break in half precision, by which mechanism, and which fp32 islands prevent it.

The graph is run over images in float64 and in simulated half precision, with fp32 and with half accumulation and
subnormals flushed to zero (`effbench.deploy.interpreter`); docs/explanation/numerics.md says what it cannot find.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from effbench.deploy import Array
from effbench.deploy.artifact import fidelity
from effbench.deploy.graph.half_types import HALF_MAX
from effbench.deploy.precision.half import COLUMNS, long_softmaxes, shorten_means
from effbench.deploy.precision.mechanisms import NumericsFinding, TensorRange, dying_constants, findings, measure_ranges
from effbench.errors import UsageError
from effbench.schema import finite

if TYPE_CHECKING:
    from onnx import ModelProto

    from effbench.deploy.precision.fp32_islands import HalfPrecisionJudge, Islands


@dataclass(frozen=True)
class ModeErrors:
    """Errors of the outputs in one half mode, as multiples of the limit; None is not finite."""

    mode: str
    without_islands: float | None
    with_islands: float | None


@dataclass(frozen=True)
class NumericsReport:
    """The result of `examine`. ``islands`` are names that `effbench.deploy.precision.half.to_fp16` takes."""

    precision: str
    nodes: int
    images: int
    passed: bool
    findings: tuple[NumericsFinding, ...]
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
            {"mechanism": f.mechanism, "operator": f.op, "nodes": ", ".join(f.nodes), "evidence": f.evidence}
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
        natural: Number of natural images, which come first; errors are relative to their spread. The others are
            extremes.

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
    islands = search.find_culprits(judge)
    errors = tuple(
        ModeErrors(mode, finite(judge.error(mode, frozenset())), finite(judge.error(mode, islands)))
        for mode in search.MODES
    )
    passed = judge.worst(islands) <= 1
    return NumericsReport(
        precision=precision,
        nodes=len(judge.steps),
        images=len(feeds),
        passed=passed,
        findings=tuple(findings(judge, islands, ranges)),
        islands=_named(judge, islands),
        errors=errors,
        ranges=tuple(ranges.values()),
        notes=tuple(_notes(judge, islands, ranges, passed)),
        runs=judge.runs,
    )


SEARCH_S = 60.0
"""The longest search for culprits; the islands that it has by then are kept."""


def find_islands(
    model: ModelProto, feeds: Sequence[Mapping[str, Array]], culprit_images: int, search_s: float = SEARCH_S
) -> tuple[tuple[str, ...], bool]:
    """Return the fp32 islands with which a graph holds the limits of fp16 over images, and whether time ran out.

    There are none if none were found.

    If an output is not finite, the culprits are searched first. Then the operators join whose rounding disturbs the
    outputs most.

    Args:
        model: An fp32 graph.
        feeds: Inputs of a fidelity check, one image each: `fidelity.NATURAL` natural ones, then extremes.
        culprit_images: How many natural images the search for culprits takes, beside those that are not finite.
        search_s: How long that search may take.

    Raises:
        ConversionError: The interpreter lacks an operator of the graph.
    """
    from effbench.deploy.precision import fp32_islands as search

    model = shorten_means(model)
    fixed = long_softmaxes(model)
    judge = search.HalfPrecisionJudge(model, feeds, fidelity.NATURAL, fixed)
    islands: Islands = frozenset()
    late = False
    if broken := judge.broken():
        chosen = [*feeds[:culprit_images], *(feeds[i] for i in broken if i >= culprit_images)]
        few = search.HalfPrecisionJudge(model, chosen, culprit_images, fixed, until=time.monotonic() + search_s)
        islands = search.find_culprits(few)
        late = few.late
    return _named(judge, search.add_noisiest(judge, islands)), late


def _named(judge: HalfPrecisionJudge, islands: Islands) -> tuple[str, ...]:
    """Return islands in the order of the graph; either half of a mean that was split stands for the mean."""
    names = (judge.name(i) for i in range(len(judge.steps)))
    return tuple(dict.fromkeys(name.removesuffix(COLUMNS) for name in names if name in islands))


def _notes(judge: HalfPrecisionJudge, islands: Islands, ranges: Mapping[str, TensorRange], passed: bool) -> list[str]:
    notes = []
    if not passed and not islands:
        notes.append("The bound is missed, but no operator is to blame: rounding adds up over the whole network.")
    elif not passed:
        notes.append("The islands remove the culprits; the remaining error is rounding that adds up over the network.")
    if judge.fixed:
        notes.append(f"{len(judge.fixed)} operators stay in fp32 in any case: long softmaxes and sums of them.")
    inside = islands | judge.fixed
    beyond = [r.node for r in ranges.values() if r.largest > HALF_MAX and r.tensor not in inside]
    if beyond:
        notes.append(f"Beyond half range without harm to the outputs: {_shortened(beyond)}.")
    dying = [s.name for s in judge.steps if s.outputs[0] not in inside and dying_constants(judge, s)]
    if dying:
        notes.append(f"Constants that become 0 without harm to the outputs: {_shortened(dying)}.")
    return notes


def _shortened(names: Sequence[str], count: int = 5) -> str:
    rest = len(names) - count
    return ", ".join(names[:count]) + (f" and {rest} more" if rest > 0 else "")
