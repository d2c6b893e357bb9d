"""Which artifacts a profile measures: those that are named, else those that exist; missing ones are exported first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from effbench import deploy
from effbench.api.export.artifacts import Exported, export_artifacts, find_or_export
from effbench.api.export.request import ExportRequest
from effbench.api.export.run import at_hand
from effbench.api.export.source import TIMM
from effbench.api.export.stage import Notify
from effbench.api.profile.request import ProfileRequest
from effbench.deploy.artifact import bundle
from effbench.deploy.precision.calibration import SYNTHETIC
from effbench.errors import EffbenchError, FidelityError, UnavailableError
from effbench.schema import CALIBRATED, DEFAULT_RESOLUTION, Artifact, Cell, Device, InputShapes

DEFAULT_MODEL = "regla_m"


class Selection:
    """The artifacts that a request means, on a device."""

    def __init__(
        self, request: ProfileRequest, home: Path, device: Device, say: Notify, batch: int | None = None
    ) -> None:
        self.request, self.home, self.device, self.say, self.batch = request, home, device, say, batch
        self.sizes = request.shapes

    def choose(self) -> Exported:
        """Return the artifacts to measure, and a cell for each that cannot be exported or run."""
        if self.request.names:
            template = self._export_request("", self.sizes, self.request.targets)
            return self._runnable(*find_or_export(self.request.names, template, self._targets))
        artifacts = self._newest()
        if not artifacts:
            sizes = " and ".join(shapes.label for shapes in self.sizes or [InputShapes.parse(DEFAULT_RESOLUTION)])
            targets = self._targets()
            self.say(f"Nothing is exported yet: exporting {DEFAULT_MODEL} at {sizes} for {', '.join(targets)}.")
            return export_artifacts(self._export_request(DEFAULT_MODEL, self.sizes, targets))
        if not self.sizes:
            return self._runnable(artifacts, [])
        return self._runnable(*self._at_sizes(artifacts))

    def _at_sizes(self, artifacts: Sequence[Artifact]) -> Exported:
        """Return every artifact at every size of the request, exported again where it exists at other sizes only."""
        chosen: list[Artifact] = []
        cells: list[Cell] = []
        for shapes in self.sizes:
            for artifact in artifacts:
                peers = [other for other in artifacts if _peers_key(other) == _peers_key(artifact)]
                at_size = [other for other in peers if other.subject.shapes == shapes]
                if at_size:
                    chosen += [other for other in at_size if other not in chosen]
                elif artifact is peers[0]:
                    subject = artifact.subject
                    sizes = ", ".join(str(other.subject.shapes) for other in peers)
                    self.say(
                        f"{subject.model} for {subject.target} exists at {sizes} px only: "
                        f"exporting it at {shapes.label}."
                    )
                    exported, failures = self._export_again(artifact, shapes)
                    chosen += exported
                    cells += failures
        return chosen, cells

    def _targets(self) -> list[str]:
        if self.request.targets or self.device.transport == "local":
            return list(self.request.targets) or at_hand()
        return [name for name in self.device.targets if name in deploy.registered()][:1]

    def _newest(self) -> list[Artifact]:
        """Return the newest artifact of each name; older ones come from other sources or options."""
        newest: dict[str, Artifact] = {}
        for artifact in bundle.artifacts(self.home):
            target = artifact.subject.target
            if target == "onnx" or (self.request.targets and target not in self.request.targets):
                continue
            stem = artifact.name.rsplit("-", 1)[0]
            if stem not in newest or _exported_at(artifact) > _exported_at(newest[stem]):
                newest[stem] = artifact
        return list(newest.values())

    def _export_again(self, artifact: Artifact, shapes: InputShapes) -> Exported:
        subject = artifact.subject
        images = self.request.images if subject.storage_precision in CALIBRATED else None
        images = SYNTHETIC if subject.latency_only and images is None else images
        reason = _why_not_again(artifact, images)
        if reason:
            key = (subject.model, shapes, subject.storage_precision, subject.target)
            return [], [Cell.of(*key, UnavailableError(reason, hint=_export_command(artifact, shapes)))]
        request = replace(
            self._export_request(subject.model, [shapes], [subject.target]),
            precision=subject.storage_precision,
            batch=subject.batch,
            seed=subject.weights.seed or 0,
            images=images,
        )
        return export_artifacts(request)

    def _export_request(self, model: str, sizes: Sequence[InputShapes], targets: Sequence[str]) -> ExportRequest:
        return ExportRequest(
            model,
            targets,
            sizes,
            precision=self.request.precision,
            images=self.request.images,
            batch=self.batch,
            weights=self.request.weights,
            seed=self.request.seed,
            device=None if self.device.transport == "local" else self.device,
            out=self.home,
            notify=self.request.notify,
        )

    def _runnable(self, artifacts: Sequence[Artifact], cells: list[Cell]) -> Exported:
        runnable: list[Artifact] = []
        for artifact in artifacts:
            subject = artifact.subject
            error = self._refusal(artifact)
            if error is None:
                runnable.append(artifact)
                continue
            key = (subject.model, subject.shapes, subject.storage_precision, subject.target)
            cells = [*cells, Cell.of(*key, error, artifact=str(artifact.folder), fidelity=artifact.fidelity)]
        return runnable, cells

    def _refusal(self, artifact: Artifact) -> EffbenchError | None:
        """Return why an artifact is not measured: it cannot run there, or it is not the model; None if it is."""
        reason = self._why_not_measurable(artifact.subject.target)
        if reason is not None:
            command = "effbench doctor" + ("" if self.device.name == "local" else f" --device {self.device.name}")
            return UnavailableError(reason, hint=command)
        if artifact.subject.fidelity_passed is not False or self.request.force:
            return None
        reasons = "; ".join(artifact.fidelity.reasons) if artifact.fidelity else "it failed verification"
        hint = f"effbench profile {artifact.name} --force measures it all the same, marked as failed."
        return FidelityError(f"{artifact.name} is not the same model: {reasons}.", hint=hint)

    def _why_not_measurable(self, name: str) -> str | None:
        """Return why artifacts of a target cannot be measured on the device, as far as this machine knows."""
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
        return "exported from a file or factory; name it again to export it at another size"
    if subject.storage_precision in CALIBRATED and images is None:
        return "calibrated with images; give their folder again with --images FOLDER"
    return None


def _export_command(artifact: Artifact, shapes: InputShapes) -> str:
    """Return the command that exports an artifact at another size; words in capitals are for the user to replace."""
    subject = artifact.subject
    named = subject.family != "user" or subject.model.startswith(TIMM)
    words = ["effbench", "export", subject.model if named else "MODEL", "--res", str(shapes)]
    words += ["--target", subject.target, "--precision", subject.storage_precision]
    if subject.storage_precision in CALIBRATED:
        words += ["--images", SYNTHETIC if subject.latency_only else "FOLDER"]
    if named and subject.weights.kind == "file":
        words += ["--weights", "FILE"]
    if subject.weights.kind == "pretrained":
        words.append("--pretrained")
    return " ".join(words)


def _peers_key(artifact: Artifact) -> tuple[Any, ...]:
    """Return what artifacts of one model share that differ in size alone."""
    subject = artifact.subject
    return (subject.model, subject.target, subject.storage_precision, subject.batch, subject.weights)


def _exported_at(artifact: Artifact) -> float:
    return (artifact.folder / bundle.MANIFEST).stat().st_mtime
