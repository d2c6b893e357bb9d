"""The graphs that were built, with what each depends on: a build is skipped only if none of that has changed.

A graph is kept under a key of its content. An edit that leaves structure, weights and outputs as they are (a comment)
builds the graph again, finds the same content, and so leaves every artifact that was made from it valid.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from effbench import drafts, reading
from effbench.api.export.dependencies.record import Dependencies, Places, observed
from effbench.codec import fingerprint, from_json, to_json
from effbench.deploy.artifact import bundle
from effbench.errors import DataError
from effbench.schema import Artifact

MOST_BUILDS = 64
"""Builds of one request that are remembered: two trees of a gate, and the states of a project that come and go."""
SHOWN = 3
"""Changes that a message names."""


@dataclass(frozen=True)
class Build:
    """One build: the key of the graph that came out, the project it was built from, and its dependencies."""

    graph: str
    project: str
    dependencies: Dependencies


class Builds:
    """The builds of one request below a home.

    Args:
        home: Where artifacts and the records of builds are.
        name: The readable part of the graph's folder.
        request: What is asked for: model, size, options, versions, effbench's code.
        places: What the names of files are relative to.
    """

    def __init__(self, home: Path, name: str, request: Mapping[str, Any], places: Places) -> None:
        self.home, self.name, self.places = home, name, places
        self.request = bundle.make_key(request)
        self.label = f"{name}-{self.request[:10]}"
        self._folder = home / "builds" / self.label

    def find(self) -> tuple[Artifact | None, tuple[str, ...]]:
        """Return the graph of a build whose dependencies are unchanged; else None, and what changed since the last."""
        changes: tuple[str, ...] = ()
        for build, path in self._read():
            changed = tuple(islice(build.dependencies.changes(self.places, os.environ), SHOWN))
            graph = None if changed else bundle.find(self._graph_folder(build.graph), build.graph)
            if graph is not None:
                with contextlib.suppress(OSError):
                    path.touch()
                return graph, ()
            changes = changes or changed
        return None, changes

    def add(self, make: Callable[[Path], list[dict[str, Any]]]) -> Artifact:
        """Build the graph, and keep it under the key of its content with what it depends on.

        Args:
            make: Builds into the folder that it is given, and returns the child's events.

        Raises:
            EffbenchError: The build fails.
        """
        with drafts.draft(self.home / "artifacts") as draft:
            draft.mkdir()
            events = make(draft / "graph")
            traced = next((event["dependencies"] for event in events if "dependencies" in event), None)
            dependencies = observed(traced, os.environ) if traced else Dependencies()
            graph = self._place(bundle.load(draft / "graph"))
        self._write(Build(graph.key, str(self.places.project), dependencies))
        return graph

    def _place(self, graph: Artifact) -> Artifact:
        """Move a new graph to the folder of its content; if it is there already, keep that with the new proof."""
        key = content_key(graph)
        folder = self._graph_folder(key)
        known = bundle.find(folder, key)
        if known is None:
            return bundle.move(replace(graph, key=key), folder)
        return bundle.annotate(known, fidelity=graph.fidelity, versions=graph.versions)

    def _graph_folder(self, key: str) -> Path:
        return bundle.folder_of(self.home, self.name, key)

    def _read(self) -> Iterator[tuple[Build, Path]]:
        """Yield the builds, newest first."""
        yield from ((build, path) for path in self._paths() if (build := _load(path)) is not None)

    def _write(self, build: Build) -> None:
        path = self._folder / f"{fingerprint(build)[:16]}.json"
        try:
            with drafts.draft(self._folder) as draft:
                draft.write_text(json.dumps(to_json(build), indent=1, sort_keys=True) + "\n")
                draft.replace(path)
            for old in self._paths()[MOST_BUILDS:]:
                old.unlink(missing_ok=True)
        except OSError as error:
            raise DataError(f"Cannot write {path}: {error.strerror}.", hint="Free space.") from error

    def _paths(self) -> list[Path]:
        paths = []
        for path in self._folder.glob("*.json"):
            with contextlib.suppress(FileNotFoundError):  # another export has removed an old one
                paths.append((path.stat().st_mtime_ns, path))
        return [path for _, path in sorted(paths, reverse=True)]


def files_of(graph: Artifact) -> set[str]:
    """Return the names of the files that the builds of a graph read, over all projects that it was built from."""
    return {name for build in _builds_of(graph) for name in build.dependencies.files}


def is_current(graph: Artifact, places: Places) -> bool:
    """Return whether a build of a graph has dependencies that are all as they were, so that it would be skipped."""
    return any(not any(build.dependencies.changes(places, os.environ)) for build in _builds_of(graph))


def _builds_of(graph: Artifact) -> Iterator[Build]:
    name = graph.name.rpartition("-")[0]  # without the key
    for path in (graph.folder.parent.parent / "builds").glob(f"{glob.escape(name)}-*/*.json"):
        if (build := _load(path)) is not None and build.graph == graph.key:
            yield build


def _load(path: Path) -> Build | None:
    """Read the record of a build; one that cannot be read is no build."""
    try:
        return from_json(Build, reading.json_file(path), str(path))
    except DataError:
        return None


def content_key(graph: Artifact) -> str:
    """Return the key of a graph's content: all that a translation of it depends on.

    Files (structure, weights, expected outputs), and the facts about the model that its artifacts take over.
    """
    subject = replace(graph.subject, fidelity_passed=None)
    return bundle.make_key(
        {
            "digest": graph.digest,
            "subject": subject,
            "preprocessing": graph.preprocessing,
            "inputs": graph.inputs,
            "outputs": graph.outputs,
            "options": graph.options,
        }
    )
