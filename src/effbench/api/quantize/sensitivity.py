"""How much each block of a graph changes the model's output if that block alone is in int8."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from effbench import process, reading
from effbench.api.evaluate.session import EvaluationRun
from effbench.api.export.stage import STAGE_LIMIT_S
from effbench.codec import fingerprint
from effbench.schema import Artifact
from effbench.store import write_atomically

SEARCH_WORKER = "effbench.api.quantize.worker"
SENSITIVITY_IMAGES = 48


@dataclass(frozen=True)
class Sensitivity:
    """A block, its work, and the mean divergence from fp32, in nats, if that block alone is in int8."""

    name: str
    nodes: tuple[str, ...]
    macs: int
    divergence: float


def sensitivities(graph: Artifact, int8: Artifact, images: Sequence[int], call: EvaluationRun) -> list[Sensitivity]:
    """Return the sensitivity of each block, from the store if it was measured before.

    Args:
        graph: In fp32.
        int8: The same graph in int8.
        images: Indices into the data set of `call`.
        call: Names the data, the folder of results, and the function that is called with one line per block.
    """
    key = fingerprint({"graph": graph.digest, "int8": int8.digest, "data": call.info.sha256, "images": list(images)})
    file = call.home / "searches" / f"{key[:16]}.json"
    if file.exists():
        return [_sensitivity(item) for item in reading.json_file(file)]
    call.notify("sensitivity of each block")
    job = {
        "op": "sensitivity",
        "graph": str(graph.folder.resolve()),
        "int8": str(int8.folder.resolve()),
        "data": str(call.place.resolve()),
        "classes": call.classes,
        "images": list(images),
    }
    items = []
    for event in process.run(SEARCH_WORKER, job, time_limit_s=STAGE_LIMIT_S, limit_silence=True):
        items.append({name: event[name] for name in ("name", "nodes", "macs", "divergence")})
        call.notify(f"block {event['name']}: {event['divergence']:.2e} nats")
    write_atomically(file, json.dumps(items))
    return [_sensitivity(item) for item in items]


def _sensitivity(item: dict[str, Any]) -> Sensitivity:
    return Sensitivity(**{**item, "nodes": tuple(item["nodes"])})


def worst_blocks(blocks: Sequence[Sensitivity]) -> str:
    """Return the three largest sensitivities as a line of text."""
    worst = sorted(blocks, key=lambda block: -block.divergence)[:3]
    listed = "; ".join(f"{block.name} {block.divergence:.2g}" for block in worst)
    return f"divergence by int8 in one block alone, in nats, the largest of {len(blocks)}: {listed}"
