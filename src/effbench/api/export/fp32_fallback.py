"""fp32 islands for a graph in half precision that misses its limit: the fewest operators that keep it within."""

from __future__ import annotations

from pathlib import Path

from effbench.api.export import stage
from effbench.api.export.source import code_hashes
from effbench.api.export.stage import EXPORT_WORKER, Limits, Notify
from effbench.codec import fingerprint
from effbench.deploy.artifact import bundle
from effbench.schema import Artifact

IMAGES = 3
"""Natural images that the search runs over; each is run some dozens of times."""
SEARCH = "fp32_island_search"
"""The key of a graph's placement that keeps the result."""


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
    code = fingerprint(code_hashes("effbench.deploy.precision.diagnose"))
    result = half.placement.get(SEARCH)
    if result is None or result["code"] != code:
        notify(f"{half.name} misses its limit; search for fp32 islands")
        job = {"op": "fp32_islands", "graph": str(full.folder), "images": IMAGES}
        (answer,) = stage.run(EXPORT_WORKER, job, limits, home, full.name)
        result = {"code": code, "islands": answer["islands"]}
        bundle.annotate(half, placement={**half.placement, SEARCH: result})
    return tuple(result["islands"])
