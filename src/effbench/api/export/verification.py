"""Verify artifacts against the reference they were made with; finish what a device has to build."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from effbench import deploy, process
from effbench.api.export import runtime_pairing
from effbench.api.export.source import is_model
from effbench.api.export.stage import STAGE_LIMIT_S, Limits, Notify, run, silent
from effbench.api.remote import Remote, device_of
from effbench.codec import from_json
from effbench.deploy.artifact import bundle
from effbench.device import AGENT
from effbench.errors import DataError, EffbenchError, UsageError, unknown_name
from effbench.profiles import devices
from effbench.schema import Artifact, Cell, Fidelity
from effbench.store import home as home_of


def verify_artifact(
    artifact: Artifact, home: Path, limits: Limits, *, threads: int = 1, remote: Remote | None = None
) -> Artifact:
    """Run an artifact over the reference images in a fresh process and record the result in its manifest.

    With a device the process runs there; an artifact that the device built from a bundle has no manifest here.

    Raises:
        DataError: The graph with the expected outputs is not in the cache.
    """
    reference = reference_of(artifact, home)
    remote = remote or Remote(devices.get("local"))
    job = {
        "op": "verify",
        "artifact": remote.place(artifact),
        "reference": remote.put(reference, f"reference-{artifact.digest[:10]}"),
        "threads": threads,
    }
    if remote.local:
        (answer,) = run(AGENT, job, limits, home, artifact.name)
    else:
        answer = process.single(remote.run(AGENT, job, time_limit_s=limits.seconds()))
    with process.reading_answer(f"'{remote.device.name}'"):
        fidelity = from_json(Fidelity, answer["fidelity"], "the child's answer")
        computed = None if answer["compute_precision"] is None else str(answer["compute_precision"])
        placement = {**artifact.placement, **answer["placement"]}
    if remote.local and runtime_pairing.possible(artifact, fidelity):
        fidelity = runtime_pairing.paired((artifact, source_graph(artifact)), fidelity, reference, home, limits)
    subject = replace(artifact.subject, compute_precision=computed)
    if remote.finished(artifact) is not artifact:
        return replace(artifact, subject=subject, fidelity=fidelity, placement=placement)
    return bundle.annotate(artifact, subject=subject, fidelity=fidelity, placement=placement)


def reference_of(artifact: Artifact, home: Path) -> Path:
    """Return the file of expected outputs: an artifact's own, else that of the graph it was made from."""
    own = artifact.folder / bundle.REFERENCE
    return own if own.is_file() else source_graph(artifact).folder / bundle.REFERENCE


def source_graph(artifact: Artifact) -> Artifact:
    """Return the graph that an artifact was made from.

    Raises:
        DataError: It is not in the cache.
    """
    for graph in bundle.artifacts(artifact.folder.parent.parent, skip=True):
        if graph.digest == artifact.graph_digest:
            return graph
    raise DataError(f"The graph of {artifact.name} is missing.", hint="Export it again.")


def first_graph(artifact: Artifact) -> Artifact:
    """Return the fp32 graph that an artifact goes back to: an fp16 or int8 graph names the one it was written into.

    Raises:
        DataError: It is not in the cache.
    """
    graph = artifact
    while graph.graph_digest is not None:
        graph = source_graph(graph)
    return graph


def verify(
    names: Iterable[str],
    *,
    device: str = "local",
    out: str | Path | None = None,
    time_limit_s: float = STAGE_LIMIT_S,
    notify: Notify = silent,
) -> list[Cell]:
    """Verify artifacts (folders or names below the home) again, here or on a device, also if they were verified before.

    Returns:
        One cell per artifact.

    Raises:
        DataError: A folder is not an artifact, or was changed since it was exported.
    """
    home = home_of(out)
    artifacts = [find_artifact(name, home) for name in names]
    with Remote(device_of(device)) as remote:
        return [_verified(artifact, home, remote, time_limit_s, notify) for artifact in artifacts]


def _verified(artifact: Artifact, home: Path, remote: Remote, time_limit_s: float, notify: Notify) -> Cell:
    start = time.perf_counter()
    subject = artifact.subject
    key = (subject.model, subject.shapes, subject.storage_precision, subject.target)
    try:
        notify(f"verify {artifact.name}")
        cell = Cell.of(*key, verify_artifact(artifact, home, Limits.of(time_limit_s), remote=remote))
    except EffbenchError as error:
        cell = Cell.of(*key, error, artifact=str(artifact.folder))
    return replace(cell, seconds=round(time.perf_counter() - start, 3))


def finish(
    folder: str | Path, *, options: Mapping[str, str] | None = None, out: str | Path | None = None
) -> list[Cell]:
    """Build an artifact from a bundle, on the device that will run it.

    Raises:
        UsageError: The artifact is no bundle of a target that is finished on its device.
        UnavailableError: The toolkit or the device is missing here.
    """
    start = time.perf_counter()
    unfinished = bundle.load(Path(folder))
    artifact = deploy.get(unfinished.subject.target).finish(unfinished.folder, home_of(out), dict(options or {}))
    subject = artifact.subject
    key = (subject.model, subject.shapes, subject.storage_precision, subject.target)
    return [Cell.of(*key, artifact, seconds=round(time.perf_counter() - start, 3))]


def find_exported(argument: str, home: Path) -> Artifact | None:
    """Return the artifact that an argument names, or None if the argument names a model, which has to be exported.

    Raises:
        UsageError: It names neither, or the beginning of several artifacts' names.
        DataError: The artifact was changed since it was exported.
    """
    return None if is_model(argument, bundle.artifacts(home, skip=True)) else find_artifact(argument, home)


def find_artifact(name: str, home: Path) -> Artifact:
    """Return the artifact that a user names: a folder, or the beginning of a name below the home.

    Raises:
        UsageError: No artifact has that name; near misses are listed.
        DataError: It was changed since it was exported.
    """
    folder = Path(name)
    if (folder / bundle.MANIFEST).exists() or folder.is_dir():
        return bundle.load(folder)
    artifacts = {item.name: item for item in bundle.artifacts(home, skip=True)}
    matches = [item for key, item in artifacts.items() if key == name] or [
        v for k, v in artifacts.items() if k.startswith(name)
    ]
    if len(matches) == 1:
        return bundle.load(matches[0].folder)
    if matches:
        raise UsageError(
            f"'{name}' is the beginning of {len(matches)} names.", hint=", ".join(item.name for item in matches)
        )
    raise unknown_name(name, artifacts, "artifact")
