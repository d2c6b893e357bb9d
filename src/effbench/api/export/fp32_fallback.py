"""When a graph in half precision misses its limit: the fewest operators whose computing in fp32 may save it."""

from __future__ import annotations

from pathlib import Path

from effbench.api.export import stage
from effbench.api.export.source import code_hashes
from effbench.api.export.stage import EXPORT_WORKER, Limits, Notify
from effbench.codec import fingerprint
from effbench.deploy.artifact import bundle
from effbench.schema import Artifact

IMAGES = 3
"""Natural images that the search for culprits runs over; each is run some dozens of times."""
PROPOSED = "fp32_island_search"


def islands(full: Artifact, half: Artifact, home: Path, limits: Limits, notify: Notify) -> tuple[str, ...]:
    """Return the fp32 islands with which a graph may hold its limits; none where no search found any.

    The answer is kept in the manifest of the half-precision graph, so that the same code searches once.

    Args:
        full: The graph in fp32.
        half: The same graph in fp16, that missed its limit.
        home: Where the records of failures belong.
        limits: Of the search.
        notify: Called with a line before the search.

    Raises:
        EffbenchError: The search ran out of time or memory, or an operator has no simulation.
    """
    code = fingerprint(code_hashes("effbench.deploy.precision.diagnose"))
    known = half.placement.get(PROPOSED)
    if known is None or known["code"] != code:
        notify(f"{half.name} misses its limit; look for the operators to blame")
        job = {"op": "rescue", "graph": str(full.folder), "few": IMAGES}
        (answer,) = stage.run(EXPORT_WORKER, job, limits, home, full.name)
        known = {"code": code, "islands": answer["islands"]}
        bundle.annotate(half, placement={**half.placement, PROPOSED: known})
    return tuple(known["islands"])
