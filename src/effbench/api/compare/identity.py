"""What is compared to call both sides of a pair identical: graph, weights, files, runtime and options."""

from __future__ import annotations

from effbench import deploy
from effbench.api.compare.rounds import RoundSettings
from effbench.api.export.source import versions
from effbench.deploy.artifact import bundle
from effbench.schema import Artifact

Compared = dict[str, tuple[str, str]]
"""By quantity, its value on the base and on the candidate."""

GRAPH, FILES, TARGET, OPTIONS, PYTHON = "graph and weights", "files", "target", "options", "python"
UNKNOWN = "unknown"
"""The value of a graph that is not kept beside its artifact."""
SHOWN = 12
"""Hexadecimal digits of a hash in a message."""


def compared(a: Artifact, b: Artifact, settings: RoundSettings) -> Compared:
    """Return all that decides whether both sides run the same computation in the same way.

    Each value is that of the side as it would be timed: a runtime's version is that of its interpreter now, not the
    one that the artifact was made with.
    """
    pairs: Compared = {
        GRAPH: (_graph(a), _graph(b)),
        FILES: (a.digest, b.digest),
        TARGET: (a.subject.target, b.subject.target),
        OPTIONS: (_options(a), _options(b)),
        PYTHON: (" ".join(settings.python[0]), " ".join(settings.python[1])),
    }
    here = versions(*deploy.get(b.subject.target).packages)
    return pairs | {name: (version, version) for name, version in here.items()}


def identical(pairs: Compared) -> bool:
    """Return whether two sides are known to be identical, so that a measurement shows only noise.

    Where a graph is not kept beside its artifact, equal files decide: they hold the whole model.
    """
    differing = {name for name, (left, right) in pairs.items() if left != right}
    return not differing or (differing == {GRAPH} and UNKNOWN in pairs[GRAPH])


def sentence(pairs: Compared) -> str:
    """Return what was compared, with the values that both sides share."""
    shared = {name: left for name, (left, right) in pairs.items() if left == right and name != PYTHON}
    shown = [f"{name} {value[:SHOWN] if name in (GRAPH, FILES) else value}" for name, value in shared.items()]
    return f"equal on both sides: {', '.join(shown)}"


def _graph(artifact: Artifact) -> str:
    """Return the SHA-256 of the ONNX graph, weights included, that an artifact was made from."""
    for item in bundle.artifacts(artifact.folder.parent.parent, skip=True):
        if item.digest == artifact.graph_digest and item.entry in item.files:
            return item.files[item.entry].sha256
    return UNKNOWN


def _options(artifact: Artifact) -> str:
    own = {key: value for key, value in artifact.options.items() if key not in ("factory", "loader")}
    return " ".join(f"{key}={value}" for key, value in sorted(own.items())) or "none"
