"""From a backbone to checked artifacts: one ONNX graph, then a plain translation per target.

A target is one module of `effbench.deploy.targets` that ends in ``TARGET``, or an entry point of the group
``effbench.targets`` in somebody else's package. `convert` is heavy and runs on the work station; `open` is light and
runs on the device, with numpy, the standard library and that runtime alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from effbench.errors import unknown_name
from effbench.registry import constants_in, plugins
from effbench.schema import Artifact

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]
else:
    Array = Any  # numpy takes longer to import than listing the targets


class Session(Protocol):
    """A loaded artifact. One promise: a call returns only when its outputs are readable on the host."""

    compute_precision: str | None
    """What the runtime says it computes in, read back, or None where it cannot tell."""
    simulated: bool
    """True where this is not the hardware the artifact is for: good for fidelity, worthless for latency."""

    def __call__(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        """Run once, end to end: host arrays in, host arrays out."""

    def placement(self) -> dict[str, Any]:
        """Say where the operators run, in the runtime's own words."""

    def close(self) -> None:
        """Free what the session holds."""


@dataclass(frozen=True)
class Converted:
    """What a target made: the file a runtime opens, and what is known of it offline."""

    entry: str
    storage_precision: str
    compute_precision: str | None = None
    placement: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Target(Protocol):
    """A runtime that artifacts are made for.

    It may also have ``refuses``: precisions that it takes on no machine, each with the reason.
    """

    name: str
    title: str
    extra: str
    """The extra of this package that installs what the target needs."""
    packages: tuple[str, ...]
    """Distributions whose versions decide what `convert` makes; they enter the artifact's key."""
    precision: str
    """The default precision."""
    options: Mapping[str, str]
    """What ``--set key=value`` may say: key -> one line that explains it. Others are refused."""
    checks: tuple[Mapping[str, str], ...]
    """Options to open an artifact with when its fidelity is checked, one check each; all have to pass."""

    def available(self) -> str | None:
        """Return None where artifacts can be made here (`convert`), else the reason why not."""

    def measurable(self) -> str | None:
        """Return None where a latency can be measured here, else the reason why not."""

    def convert(self, graph: Artifact, out: Path, options: Mapping[str, str]) -> Converted:
        """Translate an ONNX graph artifact (precision inside) into files below ``out``."""

    def open(self, artifact: Artifact, threads: int, options: Mapping[str, str]) -> Session:
        """Load an artifact for inference, on a simulator where that is all there is.

        Raises:
            UnavailableError: It cannot be loaded here at all, not even to verify it.
        """


@cache
def registered() -> dict[str, Target]:
    """Return all built targets by name, ours first, then those of other packages."""
    found: dict[str, Target] = {target.name: target for target in constants_in("effbench.deploy.targets", "TARGET")}
    for point in plugins("effbench.targets"):
        found.setdefault(point.name, point.load())
    return found


def get(name: str) -> Target:
    """Return a target by name.

    Raises:
        UsageError: The name is unknown.
    """
    one = _of_that_name(name)
    if one is not None:
        return one
    found = registered()
    if name in found:
        return found[name]
    raise unknown_name(name, found, "target")


def _of_that_name(name: str) -> Target | None:
    """Return the target of a module called like it, without the others: every round on a device starts with this."""
    module = f"effbench.deploy.targets.{name.replace('-', '_')}"
    if not name.replace("-", "_").isidentifier() or find_spec(module) is None:
        return None
    target: Target | None = getattr(import_module(module), "TARGET", None)
    return target if target is not None and target.name == name else None


__all__ = ["Array", "Converted", "Session", "Target", "get", "registered"]
