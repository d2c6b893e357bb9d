"""Images for a device: decoded and cut here, copied in portions, so that it needs only numpy and its runtime."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from effbench import drafts
from effbench.api.export.stage import STAGE_LIMIT_S
from effbench.api.remote import Remote
from effbench.codec import to_json
from effbench.data import Dataset, pixels
from effbench.device import AGENT
from effbench.schema import Artifact, Preprocessing

PORTION = 256
"""Images that are copied at a time; each portion is evaluated by a fresh agent."""


def evaluate(
    remote: Remote,
    artifact: Artifact,
    data: Dataset,
    tasks: Mapping[str, tuple[Preprocessing, Sequence[int]]],
    threads: int,
    batch: int | None,
) -> Iterator[dict[str, Any]]:
    """Evaluate an artifact on a device; yields the same events as a local agent.

    Raises:
        DataError: An image cannot be read; earlier events stay valid.
        DeviceError: The device cannot be reached, or was lost.
    """
    spec, size = artifact.image_input(), artifact.subject.shapes.pixels
    with drafts.scratch() as scratch:
        for name, (preprocessing, places) in tasks.items():
            for start in range(0, len(places), PORTION):
                portion = list(places[start : start + PORTION])
                items = [data.items[place] for place in portion]
                images = [pixels.read(item.read(), item.name, size, preprocessing, spec.channels) for item in items]
                np.save(file := Path(scratch) / "images.npy", np.stack(images))
                job = {
                    "op": "evaluate",
                    "artifact": remote.place(artifact),
                    "images": remote.put(file, "images"),
                    "labels": [item.label for item in items],
                    "threads": threads,
                    "batch": batch,
                    "workers": 1,
                    "tasks": [{"name": name, "preprocessing": to_json(preprocessing), "places": portion}],
                }
                yield from remote.run(AGENT, job, time_limit_s=STAGE_LIMIT_S)
