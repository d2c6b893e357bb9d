"""Throughput of `effbench evaluate` against a bare loop over the same session, in alternating portions of images.

    python benchmarks/evaluate.py       (about 3 minutes on 2 idle cores)

The bare loop has its tensors ready and decodes nothing. The evaluating loop decodes JPEG images of 500 x 375 px in a
thread beside the runtime (1 thread). On a busy machine, decoding and the runtime share a core, and the ratio of wall
times is lower than on two idle cores. The ratio of the CPU time of the runtime's thread shows the loop's own cost.
"""

from __future__ import annotations

import argparse
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
from effbench.deploy.artifact import bundle, synthetic
from effbench.profiles.accuracy import EvaluationSettings, Images, evaluate, score_output

MODEL, TARGETS, ROUNDS, PORTION, WORKERS = "regla_m", ("ort", "ov"), 8, 48, 1


def photographs(count: int) -> list[bytes]:
    files = []
    for image in synthetic.reference_images(count, 3, (375, 500), 50):
        stream = io.BytesIO()
        Image.fromarray(image.transpose(1, 2, 0)).save(stream, "JPEG", quality=90)
        files.append(stream.getvalue())
    return files


def ratio(target: str, home: Path) -> tuple[float, float, float, float]:
    """Return images per second of the bare and the evaluating loop, and median ratios of wall and CPU time."""
    (cell,) = export(MODEL, [target], [224], verify=False, out=home)
    artifact = bundle.load(Path(cell.artifact))
    session = target_of(target).open(artifact, 1, {})
    spec, output, encoded = artifact.inputs[0], score_output(artifact.outputs, artifact.name).name, photographs(PORTION)

    def load(index: int) -> np.ndarray:
        image = pixels.read(encoded[index % PORTION], "x", (224, 224), artifact.preprocessing)
        tensor: np.ndarray = pixels.normalize(image[None], artifact.preprocessing, spec.dtype)[0]
        return tensor

    ready = [load(index)[None] for index in range(PORTION)]
    indices, bare_s, evaluate_s = range(PORTION), list[tuple[float, float]](), list[tuple[float, float]]()
    labels = [0] * PORTION
    for number in range(ROUNDS + 1):
        sides = [("bare", bare_s), ("evaluate", evaluate_s)]
        for name, seconds in sides if number % 2 else sides[::-1]:
            start = (time.perf_counter(), time.thread_time())
            if name == "bare":
                for tensor in ready:
                    session({spec.name: tensor})
            else:
                list(evaluate(session, Images(load, indices, labels), EvaluationSettings(spec, output, 1, WORKERS)))
            if number:  # the first round warms up
                seconds.append((time.perf_counter() - start[0], time.thread_time() - start[1]))
    pairs = zip(bare_s, evaluate_s, strict=True)
    ratios = [(bare[0] / evaluating[0], bare[1] / evaluating[1]) for bare, evaluating in pairs]
    rates = [PORTION / statistics.median(wall for wall, _ in seconds) for seconds in (bare_s, evaluate_s)]
    wall, processor = (statistics.median(column) for column in zip(*ratios, strict=True))
    return rates[0], rates[1], wall, processor


def run() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for target in TARGETS:
            bare, evaluating, wall, processor = ratio(target, Path(folder))
            rows.append((MODEL, target, bare, evaluating, wall, ">= 0.95", processor))
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
