"""The pairs of a comparison: two arguments name artifacts, .onnx files or models, and models are exported first."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from effbench.api.compare.request import CompareRequest
from effbench.api.export.run import export
from effbench.api.export.stage import Notify
from effbench.api.export.verification import find_exported
from effbench.deploy.artifact import bundle
from effbench.errors import EffbenchError, UnavailableError
from effbench.schema import Artifact, parse_resolution, resolution_text

TARGET = "ort"
RESOLUTION = 224


class Pair(NamedTuple):
    """One comparison: what it is called, the base and the candidate."""

    name: str
    a: Artifact
    b: Artifact


def pairs_of(request: CompareRequest, home: Path) -> list[Pair]:
    """Return the pairs that a request means, and export a side that is a model.

    Raises:
        UsageError: An argument names neither an artifact nor a model, or several artifacts.
        EffbenchError: A model could not be exported.
    """
    arguments = (request.a, request.b)
    artifacts = [find_exported(argument, home) for argument in arguments]
    first = next((artifact for artifact in artifacts if artifact is not None), None)
    sizes = [parse_resolution(text) for text in request.resolutions] or [
        first.subject.resolution if first else (RESOLUTION,) * 2
    ]
    targets = list(request.targets) or [first.subject.target if first else TARGET]
    pairs: list[Pair] = []
    for size in sizes:
        for target in targets:
            a, b = (
                artifact or exported(argument, target, size, request.batch, home, request.notify)
                for argument, artifact in zip(arguments, artifacts, strict=True)
            )
            pairs.append(Pair(name_of(a, b), a, b))
        if all(artifacts):
            break
    return pairs


def exported(model: str, target: str, size: tuple[int, int], batch: int | None, home: Path, notify: Notify) -> Artifact:
    """Export one model for one target without verifying it, and return the artifact.

    Raises:
        EffbenchError: It could not be exported.
    """
    (cell,) = export(model, [target], [resolution_text(size)], batch=batch or 1, out=home, notify=notify, verify=False)
    if cell.status != "ok":
        kind = UnavailableError if cell.status == "unavailable" else EffbenchError
        raise kind(f"{model} for {target}: {cell.reason}", hint=cell.next_step or None)
    return bundle.load(Path(cell.artifact))


def name_of(a: Artifact, b: Artifact) -> str:
    """Return what a comparison is called: the model, or both where they differ."""
    left, right = a.subject, b.subject
    names = left.model if left.model == right.model else f"{left.model} -> {right.model}"
    targets = left.target if left.target == right.target else f"{left.target} -> {right.target}"
    return f"{names} {resolution_text(right.resolution)} px {right.storage_precision} {targets}"
