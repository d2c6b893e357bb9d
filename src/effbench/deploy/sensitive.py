"""Which operators of a quantized graph go back to float: the noisiest first, as few as hold the noise of all down.

The noise that each makes at the outputs is taken from derivatives (`effbench.deploy.adjoint`), or, of a graph that they
cannot be had of, from runs with that operator alone quantized. As noise of different operators is nearly independent,
the order holds for all of them together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING

from effbench.deploy import Array, fidelity, onnx_file
from effbench.deploy.mix import mixed, quantized
from effbench.deploy.quantize import to_int8
from effbench.errors import ConversionError, MissingDependencyError

if TYPE_CHECKING:
    from onnx import ModelProto

TARGET_DB = 22.0
"""Of signal to quantization noise on calibration pictures: two over the 20 that any others should have."""
LARGEST_SHARE = 0.5
"""Of the multiply-accumulates; with more of them in float it is no int8 artifact any more."""
WORTH_PCT = 10.0
"""Of the work. The order by noise alone keeps better what it promises on other pictures: on the worst of five sets of
them regla_m had 18.7 dB, by noise for work 15.6."""
WORTH_DB = 0.5
"""On calibration pictures; less than that is chance on others."""
MUCH_PCT = 25.0
"""Of the work: with more of it in float, other ranges are worth the seconds that they take."""
PICTURES, PICTURES_FOR_ORDER = 24, 6
"""How many pictures the noise of a whole graph is measured on, and that of each operator."""


@dataclass(frozen=True)
class Relief:
    """A quantized graph, the nodes that went back to float (first outputs), and what that did on the pictures.

    ``share_pct`` is their share of the multiply-accumulates that int8 could take; ``quiet`` whether that suffices;
    ``extremes`` whether activations have the range of their largest value (`to_int8`).
    """

    model: ModelProto
    floats: tuple[str, ...]
    quantizable: int
    share_pct: float
    before_db: float
    after_db: float
    quiet: bool = True
    extremes: bool = False

    def notes(self) -> tuple[str, ...]:
        """Return a sentence on what was taken back and one on the ranges, each where there is something to say."""
        floats = (
            f"{len(self.floats)} of {self.quantizable} operators ({self.share_pct:.0f} % of the work) stay in float: "
            f"{self.before_db:.1f} dB without them, {self.after_db:.1f} dB with them, on calibration pictures"
        )
        ranges = "ranges from the extremes of all calibration pictures, for those of least error leave more noise"
        return (*((floats,) if self.floats else ()), *((ranges,) if self.extremes else ()))


def runner(model: ModelProto) -> fidelity.Run:
    """Return a run of a graph in memory, on one thread of the CPU.

    Raises:
        MissingDependencyError: onnxruntime is not installed.
    """
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise MissingDependencyError("A search over mixed graphs", "onnxruntime", "ort") from error
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda feeds: dict(zip(names, session.run(names, dict(feeds)), strict=True))


def quantize(model: ModelProto, batches: Sequence[Mapping[str, Array]]) -> Relief:
    """Return the model in int8 with its noisiest operators in float (`relieve`).

    Where more than `MUCH_PCT` of the work would be in float, the ranges may clip what matters. Then the extremes are
    tried as ranges too, and taken where they alone hold the noise down, save `WORTH_PCT` of the work, or bring
    `WORTH_DB` more.

    Args:
        model: The fp32 graph, static shape.
        batches: Preprocessed calibration inputs.

    Raises:
        UsageError: There are no calibration batches.
        MissingDependencyError: NNCF or onnxruntime is not installed.
        ConversionError: NNCF refuses the graph.
    """
    found = relieve(model, to_int8(model, batches), batches)
    if found.quiet and found.share_pct <= MUCH_PCT:
        return found
    wide = replace(relieve(model, to_int8(model, batches, extremes=True), batches), extremes=True)
    if not (found.quiet and wide.quiet):
        return max(found, wide, key=lambda one: (one.quiet, one.after_db))
    saved_pct, gained_db = found.share_pct - wide.share_pct, wide.after_db - found.after_db
    better = saved_pct >= WORTH_PCT or (gained_db >= WORTH_DB and saved_pct > -WORTH_PCT)
    return wide if better else found


def relieve(model: ModelProto, int8: ModelProto, batches: Sequence[Mapping[str, Array]]) -> Relief:
    """Take operators back to float until the noise is `TARGET_DB` down and every picture's outputs point the right way.

    They are tried in the order of their noise, and in that of their noise for the work they do, which is taken where it
    keeps less work in float by `WORTH_PCT`. Where both take more than `LARGEST_SHARE` of the work, what was best within
    it is returned.

    Args:
        model: The fp32 graph, static shape.
        int8: The same graph, quantized.
        batches: Preprocessed calibration inputs.

    Raises:
        MissingDependencyError: onnxruntime is not installed.
        ConversionError: The two are not the same graph.
    """
    size = len(next(iter(batches[0].values())))
    batches, few = batches[: -(-PICTURES // size)], batches[: max(1, PICTURES_FOR_ORDER // size)]
    names = quantized(int8)
    expected = _run(model, batches)
    before = _figures(expected, int8, batches)
    if _quiet(before) or len(batches) * size < 2:  # a single picture has no spread to judge by
        return Relief(int8, (), len(names), 0.0, before["snr_db"], before["snr_db"])
    powers = _powers(model, int8, names, few)
    macs = onnx_file.macs_by_node(model)
    total = max(sum(macs.get(name, 0) for name in names), 1)

    def tried(floats: Sequence[str]) -> Relief:
        made = mixed(model, int8, floats) if floats else int8
        figures = _figures(expected, made, batches) if floats else before
        share = 100 * sum(macs.get(name, 0) for name in floats) / total
        quiet = _quiet(figures)
        return Relief(made, tuple(floats), len(names), share, before["snr_db"], figures["snr_db"], quiet)

    def shortest(order: Sequence[str]) -> Relief:
        return _shortest(order, [macs.get(name, 0) for name in order], tried)

    by_noise = shortest(sorted(names, key=powers.__getitem__, reverse=True))
    if by_noise.quiet and by_noise.share_pct < WORTH_PCT:
        return by_noise
    for_work = {name: power / max(macs.get(name, 0), 1) for name, power in powers.items()}
    by_work = shortest(sorted(names, key=for_work.__getitem__, reverse=True))
    if by_noise.quiet:
        return by_work if by_work.quiet and by_work.share_pct <= by_noise.share_pct - WORTH_PCT else by_noise
    return by_work if by_work.quiet else max(by_noise, by_work, key=lambda one: one.after_db)


def _shortest(order: Sequence[str], macs: Sequence[int], tried: Callable[[Sequence[str]], Relief]) -> Relief:
    """Return the shortest start of an order that suffices, or the best of five within `LARGEST_SHARE`."""
    work = [0, *accumulate(macs)]
    low, high = 0, max(count for count, done in enumerate(work) if done <= LARGEST_SHARE * work[-1])
    best = tried(order[:high])
    if not best.quiet:
        # More in float is not always better: a sum in float over one in int8 may divide by nothing.
        return max((best, *(tried(order[: high * part // 4]) for part in range(4))), key=lambda one: one.after_db)
    while high - low > 1:
        middle = (low + high) // 2
        now = tried(order[:middle])
        low, high, best = (low, middle, now) if now.quiet else (middle, high, best)
    return best


def _powers(
    model: ModelProto, int8: ModelProto, names: Sequence[str], batches: Sequence[Mapping[str, Array]]
) -> dict[str, float]:
    """Return the power of the noise that each quantized operator makes at the outputs."""
    from effbench.deploy.adjoint import noise

    try:
        found = noise(model, int8, batches)
        return {name: found.get(name, 0.0) for name in names}
    except ConversionError:  # an operator that the interpreter does not know
        signal = _run(model, batches)
        alone = {name: _figures(signal, mixed(model, int8, {*names} - {name}), batches)["snr_db"] for name in names}
        return {name: 10 ** (-decibels / 10) for name, decibels in alone.items()}


def signal_to_noise_db(expected: Mapping[str, Array], found: Mapping[str, Array]) -> float:
    """Return the signal to noise ratio of outputs by name, shape (B, ...), the lowest over them.

    The signal is what is left after the mean over the pictures is taken off: a constant says nothing.
    """
    return fidelity.compare(expected, found, len(next(iter(found.values()))))["snr_db"]


def _quiet(figures: Mapping[str, float]) -> bool:
    return figures["snr_db"] >= TARGET_DB and figures["cosine"] >= fidelity.LIMITS["int8"]["cosine"]


def _figures(
    expected: Mapping[str, Array], model: ModelProto, batches: Sequence[Mapping[str, Array]]
) -> dict[str, float]:
    """Compare; where a result is not finite, nothing is left of the signal."""
    found = _run(model, batches)
    figures = fidelity.compare(expected, found, len(next(iter(found.values()))))
    return {name: value if math.isfinite(value) else -math.inf for name, value in figures.items()}


def _run(model: ModelProto, batches: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    return fidelity.run_all(runner(model), batches)
