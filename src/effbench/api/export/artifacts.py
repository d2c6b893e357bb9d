"""Artifacts that a user names: found below the output folder, or exported first where the name is a model's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from effbench.api.export.request import ExportRequest
from effbench.api.export.run import at_hand, run_export
from effbench.api.export.verification import find_exported
from effbench.deploy.artifact import bundle
from effbench.errors import EffbenchError, UnavailableError
from effbench.schema import Artifact, Cell, Status
from effbench.store import home as home_of

Exported = tuple[list[Artifact], list[Cell]]
"""Artifacts, and a cell for each that could not be made."""


def export_artifacts(request: ExportRequest) -> Exported:
    """Export, and return the artifacts with a cell for each that could not be made."""
    cells = run_export(request)
    artifacts = [bundle.load(Path(cell.artifact)) for cell in cells if cell.has_artifact]
    return artifacts, [cell for cell in cells if not cell.has_artifact]


def export_artifact(request: ExportRequest) -> Artifact:
    """Export one artifact: one target, one size.

    Raises:
        EffbenchError: It could not be made, or is not the same model any more.
    """
    artifacts, failures = export_artifacts(request)
    for cell in failures:
        kind = UnavailableError if cell.status is Status.UNAVAILABLE else EffbenchError
        raise kind(f"{request.model} for {cell.target}: {cell.reason}", hint=cell.next_step or None)
    return artifacts[0]


def find_or_export(
    names: Sequence[str], request: ExportRequest, targets: Callable[[], Sequence[str]] = at_hand
) -> Exported:
    """Return the artifacts that names mean, in order; a name that is a model's is exported first.

    Args:
        names: Artifacts (folders, or the beginning of a name), or models.
        request: How models are exported; its model is replaced by each name.
        targets: Called where the request names no targets.

    Raises:
        UsageError: A name is neither an artifact's nor a model's.
    """
    home = home_of(request.out)
    artifacts: list[Artifact] = []
    cells: list[Cell] = []
    for name in names:
        artifact = find_exported(name, home)
        if artifact is not None:
            artifacts.append(artifact)
            continue
        exported, failures = export_artifacts(replace(request, model=name, targets=request.targets or targets()))
        artifacts += exported
        cells += failures
    return artifacts, cells
