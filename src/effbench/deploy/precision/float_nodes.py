"""Which operators of a quantized graph go back to float: the noisiest first, as few as hold the noise of all down.

The noise that each makes at the outputs is taken from derivatives (`precision.noise`), or, of a graph that they cannot
be had of, from runs with that operator alone quantized. As noise of different operators is nearly independent, the
order holds for all of them together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING

from effbench.deploy import Array
from effbench.deploy.artifact import fidelity
from effbench.deploy.graph import onnx_file
from effbench.deploy.graph.run_ort import runner
from effbench.deploy.precision.mix import mixed, quantized
from effbench.deploy.precision.quantize import to_int8
from effbench.errors import ConversionError

if TYPE_CHECKING:
    from onnx import ModelProto

MARGIN_DB = 2.0
"""Less noise on calibration images than others should have on any target: images differ, and a runtime that rounds
here and there to the next level costs up to a dB."""
TARGET_DB = 20.0 + MARGIN_DB
"""Of signal to quantization noise on the worst set of images."""
LEAST_COSINE = 1 - (1 - fidelity.LIMITS["int8"]["cosine"]) * 10 ** (-MARGIN_DB / 10)
"""Of each image; what it lacks of 1 goes with the power of the noise."""
SETS = 8
"""Of as many images as a check takes. Noise differs by several dB from set to set, and one mean hides the worst."""
LARGEST_SHARE = 0.5
"""Of the multiply-accumulates; with more of them in float it is no int8 artifact any more."""
WORTH_PCT = 10.0
"""Of the work. The order by noise alone keeps better what it promises on other images: on the worst of five sets of
them regla_m had 18.7 dB, by noise for work 15.6."""
WORTH_DB = 0.5
"""On calibration images; less than that is chance on others."""
MUCH_PCT = 25.0
"""Of the work: with more of it in float, other ranges are worth the seconds that they take."""


@dataclass(frozen=True)
class Relief:
    """A quantized graph, the nodes that went back to float (first outputs), and what that did on the images.

    ``share_pct`` is their share of the multiply-accumulates that int8 could take; ``before_db`` and ``after_db`` are of
    the worst of ``sets`` sets of images; ``quiet`` is whether that suffices. ``clipped`` is what ranges of least
    error gave, where activations have the range of their largest value (`to_int8`) instead.
    """

    model: ModelProto
    floats: tuple[str, ...]
    quantizable: int
    share_pct: float
    before_db: float
    after_db: float
    quiet: bool = True
    sets: int = 1
    clipped: Relief | None = None

    def notes(self) -> tuple[str, ...]:
        """Return a sentence on what was taken back and one on the ranges, each where there is something to say."""
        return (*self._about_floats(), *self._about_ranges())

    def _about_floats(self) -> Iterator[str]:
        where = f"the worst of {self.sets} sets of calibration images" if self.sets > 1 else "calibration images"
        if self.floats:
            yield (
                f"{len(self.floats)} of {self.quantizable} operators ({self.share_pct:.0f} % of the work) stay in "
                f"float: {self.before_db:.1f} dB without them, {self.after_db:.1f} dB with them, on {where}"
            )

    def _about_ranges(self) -> Iterator[str]:
        if self.clipped is not None:
            yield (
                "ranges from the extremes of all calibration images; those of least error have "
                f"{self.clipped.after_db:.1f} dB with {self.clipped.share_pct:.0f} % of the work in float"
            )


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
    wide = replace(relieve(model, to_int8(model, batches, extremes=True), batches), clipped=found)
    if not (found.quiet and wide.quiet):
        return max(found, wide, key=lambda one: (one.quiet, one.after_db))
    saved_pct, gained_db = found.share_pct - wide.share_pct, wide.after_db - found.after_db
    better = saved_pct >= WORTH_PCT or (gained_db >= WORTH_DB and saved_pct > -WORTH_PCT)
    return wide if better else found


def relieve(model: ModelProto, int8: ModelProto, batches: Sequence[Mapping[str, Array]]) -> Relief:
    """Take operators back to float until noise is down on every set of images and all outputs point the right way.

    Down is by `TARGET_DB`, right is a cosine of `LEAST_COSINE`. Operators are tried in the order of their noise, and in
    that of their noise for the work they do, which is taken where it keeps less work in float by `WORTH_PCT`. Where
    both take more than `LARGEST_SHARE` of the work, what was best within it is returned.

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
    judge = _Judge(model, batches, size)
    before = judge.figures(int8)
    unchanged = Relief(int8, (), len(names), 0.0, before["snr_db"], before["snr_db"], _quiet(before), judge.count)
    if unchanged.quiet:
        return unchanged
    if len(batches) * size < 2:  # a single image has no spread to judge by
        return replace(unchanged, quiet=True)
    powers = _powers(model, int8, names, judge.worst(int8))
    macs = onnx_file.macs_by_node(model)
    total = max(sum(macs.get(name, 0) for name in names), 1)

    def tried(floats: Sequence[str], in_full: bool) -> Relief:
        if not floats:
            return unchanged
        made = mixed(model, int8, floats)
        figures = judge.figures(made, in_full)
        share = 100 * sum(macs.get(name, 0) for name in floats) / total
        now, quiet = figures["snr_db"], _quiet(figures)
        return replace(unchanged, model=made, floats=tuple(floats), share_pct=share, after_db=now, quiet=quiet)

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


class _Judge:
    """Judges quantized graphs by the worst of several sets of images, each of as many as a check takes.

    ``count`` is how many sets there are: one of all the images, where they are too few for two.
    """

    def __init__(self, model: ModelProto, batches: Sequence[Mapping[str, Array]], size: int) -> None:
        """Run the exact graph on all sets; ``size`` is the number of images in a batch."""
        each = -(-fidelity.NATURAL // size)
        starts = range(0, min(SETS, len(batches) // each) * each, each)
        run = runner(model)
        sets = [batches[start : start + each] for start in starts] if len(starts) > 1 else [batches]
        self._sets = [(fidelity.run_all(run, some), some) for some in sets]
        self.count = len(self._sets)

    def figures(self, made: ModelProto, in_full: bool = True) -> dict[str, float]:
        """Return the worst figures over the sets; not in full, over those up to the first that does not do.

        That one is asked first the next time.
        """
        run, found = runner(made), []
        for place, (expected, some) in enumerate(self._sets):
            found.append(_figures(expected, fidelity.run_all(run, some)))
            if not in_full and not _quiet(found[-1]):
                self._sets.insert(0, self._sets.pop(place))
                break
        return {name: min(one[name] for one in found) for name in ("snr_db", "cosine")}

    def worst(self, made: ModelProto) -> Sequence[Mapping[str, Array]]:
        """Return the set on which a graph is farthest from doing."""
        run = runner(made)
        return min(self._sets, key=lambda one: _margin_db(_figures(one[0], fidelity.run_all(run, one[1]))))[1]


def _margin_db(figures: Mapping[str, float]) -> float:
    """Return by how much less noise a graph would still do, or by how much more it has where negative."""
    apart = max(1 - figures["cosine"], 1e-12) / (1 - LEAST_COSINE)
    return min(figures["snr_db"] - TARGET_DB, -10 * math.log10(apart))


def _quiet(figures: Mapping[str, float]) -> bool:
    return figures["snr_db"] >= TARGET_DB and figures["cosine"] >= LEAST_COSINE


def _shortest(order: Sequence[str], macs: Sequence[int], tried: Callable[[Sequence[str], bool], Relief]) -> Relief:
    """Return the shortest start of an order that suffices, or the best of five within `LARGEST_SHARE`."""
    work = [0, *accumulate(macs)]
    low, high = 0, max(count for count, done in enumerate(work) if done <= LARGEST_SHARE * work[-1])
    best = tried(order[:high], False)
    if not best.quiet:
        # More in float is not always better: a sum in float over one in int8 may divide by nothing.
        return max((tried(order[: high * part // 4], True) for part in range(5)), key=lambda one: one.after_db)
    while high - low > 1:
        middle = (low + high) // 2
        now = tried(order[:middle], False)
        low, high, best = (low, middle, now) if now.quiet else (middle, high, best)
    return best


def _powers(
    model: ModelProto, int8: ModelProto, names: Sequence[str], batches: Sequence[Mapping[str, Array]]
) -> dict[str, float]:
    """Return the power of the noise that each quantized operator makes at the outputs."""
    from effbench.deploy.precision.noise import noise

    try:
        found = noise(model, int8, batches)
        return {name: found.get(name, 0.0) for name in names}
    except ConversionError:  # an operator that the interpreter does not know
        exact = fidelity.run_all(runner(model), batches)
        alone = ((name, runner(mixed(model, int8, {*names} - {name}))) for name in names)
        return {name: 10 ** (-signal_to_noise_db(exact, fidelity.run_all(run, batches)) / 10) for name, run in alone}


def signal_to_noise_db(expected: Mapping[str, Array], found: Mapping[str, Array]) -> float:
    """Return the signal to noise ratio of outputs by name, shape (B, ...), the lowest over them.

    The signal is what is left after the mean over the images is taken off: a constant says nothing. Nothing of it is
    left where a result is not finite.
    """
    return _figures(expected, found)["snr_db"]


def _figures(expected: Mapping[str, Array], found: Mapping[str, Array]) -> dict[str, float]:
    figures = fidelity.compare(expected, found, len(next(iter(found.values()))))
    return {name: value if math.isfinite(value) else -math.inf for name, value in figures.items()}
