"""The search of a mix within a bound: the most int8 that keeps the drop of accuracy, found with few evaluations.

Every candidate is an artifact and every prediction is in the store, so that a stopped search goes on where it was.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from effbench import deploy, process
from effbench.api.compare.rounds import RoundSettings, run_round
from effbench.api.evaluate.session import Call
from effbench.api.export.stage import STAGE_LIMIT_S, Notify
from effbench.codec import fingerprint
from effbench.data import Dataset
from effbench.deploy.precision.mix import Mix
from effbench.errors import EffbenchError, UsageError
from effbench.profiles.paired import log_ratios
from effbench.schema import Artifact, Predictions
from effbench.statistics.proportions import drop_upper_bound, min_images

SEARCH_WORKER = "effbench.api.quantize.worker"
SENSITIVITY_IMAGES = 48
SEARCH_SHARE = 1 / 3
"""Of the images, those that the search may look at; the bound is judged on the others."""
ROUNDS = 3
"""Paired rounds for each latency ratio that is told."""
FASTER = 0.97
"""fp16 becomes the float type of the mix where its paired latency ratio to fp32 is below this."""


@dataclass(frozen=True)
class Trial:
    """One candidate on some images: ``lost`` were right in fp32 and are wrong now, ``won`` the other way round.

    Without labels ``lost`` counts the images on which it says another class than fp32; the drop cannot be larger.
    """

    floats: int
    of: int
    stage: str
    images: int
    lost: int
    won: int
    drop_pct: float
    limit_pct: float

    def text(self) -> str:
        """Return the trial in words."""
        return (
            f"{self.stage}: {self.of - self.floats} of {self.of} blocks in int8: lost {self.lost}, won {self.won} of "
            f"{self.images}, drop {self.drop_pct:.2f} points, 95 % limit {self.limit_pct:.2f}"
        )


@dataclass(frozen=True)
class Sensitivity:
    """A block, its work, and the mean divergence from fp32, in nats, that int8 in it alone brings."""

    name: str
    nodes: tuple[str, ...]
    macs: int
    divergence: float


@dataclass(frozen=True)
class Outcome:
    """How a search ended; ``mix`` is None where the bound was missed."""

    mix: Mix | None
    trials: tuple[Trial, ...]
    said: tuple[str, ...]


class Maker(Protocol):
    """Makes the artifacts of a search, by precision or as a mix; what exists is found, not made again."""

    def plain(self, precision: str) -> Artifact:
        """Return the artifact in one precision for the target of the search."""

    def graphs(self) -> tuple[Artifact, Artifact]:
        """Return the graph in fp32 and in int8."""

    def mixed(self, mix: Mix) -> Artifact:
        """Return the artifact of a mix for the target of the search."""


def check(data: Dataset, max_drop_pct: float) -> tuple[list[int], list[int]]:
    """Divide the images into those of the search and those that judge, or refuse what they cannot resolve.

    Raises:
        UsageError: The bound is not between 0 and 100, or so few images cannot resolve it.
    """
    if not 0 < max_drop_pct < 100:
        raise UsageError(f"--max-drop {max_drop_pct:g} is no number of points.", hint="Give one between 0 and 100.")
    order = [int(value) for value in np.random.default_rng(0).permutation(len(data.items))]
    first = math.floor(len(order) * SEARCH_SHARE)
    needed = min_images(max_drop_pct / 100)
    if len(order) - first < needed:
        total = math.ceil(needed / (1 - SEARCH_SHARE))
        raise UsageError(
            f"{len(order)} images cannot resolve a drop of {max_drop_pct:g} points: even without a single loss the "
            f"95 % limit would be larger.",
            hint=f"Give {total} images or more, or a larger --max-drop.",
        )
    return order[:first], order[first:]


def search(
    maker: Maker, call: Call, max_drop_pct: float, home: Path, place: Path, classes: str | None, notify: Notify
) -> Outcome:
    """Find the mix with the most int8 that keeps the bound.

    Args:
        maker: Makes candidates.
        call: Evaluates them and keeps the predictions.
        max_drop_pct: The bound in points.
        home: Where the sensitivities are kept.
        place: The data set.
        classes: Its list of classes, or None.
        notify: Called with one line per step.
    """
    looked, judges = check(call.data, max_drop_pct)
    graph, int8 = maker.graphs()
    blocks = _sensitivities(graph, int8, looked[:SENSITIVITY_IMAGES], home, place, classes, call, notify)
    said = [_sensitivity_line(blocks)]
    rest, why = _rest(maker, notify)
    said += why
    # Most harm for the work it saves first: the blocks that are worth least in int8.
    order = sorted(blocks, key=lambda one: -one.divergence / max(one.macs, 1))
    bench = _Bench(maker, call, order, rest, max_drop_pct, len(judges), notify)
    chosen = bench.fewest_floats(looked)
    if chosen is None:
        said.append("even one block in int8 breaks the bound: use the float artifact")
        return Outcome(None, tuple(bench.trials), tuple(said))
    kept = bench.judged(chosen, judges)
    if kept is None:
        said.append(_missed(bench.trials[-1], max_drop_pct))
        return Outcome(None, tuple(bench.trials), tuple(said))
    mix = bench.mix(kept)
    said += _latency(maker, mix, rest, notify)
    return Outcome(mix, tuple(bench.trials), tuple(said))


class _Bench:
    """Tries candidates: the k most harmful blocks in float, the others in int8."""

    def __init__(
        self,
        maker: Maker,
        call: Call,
        order: Sequence[Sensitivity],
        rest: str,
        max_drop_pct: float,
        judges: int,
        notify: Notify,
    ) -> None:
        self.maker, self.call, self.order, self.rest = maker, call, order, rest
        self.bound, self.judges, self.notify = max_drop_pct / 100, judges, notify
        self.trials: list[Trial] = []

    def mix(self, floats: int) -> Mix:
        """Return the candidate with so many blocks in float."""
        nodes = tuple(sorted(name for block in self.order[:floats] for name in block.nodes))
        count = len(self.order)
        return Mix(nodes, self.rest, f"mix: {count - floats} of {count} blocks in int8, the rest in {self.rest}")

    def fewest_floats(self, places: Sequence[int]) -> int | None:
        """Return the smallest number of float blocks that should pass the judges; None where not even one block can.

        Bisection, for a candidate with more blocks in float is the better one, but for luck.
        """
        low, high = -1, len(self.order)
        # All in int8 first: often that is good enough.
        next_try = 0
        while high - low > 1:
            trial = self._try(next_try, places, "search")
            scale = self.judges / trial.images
            expected = drop_upper_bound(math.ceil(trial.lost * scale), math.floor(trial.won * scale), self.judges)
            low, high = (low, next_try) if expected <= self.bound else (next_try, high)
            next_try = (low + high) // 2
        return None if high == len(self.order) else high

    def judged(self, floats: int, places: Sequence[int]) -> int | None:
        """Return the number of float blocks whose limit on fresh images keeps the bound, or None.

        A fixed sequence, the safer candidate first: each is judged at the full level, and the first miss ends it.
        """
        kept = None
        for candidate in dict.fromkeys((min(floats + 1, len(self.order) - 1), floats)):
            if self._try(candidate, places, "judged").limit_pct > 100 * self.bound:
                break
            kept = candidate
        return kept

    def _try(self, floats: int, places: Sequence[int], stage: str) -> Trial:
        reference = self.call.predictions(self.maker.plain("fp32"), places)
        found = self.call.predictions(self.maker.mixed(self.mix(floats)), places)
        lost, won = paired(reference, found)
        trial = Trial(
            floats,
            len(self.order),
            stage,
            len(places),
            lost,
            won,
            100 * (lost - won) / len(places),
            100 * drop_upper_bound(lost, won, len(places)),
        )
        self.trials.append(trial)
        self.notify(trial.text())
        return trial


def paired(reference: Predictions, found: Predictions) -> tuple[int, int]:
    """Return the images lost and won against the reference; without labels those that differ, and none won."""
    theirs = dict(zip(found.images, zip(found.top1, found.ranks, strict=True), strict=True))
    lost = won = 0
    for image, top1, rank in zip(reference.images, reference.top1, reference.ranks, strict=True):
        other, other_rank = theirs[image]
        if rank < 0:
            lost += top1 != other
        else:
            lost += rank == 0 and other_rank != 0
            won += rank != 0 and other_rank == 0
    return lost, won


def _sensitivities(
    graph: Artifact,
    int8: Artifact,
    places: Sequence[int],
    home: Path,
    data: Path,
    classes: str | None,
    call: Call,
    notify: Notify,
) -> list[Sensitivity]:
    key = fingerprint({"graph": graph.digest, "int8": int8.digest, "data": call.info.sha256, "places": list(places)})
    file = home / "searches" / f"{key[:16]}.json"
    if file.exists():
        return [Sensitivity(**{**one, "nodes": tuple(one["nodes"])}) for one in json.loads(file.read_text())]
    notify("sensitivity of each block")
    job = {
        "op": "sensitivity",
        "graph": str(graph.folder.resolve()),
        "int8": str(int8.folder.resolve()),
        "data": str(data.resolve()),
        "classes": classes,
        "places": list(places),
    }
    found = []
    for event in process.run(SEARCH_WORKER, job, time_limit_s=STAGE_LIMIT_S, limit_silence=True):
        one = {name: event[name] for name in ("name", "nodes", "macs", "divergence")}
        found.append(one)
        notify(f"block {one['name']}: {one['divergence']:.2e} nats")
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(".tmp")
    temporary.write_text(json.dumps(found))
    temporary.replace(file)
    return [Sensitivity(**{**one, "nodes": tuple(one["nodes"])}) for one in found]


def _sensitivity_line(blocks: Sequence[Sensitivity]) -> str:
    worst = sorted(blocks, key=lambda one: -one.divergence)[:3]
    shown = "; ".join(f"{one.name} {one.divergence:.2g}" for one in worst)
    return f"divergence by int8 in one block alone, in nats, the largest of {len(blocks)}: {shown}"


def _rest(maker: Maker, notify: Notify) -> tuple[str, list[str]]:
    """Choose the float type of the mix: what is faster here, else what the target takes by default."""
    single = maker.plain("fp32")
    target = deploy.get(single.subject.target)
    if target.measurable() is not None:
        rest = target.precision if target.precision in ("fp32", "fp16") else "fp32"
        return rest, [f"float part in {rest}, the default of {target.name}: no latency can be measured here"]
    try:
        half = maker.plain("fp16")
    except EffbenchError as error:
        return "fp32", [f"float part in fp32: {error.message}"]
    notify("is fp16 faster than fp32 here?")
    seen = ratio(single, half)
    rest = "fp16" if seen < FASTER else "fp32"
    return rest, [f"float part in {rest}: fp16 takes {seen:.2f} of the time of fp32 here ({ROUNDS} paired rounds)"]


def ratio(a: Artifact, b: Artifact) -> float:
    """Return the median paired latency ratio b / a over `ROUNDS` rounds in fresh processes."""
    return math.exp(
        float(np.median([log_ratios(run_round(a, b, RoundSettings(), seed)).typical for seed in range(ROUNDS)]))
    )


def _latency(maker: Maker, mix: Mix, rest: str, notify: Notify) -> list[str]:
    base = maker.plain(rest)
    if deploy.get(base.subject.target).measurable() is not None:
        return []
    notify("paired latency of the mix")
    made = maker.mixed(mix)
    seen = ratio(base, made)
    line = f"the mix takes {seen:.2f} of the time of {rest} on {base.subject.target} here ({ROUNDS} paired rounds)"
    return [line] if seen <= 1 else [line, f"int8 is slower here: {_why_slower(made)}"]


def _why_slower(made: Artifact) -> str:
    if made.subject.target == "ort":
        from effbench.deploy.graph.run_ort import left_unfused

        left = left_unfused(made.path)
        return (
            f"ONNX Runtime runs {left['int8']} operators in int8 and leaves {left['pairs']} Q/DQ nodes between them "
            f"that did not fuse"
        )
    return "see `effbench verify` for the precision of each layer"


def _missed(trial: Trial, max_drop_pct: float) -> str:
    text = f"missed: the 95 % limit of the drop is {trial.limit_pct:.2f} points, the bound {max_drop_pct:g}"
    if trial.drop_pct >= max_drop_pct:
        return text
    return f"{text}; at these rates it would take about {_enough(trial, max_drop_pct / 100)} images to judge with"


def _enough(trial: Trial, bound: float) -> int:
    """Return how many images would settle the bound if they were lost and won at the rates seen."""
    scale = 2
    while scale < 1e4 and drop_upper_bound(trial.lost * scale, trial.won * scale, trial.images * scale) > bound:
        scale *= 2
    return trial.images * scale
