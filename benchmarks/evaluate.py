"""Throughput of `effbench evaluate` against a bare loop over the same session, interleaved image portion by portion.

Run with ``python benchmarks/evaluate.py`` (about 3 minutes on 2 quiet cores). The bare loop has its tensors ready and
decodes nothing; the evaluating loop decodes JPEG images of 500 x 375 px in threads beside the runtime (1 thread).
Where other work runs, decoding and the runtime share a core, and the ratio of wall times falls below what it is on two
quiet cores; the ratio of the runtime's thread's CPU time, beside it, says what the loop itself adds.
"""

from __future__ import annotations

import io
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from tabulate import tabulate

from effbench.api.export.run import export
from effbench.data import pixels
from effbench.deploy import get as target_of
from effbench.deploy.artifact import bundle, fidelity
from effbench.profiles.accuracy import evaluate, score_output

MODEL, TARGETS, ROUNDS, PORTION, WORKERS = "regla_m", ("ort", "ov"), 8, 48, 1


def photographs(count: int) -> list[bytes]:
    found = []
    for image in fidelity.reference_images(count, 3, (375, 500), 50):
        stream = io.BytesIO()
        Image.fromarray(image.transpose(1, 2, 0)).save(stream, "JPEG", quality=90)
        found.append(stream.getvalue())
    return found


def ratio(target: str, home: Path) -> tuple[float, float, float, float]:
    """Return images a second of the bare loop and of ours, and median ratios of the rounds: of wall and CPU time."""
    (cell,) = export(MODEL, [target], [224], verify=False, out=home)
    artifact = bundle.load(Path(cell.artifact))
    session = target_of(target).open(artifact, 1, {})
    spec, output, encoded = artifact.inputs[0], score_output(artifact.outputs, artifact.name).name, photographs(PORTION)

    def load(place: int) -> np.ndarray:
        image = pixels.read(encoded[place % PORTION], "x", (224, 224), artifact.preprocessing)
        return pixels.normalize(image[None], artifact.preprocessing, spec.dtype)[0]

    ready = [load(place)[None] for place in range(PORTION)]
    places, bare_s, ours_s = range(PORTION), list[tuple[float, float]](), list[tuple[float, float]]()
    for number in range(ROUNDS + 1):
        sides = [("bare", bare_s), ("ours", ours_s)]
        for name, seconds in sides if number % 2 else sides[::-1]:
            start = (time.perf_counter(), time.thread_time())
            if name == "bare":
                for tensor in ready:
                    session({spec.name: tensor})
            else:
                list(evaluate(session, load, places, [0] * PORTION, spec=spec, output=output, batch=1, workers=WORKERS))
            if number:  # the first round warms up
                seconds.append((time.perf_counter() - start[0], time.thread_time() - start[1]))
    pairs = [[a / b for a, b in zip(bare, ours, strict=True)] for bare, ours in zip(bare_s, ours_s, strict=True)]
    bare, ours = (PORTION / statistics.median(wall for wall, _ in seconds) for seconds in (bare_s, ours_s))
    wall, processor = (statistics.median(column) for column in zip(*pairs, strict=True))
    return bare, ours, wall, processor


def run() -> int:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for target in TARGETS:
            bare, ours, seen, processor = ratio(target, Path(folder))
            rows.append((MODEL, target, bare, ours, seen, ">= 0.95", processor))
    header = (
        "model, 224 px",
        "target",
        "bare loop, images/s",
        "evaluate, images/s",
        "ratio",
        "to reach",
        "CPU ratio",
    )
    print(tabulate(rows, headers=header, floatfmt=("", "", ".1f", ".1f", ".3f", "", ".3f")))
    return 0 if all(row[4] >= 0.95 for row in rows) else 1


if __name__ == "__main__":
    sys.exit(run())
