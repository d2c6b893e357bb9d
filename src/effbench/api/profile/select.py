"""What `profile` measures when the user says little: which artifacts, and what is exported first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from effbench import deploy
from effbench.api.export.artifacts import Found, export_artifacts, find_or_export
from effbench.api.export.request import ExportRequest
from effbench.api.export.run import at_hand
from effbench.api.export.stage import Notify
from effbench.deploy.artifact import bundle
from effbench.deploy.precision.calibration import SYNTHETIC
from effbench.errors import UnavailableError
from effbench.schema import CALIBRATED, DEFAULT_RESOLUTION, Artifact, Cell, Device, InputShapes

DEFAULT_MODEL = "regla_m"


@dataclass(frozen=True)
class Choice:
    """Decides what is measured when the user says little."""

    home: Path
    sizes: list[InputShapes]
    targets: Sequence[str]
    batch: int
    precision: str | None
    images: str | Path | None
    weights: str | None
    seed: int
    device: Device
    notify: Notify
    say: Notify

    def choose(self, names: Sequence[str]) -> Found:
        """Return what is measured, exporting what is missing, and a cell for each that cannot be."""
        if names:
            return self._named(names)
        known = self._exported()
        if not known:
            where = " and ".join(f"{size} px" for size in self.sizes or [InputShapes.parse(DEFAULT_RESOLUTION)])
            wanted = self._targets()
            self.say(f"Nothing is exported yet: exporting {DEFAULT_MODEL} at {where} for {', '.join(wanted)}.")
            return self._export(DEFAULT_MODEL, self.sizes or [InputShapes.parse(DEFAULT_RESOLUTION)], wanted)
        chosen: list[Artifact] = []
        cells: list[Cell] = []
        for size in self.sizes:
            for artifact in known:
                subject = artifact.subject
                peers = [item for item in known if _kin(item) == _kin(artifact)]
                at_size = [item for item in peers if item.subject.shapes == size]
                if at_size:
                    chosen += [item for item in at_size if item not in chosen]
                elif artifact is peers[0]:
                    have = ", ".join(str(item.subject.shapes) for item in peers)
                    text = f"{subject.model} for {subject.target} exists at {have} px only"
                    self.say(f"{text}: exporting it at {size} px.")
                    more, failed = self._export_again(artifact, size)
                    chosen += more
                    cells += failed
        return self._runnable(chosen or ([] if self.sizes else known), cells)

    def _targets(self) -> list[str]:
        if self.targets or self.device.transport == "local":
            return list(self.targets) or at_hand()
        return [name for name in self.device.targets if name in deploy.registered()][:1]

    def _exported(self) -> list[Artifact]:
        """Return the newest artifact of each name; older ones were made from other sources or options."""
        newest: dict[str, Artifact] = {}
        for artifact in bundle.artifacts(self.home):
            subject = artifact.subject
            if subject.target == "onnx" or (self.targets and subject.target not in self.targets):
                continue
            stem = artifact.name.rsplit("-", 1)[0]
            if stem not in newest or _made(artifact) > _made(newest[stem]):
                newest[stem] = artifact
        return list(newest.values())

    def _named(self, names: Sequence[str]) -> Found:
        request = self._request("", self.sizes or [InputShapes.parse(DEFAULT_RESOLUTION)], self.targets)
        return self._runnable(*find_or_export(names, request, self._targets))

    def _export_again(self, artifact: Artifact, size: InputShapes) -> Found:
        subject = artifact.subject
        images = self.images if subject.storage_precision in CALIBRATED else None
        images = SYNTHETIC if subject.latency_only and images is None else images
        again = replace(self, seed=subject.weights.seed or 0, precision=subject.storage_precision, batch=subject.batch)
        again = replace(again, images=images)
        reason = _why_not_again(artifact, images)
        if reason:
            command = f"effbench export {subject.model} --res {size} --target {subject.target}"
            key = (subject.model, size, subject.storage_precision, subject.target)
            return [], [Cell.of(*key, UnavailableError(reason, hint=command))]
        return again._export(subject.model, [size], [subject.target])

    def _export(self, model: str, sizes: Sequence[InputShapes], targets: Sequence[str]) -> Found:
        return export_artifacts(self._request(model, sizes, targets))

    def _request(self, model: str, sizes: Sequence[InputShapes], targets: Sequence[str]) -> ExportRequest:
        return ExportRequest(
            model,
            targets,
            sizes,
            precision=self.precision,
            images=self.images,
            batch=self.batch,
            weights=self.weights,
            seed=self.seed,
            device=None if self.device.transport == "local" else self.device,
            out=self.home,
            notify=self.notify,
        )

    def _runnable(self, artifacts: list[Artifact], cells: list[Cell]) -> Found:
        here: list[Artifact] = []
        for artifact in artifacts:
            subject = artifact.subject
            reason = self._unfit(subject.target)
            if reason is None:
                here.append(artifact)
            else:
                command = "effbench doctor" + ("" if self.device.name == "local" else f" --device {self.device.name}")
                key = (subject.model, subject.shapes, subject.storage_precision, subject.target)
                error = UnavailableError(reason, hint=command)
                cells.append(Cell.of(*key, error, artifact=str(artifact.folder)))
        return here, cells

    def _unfit(self, name: str) -> str | None:
        """Return why artifacts of a target cannot be measured on the device, as far as is known from here."""
        target = deploy.registered().get(name)
        if target is None:
            return "cannot run here: this version has no such target"
        if self.device.transport == "local":
            reason = target.measurable()
            return None if reason is None else f"cannot run here: {reason}"
        fits = name in self.device.targets
        return None if fits else f"'{self.device.name}' runs {', '.join(self.device.targets)}, not {name}"


def _why_not_again(artifact: Artifact, images: str | Path | None) -> str | None:
    subject = artifact.subject
    if subject.family == "user" or subject.weights.kind != "untrained":
        return "made from a file; only its owner can say which"
    if subject.storage_precision in CALIBRATED and images is None:
        return "calibrated with images; only their owner can say which (--images FOLDER)"
    return None


def _kin(artifact: Artifact) -> tuple[Any, ...]:
    subject = artifact.subject
    return (subject.model, subject.target, subject.storage_precision, subject.batch, subject.weights)


def _made(artifact: Artifact) -> float:
    return (artifact.folder / bundle.MANIFEST).stat().st_mtime
