"""The pairs of a comparison: two arguments name artifacts, .onnx files or models, and models are exported first."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from effbench.api.compare.request import CompareRequest
from effbench.api.export.artifacts import export_artifact
from effbench.api.export.request import ExportRequest
from effbench.api.export.verification import find_exported
from effbench.schema import Artifact, InputShapes

TARGET = "ort"


class Pair(NamedTuple):
    """One comparison: its name, the base and the candidate."""

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
    sizes: list[InputShapes | None] = [InputShapes.parse(text) for text in request.resolutions]
    sizes = sizes or [first.subject.shapes if first else None]
    targets = list(request.targets) or [first.subject.target if first else TARGET]
    pairs: list[Pair] = []
    for size in sizes:
        for target in targets:
            a, b = (
                artifact or export_artifact(_export_request(argument, target, size, request, home))
                for argument, artifact in zip(arguments, artifacts, strict=True)
            )
            pairs.append(Pair(name_of(a, b), a, b))
        if all(artifacts):
            break
    return pairs


def _export_request(
    model: str, target: str, shapes: InputShapes | None, request: CompareRequest, home: Path
) -> ExportRequest:
    """Return the export of one side; a comparison asks for latency, so its fidelity is not checked."""
    sizes = () if shapes is None else (shapes,)
    return ExportRequest(model, [target], sizes, batch=request.batch, out=home, notify=request.notify, verify=False)


def name_of(a: Artifact, b: Artifact) -> str:
    """Return the name of a comparison: the model, or both models if they differ."""
    left, right = a.subject, b.subject
    names = left.model if left.model == right.model else f"{left.model} -> {right.model}"
    targets = left.target if left.target == right.target else f"{left.target} -> {right.target}"
    return f"{names} {right.shapes.label} {right.storage_precision} {targets}"
