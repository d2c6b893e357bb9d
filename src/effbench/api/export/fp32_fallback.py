"""fp32 islands for a graph in half precision: the fewest operators that keep it within its limit, for all targets.

What one runtime, or the simulation of half precision, shows to be broken is not shipped to another one unverified. So
the targets of an export agree on one fp16 graph per size. If any of them that runs here misses its limit, or the
simulation does where a target cannot run here, all are made from the graph with islands.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from effbench import deploy
from effbench.api.export import stage
from effbench.api.export.source import code_hashes
from effbench.api.export.stage import EXPORT_WORKER, Limits, Notify
from effbench.codec import fingerprint
from effbench.deploy.artifact import bundle
from effbench.errors import EffbenchError, FidelityError
from effbench.schema import Artifact, Fidelity, InputShapes

if TYPE_CHECKING:
    from effbench.api.export.exporter import Exporter

IMAGES = 3
"""Natural images that the search runs over; each is run some dozens of times."""
SEARCH = "fp32_island_search"
"""The key of a graph's placement that keeps the result."""


@dataclass(frozen=True)
class Agreement:
    """The fp16 graph of all targets at one size: its islands, remarks, and what shows that it is not the model."""

    islands: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    broken: str = ""

    def check(self, target: str) -> None:
        """Refuse to make an artifact of a broken graph for a target that cannot run here.

        Raises:
            FidelityError: The graph is not the model.
        """
        if self.broken:
            raise FidelityError(
                f"The fp16 graph is not the model, and '{target}' cannot run here to show otherwise: {self.broken}.",
                hint="Export it in fp32, or on a machine where the target runs.",
            )


def runs_here(name: str) -> bool:
    """Return whether artifacts of a target can be compared with the reference on this machine."""
    target = deploy.get(name)
    return target.available() is None and (target.measurable() is None or target.simulates())


def agree(exporter: Exporter, shapes: InputShapes, targets: Sequence[str]) -> Agreement:
    """Return the fp16 graph that all targets of an export take at one size.

    Raises:
        EffbenchError: There is no fp16 graph.
    """
    half = exporter.in_precision(shapes, "fp16")
    free = [name for name in targets if "fp32" not in deploy.get(name).refuses]
    running = [name for name in free if runs_here(name)]
    simulated = len(running) < len(free)
    failures = [*_earlier(half), *_failures(exporter, shapes, running, ())]
    notes: tuple[str, ...] = ()
    if simulated and not failures:
        failures, notes = _simulated(exporter, half)
    if not failures:
        return Agreement(notes=notes)
    try:
        names = islands(exporter.in_precision(shapes, "fp32"), half, exporter.home, exporter.limits, exporter.notify)
    except EffbenchError as error:
        return Agreement((), (f"fp32 islands could not be tried: {error.message}",), failures[0])
    if not names:
        return Agreement((), ("no fp32 islands were found that would hold the limits",), failures[0])
    repaired = exporter.in_precision(shapes, "fp16", names)
    broken = list(_failures(exporter, shapes, running, names))
    if simulated and not broken:
        broken, notes = _simulated(exporter, repaired)
    notes += (f"{len(names)} fp32 islands were tried and did not suffice",) if broken else ()
    return Agreement(names, notes, broken[0] if broken else "")


def _earlier(half: Artifact) -> Iterator[str]:
    """Yield how artifacts of a graph failed in earlier exports."""
    if half.fidelity is not None and half.fidelity.failed:
        yield _failure(half.fidelity)
    for artifact in bundle.artifacts(half.folder.parent.parent, skip=True):
        if artifact.graph_digest == half.digest and artifact.fidelity is not None and artifact.fidelity.failed:
            yield _failure(artifact.fidelity)


def _failures(exporter: Exporter, shapes: InputShapes, targets: Sequence[str], names: Sequence[str]) -> Iterator[str]:
    """Yield how artifacts with islands fail; one that cannot be made or run has its own error later."""
    for target in targets:
        try:
            artifact = exporter.compared(exporter.artifact(shapes, target, "fp16", names)[0])
        except EffbenchError:
            continue
        if artifact.fidelity is not None and artifact.fidelity.failed:
            yield _failure(artifact.fidelity)


def _simulated(exporter: Exporter, graph: Artifact) -> tuple[list[str], tuple[str, ...]]:
    """Return how a graph fails in simulated half precision, and a note if it cannot be simulated."""
    try:
        proof = exporter.compared(graph).fidelity
    except EffbenchError as error:
        return [], (f"its half precision could not be simulated: {error.message}",)
    return ([_failure(proof)] if proof is not None and proof.failed else []), ()


def _failure(proof: Fidelity) -> str:
    return f"{proof.engine}: {'; '.join(proof.reasons)}"


def islands(full: Artifact, half: Artifact, home: Path, limits: Limits, notify: Notify) -> tuple[str, ...]:
    """Return fp32 islands with which a graph may hold its limits; empty if the search found none.

    The result is kept in the manifest of the half-precision graph, so that the same code searches once.

    Args:
        full: The graph in fp32.
        half: The same graph in fp16, which missed its limit.
        home: Where the records of failures belong.
        limits: Of the search.
        notify: Called with a line before the search.

    Raises:
        EffbenchError: The search ran out of time or memory, or an operator has no simulation.
    """
    half = bundle.load(half.folder, check_files=False)
    code = fingerprint(code_hashes("effbench.deploy.precision.diagnose"))
    result = half.placement.get(SEARCH)
    if result is None or result["code"] != code:
        notify(f"{half.name} misses its limit; search for fp32 islands")
        job = {"op": "fp32_islands", "graph": str(full.folder), "images": IMAGES}
        (answer,) = stage.run(EXPORT_WORKER, job, limits, home, full.name)
        if answer["late"]:
            notify(f"{half.name}: the search for fp32 islands ended at its limit of time; what it has by then is tried")
        result = {"code": code, "islands": answer["islands"]}
        bundle.annotate(half, placement={SEARCH: result})
    return tuple(result["islands"])
