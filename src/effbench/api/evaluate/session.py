"""One evaluation: images without stored predictions run in a fresh process, and predictions are stored every second."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from effbench import deploy, process
from effbench.api.evaluate import accuracy, remote_images
from effbench.api.evaluate.accuracy import Disagreement, Share, Suspicion
from effbench.api.evaluate.request import EvaluateRequest
from effbench.api.export.source import versions
from effbench.api.export.stage import STAGE_LIMIT_S
from effbench.api.remote import Remote
from effbench.codec import from_json, to_json
from effbench.data import Dataset
from effbench.deploy.artifact import bundle
from effbench.deploy.graph.torch_program import PROGRAM
from effbench.device import AGENT
from effbench.errors import DataError
from effbench.profiles.accuracy import score_output
from effbench.schema import FORMAT_VERSION, Artifact, DataInfo, Evaluation, Predictions, Preprocessing
from effbench.store import Store, merge
from effbench.store import home as home_of

SIMULATED_IMAGES = 64
"""The default number of images on a simulator."""
CHECK_IMAGES = 64
"""The number of images on which common alternatives of the preprocessing are tried."""
DECLARED = "declared"


@dataclass(frozen=True)
class Result:
    """The result of one artifact on a data set; shares are in percent with 95 % intervals.

    ``reference`` is the artifact that predictions are compared with. ``computed`` counts the images of this call; the
    others come from the store. ``images_per_s`` is the rate of this call, decoding included; it is no latency.
    """

    artifact: str
    evaluation: Evaluation
    top1: Share | None
    top5: Share | None
    calibration_error: float | None
    reference: str = ""
    agreement: Share | None = None
    disagreements: tuple[Disagreement, ...] = ()
    computed: int = 0
    images_per_s: float | None = None


class EvaluationRun:
    """One call of `evaluate`: the images, their order, and the store."""

    def __init__(self, request: EvaluateRequest, data: Dataset, remote: Remote | None = None) -> None:
        self.data, self.place, self.limit = data, Path(request.data), request.max_images
        self.home, classes = home_of(request.out), request.classes
        self.classes = str(Path(classes).resolve()) if isinstance(classes, (str, Path)) else classes
        self.threads, self.batch, self.workers = request.threads, request.batch, request.workers
        self.notify = request.notify
        self.remote = remote if remote is not None and not remote.local else None
        self._here: set[str] = set()  # digests of references, which always run on this machine
        self.store = Store(self.home)
        self.stored: dict[tuple[Any, ...], list[Evaluation]] = {}
        for evaluation in self.store.evaluations():
            self.stored.setdefault(evaluation.identity(), []).append(evaluation)
        self.info = DataInfo(data.name, data.sha256, len(data.items), data.layout)
        # One order for all artifacts and sizes, so that a smaller number of images is a subset of a larger one.
        self.order = [int(value) for value in np.random.default_rng(0).permutation(len(data.items))]

    def evaluate(self, artifact: Artifact) -> Result:
        """Evaluate the images that the store has no predictions for, and return the result over all of them."""
        limit = self.limit or (SIMULATED_IMAGES if self._simulated(artifact) else len(self.order))
        computed, seconds = self._run(artifact, {DECLARED: (artifact.preprocessing, self.order[:limit])})
        evaluation = self._stored(artifact, artifact.preprocessing)
        if evaluation is None:
            raise DataError(f"{artifact.name}: nothing was evaluated.")
        return Result(
            artifact=artifact.name,
            evaluation=evaluation,
            top1=accuracy.within(evaluation.predictions, 1),
            top5=accuracy.within(evaluation.predictions, 5) if evaluation.classes > 5 else None,
            calibration_error=accuracy.reliability(evaluation.predictions),
            computed=computed,
            images_per_s=computed / seconds if seconds > 0 else None,
        )

    def predictions(self, artifact: Artifact, places: Sequence[int]) -> Predictions:
        """Return an artifact's predictions for some images; missing ones are evaluated."""
        self._run(artifact, {DECLARED: (artifact.preprocessing, places)})
        evaluation = self._stored(artifact, artifact.preprocessing)
        predictions = evaluation.predictions if evaluation is not None else Predictions()
        places_set = set(places)
        rows = [row for row, image in enumerate(predictions.images) if image in places_set]
        return Predictions(**{name: tuple(column[row] for row in rows) for name, column in vars(predictions).items()})

    def compared(self, result: Result, artifact: Artifact) -> Result:
        """Add the comparison with the fp32 reference on the images of a result."""
        reference = self.reference(artifact)
        if reference is None or reference.digest == artifact.digest:
            return result
        self._here.add(reference.digest)
        places = list(result.evaluation.predictions.images)
        self._run(reference, {DECLARED: (reference.preprocessing, places)})
        expected = self._stored(reference, reference.preprocessing)
        if expected is None:
            return result
        names = [item.name for item in self.data.items]
        share, disagreements = accuracy.agreement(expected.predictions, result.evaluation.predictions, names)
        return replace(result, reference=reference.name, agreement=share, disagreements=disagreements)

    def suspect(self, artifact: Artifact, declared: Evaluation) -> tuple[Suspicion, ...]:
        """Try the common alternatives of the preprocessing on a few images; return those that fit better."""
        places = self.order[:CHECK_IMAGES]
        if len(places) < accuracy.FEWEST:
            return ()
        alternatives = accuracy.alternatives(artifact.preprocessing)
        self._run(artifact, {name: (alternative, places) for name, alternative in alternatives.items()})
        evaluations = {name: self._stored(artifact, alternative) for name, alternative in alternatives.items()}
        return accuracy.suspicions(
            declared, {name: evaluation for name, evaluation in evaluations.items() if evaluation is not None}
        )

    def root(self, artifact: Artifact) -> str:
        """Return the digest of the fp32 graph that an artifact was made from."""
        graph = self._root(artifact)
        return graph.digest if graph is not None else artifact.digest

    def _root(self, artifact: Artifact) -> Artifact | None:
        by_digest = {item.digest: item for item in bundle.artifacts(self.home, skip=True)}
        graph: Artifact | None = artifact
        while graph is not None and graph.graph_digest is not None and graph.graph_digest != graph.digest:
            graph = by_digest.get(graph.graph_digest)
        return graph

    def reference(self, artifact: Artifact) -> Artifact | None:
        """Return the fp32 reference of an artifact: the module in eager PyTorch, else its graph in the interpreter."""
        graph = self._root(artifact)
        if graph is None or graph.subject.target != "onnx":
            self.notify(f"{artifact.name}: its graph is missing; not compared with the reference")
            return None
        if PROGRAM not in graph.files:
            return graph
        key = bundle.make_key({"graph": graph.key, "reference": "torch", "versions": versions("torch")})
        subject = graph.subject
        batch = None if graph.inputs[0].shape[0] is None else subject.batch
        name = bundle.name_of(subject.model, subject.shapes, batch, "fp32", "torch")
        folder = bundle.folder_of(self.home, name, key)
        torch_artifacts = (item for item in bundle.artifacts(self.home, skip=True) if item.subject.target == "torch")
        converted = next((item for item in torch_artifacts if item.graph_digest == graph.digest), None)
        if converted is not None:
            return converted
        job = {"op": "convert", "graph": str(graph.folder), "target": "torch", "options": {}}
        self.notify(f"prepare the fp32 reference of {subject.model}")
        request = {**job, "folder": str(folder), "key": key}
        for _ in process.run("effbench.api.export.worker", request, time_limit_s=STAGE_LIMIT_S):
            pass
        return bundle.load(folder)

    def engine(self, artifact: Artifact) -> str:
        """Return the name of the engine that runs an artifact, with its device if that is not this machine."""
        away = self._away(artifact)
        return engine_of(artifact) if away is None else f"{_title(artifact)} on {away.device.name}"

    def _simulated(self, artifact: Artifact) -> bool:
        """Return whether a simulator runs an artifact, and not the hardware that it is for."""
        return self._away(artifact) is None and _owned(artifact) and deploy.get(artifact.subject.target).simulates()

    def _away(self, artifact: Artifact) -> Remote | None:
        return None if artifact.digest in self._here else self.remote

    def _stored(self, artifact: Artifact, preprocessing: Preprocessing) -> Evaluation | None:
        identity = (artifact.digest, self.info.sha256, preprocessing, self.engine(artifact))
        evaluations = self.stored.get(identity)
        return merge(evaluations) if evaluations else None

    def _run(self, artifact: Artifact, tasks: Mapping[str, tuple[Preprocessing, Sequence[int]]]) -> tuple[int, float]:
        """Evaluate the missing images of each task in one fresh process; return how many, and the seconds."""
        missing = {}
        for name, (preprocessing, places) in tasks.items():
            evaluation = self._stored(artifact, preprocessing)
            images = set(evaluation.predictions.images) if evaluation is not None else set()
            places_left = [place for place in places if place not in images]
            if places_left:
                missing[name] = (preprocessing, places_left)
        if not missing:
            return 0, 0.0
        total = sum(len(places_left) for _, places_left in missing.values())
        count, seconds = 0, 0.0
        for event in self._events(artifact, missing):
            if event["event"] != "predictions":
                continue
            portion = from_json(Predictions, {"format": FORMAT_VERSION, **event["predictions"]}, "the child's answer")
            self._keep(artifact, missing[event["task"]][0], portion, event["seconds"])
            count, seconds = count + len(portion), seconds + event["seconds"]
            task = "" if event["task"] == DECLARED else f" ({event['task']})"
            self.notify(f"{artifact.name}: {count} of {total} images{task}, {count / max(seconds, 1e-9):.0f} a second")
        return count, seconds

    def _events(
        self, artifact: Artifact, missing: Mapping[str, tuple[Preprocessing, Sequence[int]]]
    ) -> Iterator[dict[str, Any]]:
        away = self._away(artifact)
        if away is not None:
            yield from remote_images.evaluate(away, artifact, self.data, missing, self.threads, self.batch)
            return
        job = {
            "op": "evaluate",
            "artifact": str(artifact.folder.resolve()),
            "data": str(self.place.resolve()),
            "classes": self.classes,
            "threads": self.threads,
            "batch": self.batch,
            "workers": self.workers,
            "tasks": [
                {"name": name, "preprocessing": to_json(preprocessing), "places": places}
                for name, (preprocessing, places) in missing.items()
            ],
        }
        yield from process.run(AGENT, job, time_limit_s=STAGE_LIMIT_S, limit_silence=True)

    def _keep(self, artifact: Artifact, preprocessing: Preprocessing, portion: Predictions, seconds: float) -> None:
        engine = self.engine(artifact)
        evaluation = Evaluation(
            digest=artifact.digest,
            subject=artifact.subject,
            data=self.info,
            preprocessing=preprocessing,
            engine=engine,
            simulated=self._simulated(artifact),
            classes=int(score_output(artifact.outputs, artifact.name).shape[1] or 0),
            predictions=portion,
            time=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            seconds=seconds,
            as_declared=preprocessing == artifact.preprocessing,
        )
        self.store.append(evaluation)
        self.stored.setdefault(evaluation.identity(), []).append(evaluation)


def _title(artifact: Artifact) -> str:
    return deploy.get(artifact.subject.target).title


def _owned(artifact: Artifact) -> bool:
    return artifact.subject.target in deploy.registered()


def engine_of(artifact: Artifact) -> str:
    """Return the name and version of the engine that runs an artifact here; a simulator is named as one."""
    if not _owned(artifact):
        return f"effbench's ONNX interpreter on torch {versions('torch')['torch']}"
    target = deploy.get(artifact.subject.target)
    version = next(iter(versions(*target.packages[:1]).values()), "")
    return f"{target.title} {version}{', simulated' if target.simulates() else ''}".strip()
