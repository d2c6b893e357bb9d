"""``verify --mutate``: how many seeded wrong conversions of a user's own model the check finds."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from effbench.api.export import stage
from effbench.api.export.run import fp32_graph
from effbench.api.export.source import resolve
from effbench.api.export.stage import EXPORT_WORKER, STAGE_LIMIT_S, Limits, Notify, silent
from effbench.api.export.verification import find_exported, source_graph
from effbench.codec import from_json
from effbench.errors import UsageError
from effbench.schema import CALIBRATED, Artifact, MutationReport, Resolution
from effbench.store import home as home_of

EACH = 6
"""The default number of wrong conversions of each kind."""


def mutate(
    names: Iterable[str],
    *,
    each: int = EACH,
    resolution: Resolution | None = None,
    out: str | Path | None = None,
    time_limit_s: float = STAGE_LIMIT_S,
    notify: Notify = silent,
) -> list[MutationReport]:
    """Make wrong conversions of models or artifacts, and count those that the check for wrong exports finds.

    Args:
        names: Artifacts, whose graphs are changed, or models, whose fp32 graphs are exported for it.
        each: How many of each kind of fault.
        resolution: Of the models; None means the size that an .onnx file fixes, else 224.
        out: The folder to write below.
        time_limit_s: For each graph.
        notify: Called with one line per step.

    Raises:
        UsageError: ``each`` is not positive.
        DataError: An artifact was changed since it was exported, or its graph is missing.
    """
    if each < 1:
        raise UsageError(f"{each} wrong conversions of each kind measure nothing.", hint="Give 1 or more.")
    home, limits = home_of(out), Limits.of(time_limit_s)
    reports = []
    for name in names:
        graph = _graph(name, resolution, home, limits, notify)
        exact = _exact(graph)
        job = {"op": "mutate", "graph": str(graph.folder), "exact": exact and str(exact.folder), "each": each}
        notify(f"check wrong conversions of {graph.name}")
        (answer,) = stage.run(EXPORT_WORKER, job, limits, home, graph.name)
        reports.append(from_json(MutationReport, answer["report"], "the child's answer"))
    return reports


def _graph(name: str, resolution: Resolution | None, home: Path, limits: Limits, notify: Notify) -> Artifact:
    artifact = find_exported(name, home)
    if artifact is None:
        return fp32_graph(resolve(name, None, 0), resolution, home, limits, notify)
    return artifact if artifact.subject.target == "onnx" else source_graph(artifact)


def _exact(graph: Artifact) -> Artifact | None:
    """Return the fp32 graph that a quantized one was made from; None for other graphs."""
    if graph.subject.storage_precision not in CALIBRATED:
        return None
    while graph.subject.storage_precision != "fp32":
        graph = source_graph(graph)
    return graph
