"""One evaluation: what the store lacks is run in a fresh process, kept every second, and read back with the rest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from effbench import deploy, process
from effbench.api.evaluate import accuracy, remote_images
from effbench.api.evaluate.accuracy import Parted, Share, Suspicion
from effbench.api.export.source import versions
from effbench.api.export.stage import AGENT, STAGE_LIMIT_S, Notify
from effbench.api.remote import Remote
from effbench.codec import from_json, to_json
from effbench.data import Dataset
from effbench.deploy.artifact import bundle
from effbench.errors import DataError
from effbench.profiles.accuracy import score_output
from effbench.schema import FORMAT_VERSION, Artifact, DataInfo, Evaluation, Predictions, Preprocessing
from effbench.store import Store, merge

SIMULATED_IMAGES = 64
"""How many images a simulator takes where nothing else is asked for."""
CHECK_IMAGES = 64
"""How many images the common alternatives of a preprocessing are tried on."""
DECLARED = "declared"


@dataclass(frozen=True)
class Result:
    """What one artifact reached on a data set; shares are in percent with 95 % intervals.

    ``reference`` is the artifact that predictions are compared with. ``computed`` counts the images of this call, the
    others were found in the store; ``images_per_s`` is of those, decoding included, and no latency.
    """

    artifact: str
    evaluation: Evaluation
    top1: Share | None
    top5: Share | None
    calibration_error: float | None
    reference: str = ""
    agreement: Share | None = None
    parted: tuple[Parted, ...] = ()
    computed: int = 0
    images_per_s: float | None = None


class Call:
    """One call of `evaluate`: the images, their order, and the store."""

    def __init__(
        self,
        home: Path,
        place: Path,
        classes: str | Path | Sequence[str] | None,
        data: Dataset,
        images: int | None,
        threads: int,
        batch: int | None,
        workers: int | None,
        notify: Notify,
        remote: Remote | None = None,
    ) -> None:
        self.home, self.place, self.data, self.limit = home, place, data, images
        self.classes = str(Path(classes).resolve()) if isinstance(classes, (str, Path)) else classes
        self.threads, self.batch, self.workers, self.notify = threads, batch, workers, notify
        self.remote = remote if remote is not None and not remote.local else None
        self._here: set[str] = set()  # digests of references, which run on this machine whatever the device
        self.store = Store(home)
        self.known: dict[tuple[Any, ...], list[Evaluation]] = {}
        for one in self.store.evaluations():
            self.known.setdefault(one.identity(), []).append(one)
        self.info = DataInfo(data.name, data.sha256, len(data.items), data.layout)
        # One order for every artifact and every number of images, so that fewer are a part of more.
        self.order = [int(value) for value in np.random.default_rng(0).permutation(len(data.items))]

    def evaluate(self, artifact: Artifact) -> Result:
        """Evaluate what the store does not hold yet, and return the whole."""
        limit = self.limit or (SIMULATED_IMAGES if self._simulated(artifact) else len(self.order))
        computed, seconds = self._run(artifact, {DECLARED: (artifact.preprocessing, self.order[:limit])})
        whole = self._stored(artifact, artifact.preprocessing)
        if whole is None:
            raise DataError(f"{artifact.name}: nothing was evaluated.")
        return Result(
            artifact=artifact.name,
            evaluation=whole,
            top1=accuracy.within(whole.predictions, 1),
            top5=accuracy.within(whole.predictions, 5) if whole.classes > 5 else None,
            calibration_error=accuracy.reliability(whole.predictions),
            computed=computed,
            images_per_s=computed / seconds if seconds > 0 else None,
        )

    def predictions(self, artifact: Artifact, places: Sequence[int]) -> Predictions:
        """Return what an artifact says of some images; what the store lacks is evaluated."""
        self._run(artifact, {DECLARED: (artifact.preprocessing, places)})
        whole = self._stored(artifact, artifact.preprocessing)
        found = whole.predictions if whole is not None else Predictions()
        wanted = set(places)
        kept = [row for row, image in enumerate(found.images) if image in wanted]
        return Predictions(**{name: tuple(column[row] for row in kept) for name, column in vars(found).items()})

    def compared(self, result: Result, artifact: Artifact) -> Result:
        """Add the comparison with the fp32 reference on the images that the artifact saw."""
        reference = self.reference(artifact)
        if reference is None or reference.digest == artifact.digest:
            return result
        self._here.add(reference.digest)
        seen = list(result.evaluation.predictions.images)
        self._run(reference, {DECLARED: (reference.preprocessing, seen)})
        other = self._stored(reference, reference.preprocessing)
        if other is None:
            return result
        names = [item.name for item in self.data.items]
        agreed, parted = accuracy.agreement(other.predictions, result.evaluation.predictions, names)
        return replace(result, reference=reference.name, agreement=agreed, parted=parted)

    def suspect(self, artifact: Artifact, declared: Evaluation) -> tuple[Suspicion, ...]:
        """Try the common alternatives of the preprocessing on a few images; return those that fit better."""
        few = self.order[:CHECK_IMAGES]
        if len(few) < accuracy.FEWEST:
            return ()
        others = accuracy.alternatives(artifact.preprocessing)
        self._run(artifact, {what: (other, few) for what, other in others.items()})
        found = {what: self._stored(artifact, other) for what, other in others.items()}
        return accuracy.suspicions(declared, {what: one for what, one in found.items() if one is not None})

    def root(self, artifact: Artifact) -> str:
        """Return the digest of the fp32 graph that an artifact goes back to."""
        graph = self._root(artifact)
        return graph.digest if graph is not None else artifact.digest

    def _root(self, artifact: Artifact) -> Artifact | None:
        known = {item.digest: item for item in bundle.artifacts(self.home)}
        found: Artifact | None = artifact
        while found is not None and found.graph_digest is not None and found.graph_digest != found.digest:
            found = known.get(found.graph_digest)
        return found

    def reference(self, artifact: Artifact) -> Artifact | None:
        """Return the fp32 reference of an artifact: the module in eager PyTorch, else its graph in the interpreter."""
        graph = self._root(artifact)
        if graph is None or graph.subject.target != "onnx":
            self.notify(f"{artifact.name}: the graph it was made from is gone; not compared with the reference")
            return None
        if "factory" not in graph.options or graph.subject.target != "onnx":
            return graph
        key = bundle.make_key({"graph": graph.key, "reference": "torch", "versions": versions("torch")})
        subject = graph.subject
        batch = None if graph.inputs[0].shape[0] is None else subject.batch
        name = bundle.name_of(subject.model, subject.shapes, batch, "fp32", "torch")
        folder = bundle.folder_of(self.home, name, key)
        same = (item for item in bundle.artifacts(self.home) if item.subject.target == "torch")
        made = next((item for item in same if item.graph_digest == graph.digest), None)
        if made is not None:
            return made
        job = {"op": "convert", "graph": str(graph.folder), "target": "torch", "options": {}}
        self.notify(f"prepare the fp32 reference of {subject.model}")
        request = {**job, "folder": str(folder), "key": key}
        for _ in process.run("effbench.api.export.worker", request, time_limit_s=STAGE_LIMIT_S):
            pass
        return bundle.load(folder)

    def engine(self, artifact: Artifact) -> str:
        """Name what runs an artifact, and the device where it is not this machine."""
        away = self._away(artifact)
        return engine_of(artifact) if away is None else f"{_title(artifact)} on {away.device.name}"

    def _simulated(self, artifact: Artifact) -> bool:
        """Return whether a simulator runs an artifact, and not the hardware that it is for."""
        return self._away(artifact) is None and _owned(artifact) and deploy.get(artifact.subject.target).simulates()

    def _away(self, artifact: Artifact) -> Remote | None:
        return None if artifact.digest in self._here else self.remote

    def _stored(self, artifact: Artifact, preprocessing: Preprocessing) -> Evaluation | None:
        wanted = (artifact.digest, self.info.sha256, preprocessing, self.engine(artifact))
        lines = self.known.get(wanted)
        return merge(lines) if lines else None

    def _run(self, artifact: Artifact, tasks: Mapping[str, tuple[Preprocessing, Sequence[int]]]) -> tuple[int, float]:
        """Evaluate what is missing of each task in one fresh process; return images and seconds spent."""
        missing = {}
        for name, (preprocessing, places) in tasks.items():
            stored = self._stored(artifact, preprocessing)
            seen = set(stored.predictions.images) if stored is not None else set()
            rest = [place for place in places if place not in seen]
            if rest:
                missing[name] = (preprocessing, rest)
        if not missing:
            return 0, 0.0
        total = sum(len(rest) for _, rest in missing.values())
        done, spent = 0, 0.0
        for event in self._events(artifact, missing):
            if event["event"] != "predictions":
                continue
            portion = from_json(Predictions, {"format": FORMAT_VERSION, **event["predictions"]}, "the child's answer")
            self._keep(artifact, missing[event["task"]][0], portion, event["seconds"])
            done, spent = done + len(portion), spent + event["seconds"]
            what = "" if event["task"] == DECLARED else f" ({event['task']})"
            self.notify(f"{artifact.name}: {done} of {total} images{what}, {done / max(spent, 1e-9):.0f} a second")
        return done, spent

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
                {"name": name, "preprocessing": to_json(how), "places": rest} for name, (how, rest) in missing.items()
            ],
        }
        yield from process.run(AGENT, job, time_limit_s=STAGE_LIMIT_S, limit_silence=True)

    def _keep(self, artifact: Artifact, preprocessing: Preprocessing, portion: Predictions, seconds: float) -> None:
        engine = self.engine(artifact)
        line = Evaluation(
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
        self.store.append(line)
        self.known.setdefault(line.identity(), []).append(line)


def _title(artifact: Artifact) -> str:
    return deploy.get(artifact.subject.target).title


def _owned(artifact: Artifact) -> bool:
    return artifact.subject.target in deploy.registered()


def engine_of(artifact: Artifact) -> str:
    """Name what runs an artifact here, with its version; a simulator is named as one."""
    if not _owned(artifact):
        return f"effbench's ONNX interpreter on torch {versions('torch')['torch']}"
    target = deploy.get(artifact.subject.target)
    version = next(iter(versions(*target.packages[:1]).values()), "")
    return f"{target.title} {version}{', simulated' if target.simulates() else ''}".strip()
