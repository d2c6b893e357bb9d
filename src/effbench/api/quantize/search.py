"""The search for a mix within a bound: the most int8 that keeps the drop of accuracy, with few evaluations.

Every candidate is an artifact and every prediction is in the store, so a stopped search resumes where it was.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from effbench import deploy
from effbench.api.compare.rounds import RoundSettings, run_round
from effbench.api.evaluate.session import EvaluationRun
from effbench.api.export.stage import Notify
from effbench.api.quantize.sensitivity import SENSITIVITY_IMAGES, Sensitivity, sensitivities, worst_blocks
from effbench.data import Dataset
from effbench.deploy.precision.float_nodes import shortest_prefix
from effbench.deploy.precision.mix import Mix
from effbench.errors import EffbenchError, UsageError
from effbench.profiles.paired import log_ratios
from effbench.schema import Artifact, Predictions
from effbench.statistics.proportions import drop_upper_bound, min_images

SEARCH_SHARE = 1 / 3
"""Of the images, those that the search may use; the bound is judged on the others, which are held out."""
ROUNDS = 3
"""Paired rounds for each latency ratio that is reported."""
FASTER = 0.97
"""fp16 becomes the float type of the mix if its paired latency ratio to fp32 is below this."""


@dataclass(frozen=True)
class Trial:
    """One candidate on some images: ``lost`` were right in fp32 and are wrong in the candidate, ``won`` vice versa.

    Without labels ``lost`` counts the images whose class differs from fp32; the drop cannot be larger.
    ``float_blocks`` of ``blocks`` are in float.
    """

    float_blocks: int
    blocks: int
    stage: str
    images: int
    lost: int
    won: int
    drop_pct: float
    limit_pct: float

    def text(self) -> str:
        """Return the trial as a line of text."""
        return (
            f"{self.stage}: {self.blocks - self.float_blocks} of {self.blocks} blocks in int8: lost {self.lost}, won "
            f"{self.won} of {self.images}, drop {self.drop_pct:.2f} points, 95 % limit {self.limit_pct:.2f}"
        )


@dataclass(frozen=True)
class SearchOutcome:
    """How a search ended; ``mix`` is None if the bound was missed."""

    mix: Mix | None
    trials: tuple[Trial, ...]
    notes: tuple[str, ...]


class Maker(Protocol):
    """Makes the artifacts of a search, by precision or as a mix; what exists is reused."""

    def plain(self, precision: str) -> Artifact:
        """Return the artifact in one precision for the target of the search."""

    def graphs(self) -> tuple[Artifact, Artifact]:
        """Return the graph in fp32 and in int8."""

    def mixed(self, mix: Mix) -> Artifact:
        """Return the artifact of a mix for the target of the search."""


def check(data: Dataset, max_drop_pct: float) -> tuple[list[int], list[int]]:
    """Divide the images, by index, into those of the search and those held out, or refuse the bound.

    Raises:
        UsageError: The bound is not between 0 and 100, or so few images cannot resolve it.
    """
    if not 0 < max_drop_pct < 100:
        raise UsageError(f"--max-drop {max_drop_pct:g} is no number of points.", hint="Give one between 0 and 100.")
    order = [int(value) for value in np.random.default_rng(0).permutation(len(data.items))]
    count = math.floor(len(order) * SEARCH_SHARE)
    needed = min_images(max_drop_pct / 100)
    if len(order) - count < needed:
        total = math.ceil(needed / (1 - SEARCH_SHARE))
        raise UsageError(
            f"{len(order)} images cannot resolve a drop of {max_drop_pct:g} points: even without a single loss the "
            f"95 % limit would be larger.",
            hint=f"Give {total} images or more, or a larger --max-drop.",
        )
    return order[:count], order[count:]


def search(maker: Maker, call: EvaluationRun, max_drop_pct: float) -> SearchOutcome:
    """Find the mix with the most int8 that keeps the bound.

    Args:
        maker: Makes candidates.
        call: Evaluates them and keeps the predictions; its `notify` is called with one line per step.
        max_drop_pct: The bound in points.
    """
    search_images, held_out = check(call.data, max_drop_pct)
    graph, int8 = maker.graphs()
    blocks = sensitivities(graph, int8, search_images[:SENSITIVITY_IMAGES], call)
    float_type, reason = _float_type(maker, call.notify)
    notes = [worst_blocks(blocks), reason]
    # The most harm for the work that int8 would save comes first.
    order = sorted(blocks, key=lambda block: -block.divergence / max(block.macs, 1))
    judge = _AccuracyJudge(maker, call, order, float_type, max_drop_pct, len(held_out))
    # All in int8 first: often that is good enough. All in float is not a candidate.
    length = shortest_prefix(range(len(order)), lambda length: judge.holds(length, search_images), first=0)
    if length is None:
        notes.append("even one block in int8 breaks the bound: use the float artifact")
        return SearchOutcome(None, tuple(judge.trials), tuple(notes))
    confirmed = judge.confirmed(length, held_out)
    if confirmed is None:
        notes.append(_missed(judge.trials[-1], max_drop_pct))
        return SearchOutcome(None, tuple(judge.trials), tuple(notes))
    mix = judge.mix(confirmed)
    notes += _latency(maker, mix, float_type, call.notify)
    return SearchOutcome(mix, tuple(judge.trials), tuple(notes))


class _AccuracyJudge:
    """Judges candidates by their drop of accuracy: a prefix of the blocks in float, the others in int8.

    ``held_out`` is the number of images that the bound is judged on in the end.
    """

    def __init__(
        self,
        maker: Maker,
        call: EvaluationRun,
        order: Sequence[Sensitivity],
        float_type: str,
        max_drop_pct: float,
        held_out: int,
    ) -> None:
        self.maker, self.call, self.order, self.float_type = maker, call, order, float_type
        self.bound, self.held_out = max_drop_pct / 100, held_out
        self.trials: list[Trial] = []

    def mix(self, length: int) -> Mix:
        """Return the candidate with that prefix in float."""
        nodes = tuple(sorted(name for block in self.order[:length] for name in block.nodes))
        count, kind = len(self.order), self.float_type
        return Mix(nodes, kind, f"mix: {count - length} of {count} blocks in int8, the rest in {kind}")

    def holds(self, length: int, images: Sequence[int]) -> bool:
        """Tell whether a candidate should keep the bound on the held-out images, by its rates on some images."""
        trial = self._try(length, images, "search")
        scale = self.held_out / trial.images
        expected = drop_upper_bound(math.ceil(trial.lost * scale), math.floor(trial.won * scale), self.held_out)
        return expected <= self.bound

    def confirmed(self, length: int, images: Sequence[int]) -> int | None:
        """Return the shortest prefix whose limit on held-out images keeps the bound: this one, one longer, or None.

        A fixed sequence, the safer candidate first: each is judged at the full level, and the first miss ends it.
        """
        confirmed = None
        for candidate in dict.fromkeys((min(length + 1, len(self.order) - 1), length)):
            if self._try(candidate, images, "judged").limit_pct > 100 * self.bound:
                break
            confirmed = candidate
        return confirmed

    def _try(self, length: int, images: Sequence[int], stage: str) -> Trial:
        reference = self.call.predictions(self.maker.plain("fp32"), images)
        predictions = self.call.predictions(self.maker.mixed(self.mix(length)), images)
        lost, won = paired(reference, predictions)
        trial = Trial(
            length,
            len(self.order),
            stage,
            len(images),
            lost,
            won,
            100 * (lost - won) / len(images),
            100 * drop_upper_bound(lost, won, len(images)),
        )
        self.trials.append(trial)
        self.call.notify(trial.text())
        return trial


def paired(reference: Predictions, predictions: Predictions) -> tuple[int, int]:
    """Return the images lost and won against the reference; without labels those that differ, and none won."""
    answers = dict(zip(predictions.images, zip(predictions.top1, predictions.ranks, strict=True), strict=True))
    lost = won = 0
    for image, reference_top1, reference_rank in zip(reference.images, reference.top1, reference.ranks, strict=True):
        top1, rank = answers[image]
        if reference_rank < 0:
            lost += reference_top1 != top1
        else:
            lost += reference_rank == 0 and rank != 0
            won += reference_rank != 0 and rank == 0
    return lost, won


def _float_type(maker: Maker, notify: Notify) -> tuple[str, str]:
    """Choose the float type of the mix, the faster one here or else the target's default, and return the reason."""
    single = maker.plain("fp32")
    target = deploy.get(single.subject.target)
    if target.measurable() is not None:
        kind = target.precision if target.precision in ("fp32", "fp16") else "fp32"
        return kind, f"float part in {kind}, the default of {target.name}: no latency can be measured here"
    try:
        half = maker.plain("fp16")
    except EffbenchError as error:
        return "fp32", f"float part in fp32: {error.message}"
    notify("is fp16 faster than fp32 here?")
    half_ratio = ratio(single, half)
    kind = "fp16" if half_ratio < FASTER else "fp32"
    return kind, f"float part in {kind}: fp16 takes {half_ratio:.2f} of the time of fp32 here ({ROUNDS} paired rounds)"


def ratio(a: Artifact, b: Artifact) -> float:
    """Return the median paired latency ratio b / a over `ROUNDS` rounds in fresh processes."""
    rounds = [log_ratios(run_round(a, b, RoundSettings(), seed)) for seed in range(ROUNDS)]
    return math.exp(float(np.median([pair.typical for pair in rounds])))


def _latency(maker: Maker, mix: Mix, float_type: str, notify: Notify) -> list[str]:
    base = maker.plain(float_type)
    target = base.subject.target
    if deploy.get(target).measurable() is not None:
        return []
    notify("paired latency of the mix")
    artifact = maker.mixed(mix)
    mix_ratio = ratio(base, artifact)
    line = f"the mix takes {mix_ratio:.2f} of the time of {float_type} on {target} here ({ROUNDS} paired rounds)"
    return [line] if mix_ratio <= 1 else [line, f"int8 is slower here: {_why_slower(artifact)}"]


def _why_slower(artifact: Artifact) -> str:
    if artifact.subject.target == "ort":
        from effbench.deploy.graph.run_ort import count_unfused

        left = count_unfused(artifact.path)
        return (
            f"ONNX Runtime runs {left['int8']} operators in int8 and leaves {left['qdq']} Q/DQ nodes between them "
            f"that did not fuse"
        )
    return "see `effbench verify` for the precision of each layer"


def _missed(trial: Trial, max_drop_pct: float) -> str:
    text = f"missed: the 95 % limit of the drop is {trial.limit_pct:.2f} points, the bound {max_drop_pct:g}"
    if trial.drop_pct >= max_drop_pct:
        return text
    return f"{text}; at these rates it would take about {_enough(trial, max_drop_pct / 100)} images to judge with"


def _enough(trial: Trial, bound: float) -> int:
    """Return how many images would settle the bound at the observed rates of losses and wins."""
    scale = 2
    while scale < 1e4 and drop_upper_bound(trial.lost * scale, trial.won * scale, trial.images * scale) > bound:
        scale *= 2
    return trial.images * scale
