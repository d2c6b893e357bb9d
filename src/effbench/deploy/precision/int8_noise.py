"""Which operators of a quantized graph stay in float: the noisiest ones, as few as keep the noise of all low.

The noise that each operator makes at the outputs comes from derivatives (`precision.noise`). If the interpreter cannot
differentiate the graph, it comes from one run per operator with that operator alone quantized. The noise of different
operators is nearly independent, so one order serves every prefix (`float_nodes.shortest_prefix`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np

from effbench.deploy import Array
from effbench.deploy.artifact import fidelity
from effbench.deploy.artifact.judge import compare
from effbench.deploy.artifact.limits import LIMITS
from effbench.deploy.graph import onnx_file
from effbench.deploy.graph.run_ort import runner
from effbench.deploy.precision.float_nodes import shortest_prefix
from effbench.deploy.precision.mix import mixed, quantized
from effbench.deploy.precision.quantize import to_int8
from effbench.errors import ConversionError

if TYPE_CHECKING:
    from onnx import ModelProto

MARGIN_DB = 2.0
"""How much lower the noise on calibration images must be than the limit on other images and targets: images differ,
and a runtime that rounds some values to the next level costs up to a dB."""
TARGET_DB = 20.0 + MARGIN_DB
"""Signal to quantization noise on the worst set of images."""
LEAST_COSINE = 1 - (1 - LIMITS["int8"]["cosine"]) * 10 ** (-MARGIN_DB / 10)
"""Of each image; 1 - cosine is proportional to the power of the noise."""
SETS = 8
"""Sets of calibration images, each as large as that of a fidelity check. Noise differs by several dB from set to set,
and one mean hides the worst."""
LARGEST_SHARE = 0.5
"""Of the multiply-accumulates; with more of them in float the artifact is hardly int8 any more."""
WORTH_PCT = 10.0
"""Of the work. The order by noise alone generalizes better to other images: on the worst of five sets of them regla_m
had 18.7 dB, by noise per work 15.6."""
WORTH_DB = 0.5
"""On calibration images; a smaller difference does not carry over to others."""
MUCH_PCT = 25.0
"""Of the work: with more of it in float, other ranges are worth the seconds that they take."""


@dataclass(frozen=True)
class FloatNodesResult:
    """A quantized graph with some nodes in float, named by first output, and its noise on calibration images.

    ``share_pct`` is their share of the multiply-accumulates that int8 could take. ``before_db`` (all in int8) and
    ``after_db`` are the signal to noise on the worst of ``sets`` sets of images; ``holds`` tells whether the latter
    suffices. ``clipping`` is the result with ranges of least squared error, if this one has the extremes as ranges.
    """

    model: ModelProto
    float_nodes: tuple[str, ...]
    quantizable: int
    share_pct: float
    before_db: float
    after_db: float
    holds: bool = True
    sets: int = 1
    clipping: FloatNodesResult | None = None

    def notes(self) -> tuple[str, ...]:
        """Return a sentence on the nodes in float, if there are some, and one on the ranges, if they are unusual."""
        return (*self._about_float_nodes(), *self._about_ranges())

    def _about_float_nodes(self) -> Iterator[str]:
        images = f"the worst of {self.sets} sets of calibration images" if self.sets > 1 else "calibration images"
        if self.float_nodes:
            yield (
                f"{len(self.float_nodes)} of {self.quantizable} operators ({self.share_pct:.0f} % of the work) stay in "
                f"float: {self.before_db:.1f} dB without them, {self.after_db:.1f} dB with them, on {images}"
            )

    def _about_ranges(self) -> Iterator[str]:
        if self.clipping is not None:
            yield (
                "ranges from the extremes of all calibration images; those of least error have "
                f"{self.clipping.after_db:.1f} dB with {self.clipping.share_pct:.0f} % of the work in float"
            )


def to_mixed_int8(model: ModelProto, batches: Sequence[Mapping[str, Array]]) -> FloatNodesResult:
    """Return the model in int8 with its noisiest operators in float (`choose_float_nodes`).

    If more than `MUCH_PCT` of the work would be in float, the ranges may clip values that matter. Then the extremes are
    tried as ranges too. They are chosen if they alone hold the limits, save `WORTH_PCT` of the work, or bring
    `WORTH_DB` more.

    Args:
        model: The fp32 graph, static shape.
        batches: Preprocessed calibration inputs.

    Raises:
        UsageError: There are no calibration batches.
        MissingDependencyError: NNCF or onnxruntime is not installed.
        ConversionError: NNCF refuses the graph.
    """
    clipping = choose_float_nodes(model, to_int8(model, batches), batches)
    if clipping.holds and clipping.share_pct <= MUCH_PCT:
        return clipping
    extremes = choose_float_nodes(model, to_int8(model, batches, extremes=True), batches)
    return better_ranges(clipping, replace(extremes, clipping=clipping))


def better_ranges(clipping: FloatNodesResult, extremes: FloatNodesResult) -> FloatNodesResult:
    """Return the better of two results: with ranges of least squared error, and with the extremes as ranges."""
    if not (clipping.holds and extremes.holds):
        return max(clipping, extremes, key=lambda result: (result.holds, result.after_db))
    saved_pct, gained_db = clipping.share_pct - extremes.share_pct, extremes.after_db - clipping.after_db
    better = saved_pct >= WORTH_PCT or (gained_db >= WORTH_DB and saved_pct > -WORTH_PCT)
    return extremes if better else clipping


def choose_float_nodes(model: ModelProto, int8: ModelProto, batches: Sequence[Mapping[str, Array]]) -> FloatNodesResult:
    """Put operators back in float until the noise holds its limits on every set of images.

    The limits are `TARGET_DB` and a cosine of `LEAST_COSINE`. Operators are ordered by noise, and by noise per work;
    the second order is chosen if it keeps `WORTH_PCT` less work in float. If both need more than `LARGEST_SHARE` of
    the work, the result is the best prefix within it.

    Args:
        model: The fp32 graph, static shape.
        int8: The same graph, quantized.
        batches: Preprocessed calibration inputs.

    Raises:
        MissingDependencyError: onnxruntime is not installed.
        ConversionError: The two are not the same graph.
    """
    size = len(next(iter(batches[0].values())))
    names = quantized(int8)
    judge = _NoiseJudge(model, batches, size)
    before = judge.figures(int8)
    all_int8 = FloatNodesResult(
        int8, (), len(names), 0.0, before["snr_db"], before["snr_db"], _holds(before), judge.count
    )
    if all_int8.holds:
        return all_int8
    if len(batches) * size < 2:  # a single image has no spread to judge by
        return replace(all_int8, holds=True)
    powers = _noise_powers(model, int8, names, judge.worst(int8))
    macs = onnx_file.macs_by_node(model)
    prefixes = _Prefixes(model, all_int8, judge, {name: macs.get(name, 0) for name in names})
    by_noise = prefixes.shortest(sorted(names, key=powers.__getitem__, reverse=True))
    if by_noise.holds and by_noise.share_pct < WORTH_PCT:
        return by_noise
    per_work = {name: power / max(macs.get(name, 0), 1) for name, power in powers.items()}
    by_work = prefixes.shortest(sorted(names, key=per_work.__getitem__, reverse=True))
    if by_noise.holds:
        return by_work if by_work.holds and by_work.share_pct <= by_noise.share_pct - WORTH_PCT else by_noise
    return by_work if by_work.holds else max(by_noise, by_work, key=lambda result: result.after_db)


class _NoiseJudge:
    """Judges quantized graphs by the worst of several sets of images, each as large as that of a fidelity check.

    ``count`` is the number of sets. If the images are too few for two sets, one set holds all of them.
    """

    def __init__(self, model: ModelProto, batches: Sequence[Mapping[str, Array]], size: int) -> None:
        """Run the exact graph on all sets; ``size`` is the number of images in a batch."""
        each = -(-fidelity.NATURAL // size)
        starts = range(0, min(SETS, len(batches) // each) * each, each)
        run = runner(model)
        sets = [batches[start : start + each] for start in starts] if len(starts) > 1 else [batches]
        self._sets = [(fidelity.run_all(run, feeds), feeds) for feeds in sets]
        self.count = len(self._sets)

    def figures(self, candidate: ModelProto, all_sets: bool = True) -> dict[str, float]:
        """Return the worst figures over all sets, or over those up to the first that does not hold.

        The set that did not hold is judged first the next time.
        """
        run, by_set = runner(candidate), []
        for index, (expected, feeds) in enumerate(self._sets):
            by_set.append(_figures(expected, fidelity.run_all(run, feeds)))
            if not all_sets and not _holds(by_set[-1]):
                self._sets.insert(0, self._sets.pop(index))
                break
        return {name: min(figures[name] for figures in by_set) for name in ("snr_db", "cosine")}

    def worst(self, candidate: ModelProto) -> Sequence[Mapping[str, Array]]:
        """Return the set on which a graph misses its limits by most."""
        run = runner(candidate)
        return min(self._sets, key=lambda item: _margin_db(_figures(item[0], fidelity.run_all(run, item[1]))))[1]


class _Prefixes:
    """Graphs with a prefix of the quantized operators in float, and their noise."""

    def __init__(
        self, model: ModelProto, all_int8: FloatNodesResult, judge: _NoiseJudge, macs: Mapping[str, int]
    ) -> None:
        self._model, self._all_int8, self._judge, self._macs = model, all_int8, judge, macs
        self._total = max(sum(macs.values()), 1)

    def shortest(self, order: Sequence[str]) -> FloatNodesResult:
        """Return the shortest prefix of an order that holds, or the best of five within `LARGEST_SHARE`."""
        work = [0, *accumulate(self._macs[name] for name in order)]
        longest = max(length for length, macs in enumerate(work) if macs <= LARGEST_SHARE * work[-1])
        results: dict[int, FloatNodesResult] = {}

        def holds(length: int) -> bool:
            results[length] = self._judged(order[:length], all_sets=False)
            return results[length].holds

        # If the longest does not hold, no shorter one needs to be judged.
        length = shortest_prefix(range(1, longest + 1), holds, first=longest - 1)
        if length is not None:
            return results[length]
        # More in float is not always better: a sum in float over one in int8 may divide by zero.
        parts = (self._judged(order[: longest * part // 4], all_sets=True) for part in range(5))
        return max(parts, key=lambda result: result.after_db)

    def _judged(self, prefix: Sequence[str], all_sets: bool) -> FloatNodesResult:
        if not prefix:
            return self._all_int8
        graph = mixed(self._model, self._all_int8.model, prefix)
        figures = self._judge.figures(graph, all_sets)
        return replace(
            self._all_int8,
            model=graph,
            float_nodes=tuple(prefix),
            share_pct=100 * sum(self._macs[name] for name in prefix) / self._total,
            after_db=figures["snr_db"],
            holds=_holds(figures),
        )


def _margin_db(figures: Mapping[str, float]) -> float:
    """Return how much more noise a graph could have within its limits; negative if it misses them."""
    angle = max(1 - figures["cosine"], 1e-12) / (1 - LEAST_COSINE)
    return min(figures["snr_db"] - TARGET_DB, -10 * math.log10(angle))


def _holds(figures: Mapping[str, float]) -> bool:
    return figures["snr_db"] >= TARGET_DB and figures["cosine"] >= LEAST_COSINE


def _noise_powers(
    model: ModelProto, int8: ModelProto, names: Sequence[str], batches: Sequence[Mapping[str, Array]]
) -> dict[str, float]:
    """Return the power of the noise that each quantized operator makes at the outputs."""
    from effbench.deploy.precision import noise

    try:
        powers = noise.quantization_noise(model, int8, batches)
        return {name: powers.get(name, 0.0) for name in names}
    except ConversionError:  # an operator that the interpreter does not know
        exact = fidelity.run_all(runner(model), batches)
        alone = ((name, runner(mixed(model, int8, {*names} - {name}))) for name in names)
        return {name: 10 ** (-signal_to_noise_db(exact, fidelity.run_all(run, batches)) / 10) for name, run in alone}


def signal_to_noise_db(expected: Mapping[str, Array], outputs: Mapping[str, Array]) -> float:
    """Return the lowest signal to noise ratio over outputs by name, shape (B, ...).

    The signal is the output less its mean over the images: a constant carries no information. The ratio is minus
    infinity if a result is not finite.
    """
    return _figures(expected, outputs)["snr_db"]


def _figures(expected: Mapping[str, Array], outputs: Mapping[str, Array]) -> dict[str, float]:
    figures = compare(expected, outputs, len(next(iter(outputs.values()))))
    if not all(np.isfinite(value).all() for value in outputs.values()):
        return dict.fromkeys(figures, -math.inf)
    return {name: value if math.isfinite(value) else -math.inf for name, value in figures.items()}
