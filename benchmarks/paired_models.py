"""int8 and a16w8 of untrained models, operator by operator: false alarms, and seeded faults of a runtime.

    python benchmarks/paired_models.py [--only regla_t ...] [--precision int8] [--each 3]     (an hour on 2 cores)

Each model is exported at a small size and quantized as an export does it. The quantized graph is paired with its float
graph, and ONNX Runtime and OpenVINO with the quantized graph, over the images that an export pairs on. These graphs and
runtimes are right: every fault that is named is a false alarm. Then ONNX Runtime runs wrong copies of the quantized
graph (`deploy.graph.mutations`: one weight scaled by 2 %, an axis mirrored), which the pairing with the right graph has
to find. A copy with the outputs and levels of the right graph, both run without optimizations, is *equivalent*.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from tabulate import tabulate

from effbench import deploy
from effbench.api.export.run import fp32_graph
from effbench.api.export.source import resolve
from effbench.api.export.stage import STAGE_LIMIT_S, Limits
from effbench.api.export.worker_precision import PAIRED_IMAGES
from effbench.deploy.graph import mutations, onnx_file
from effbench.deploy.graph.run_ort import runner
from effbench.deploy.precision.a16w8 import to_a16w8
from effbench.deploy.precision.calibration import SYNTHETIC, load_calibration
from effbench.deploy.precision.int8_noise import to_mixed_int8
from effbench.deploy.precision.pairing import pair
from effbench.deploy.precision.pairing.runtime import inner_tensors, pair_runtime
from effbench.errors import ConversionError, EffbenchError
from effbench.schema import Artifact, InputShapes

MODELS = {
    "timm/test_efficientnet": 64,
    "timm/test_resnet": 64,
    "timm/test_convnext": 64,
    "timm/test_nfnet": 96,
    "timm/test_byobnet": 64,
    "timm/test_mambaout": 64,
    "timm/mobilenetv2_050": 96,
    "timm/mobilenetv3_small_050": 96,
    "regla_t": 64,
    "deit_t": 64,
    "timm/regnetx_002": 64,
    "timm/efficientvit_b0": 64,
    "iformer_t": 64,
    "aft_conv_t_h32": 64,
    "timm/mobilevitv2_050": 64,
    "regla_s": 96,
    "timm/repvgg_a0": 64,
    "aft_full_t": 64,
    "lambda_resnet26": 64,
}
"""Height and width in pixels by model, the quick ones first."""
COUNTS = ("operators", "alarms", "levels", "ort alarms", "ov alarms", "found", "missed", "equivalent")
HEAD = ("model", "px", "precision", *COUNTS, "s")
SEEDED = ("weight scaled 2 %", "axis mirrored")


def row(graph: Artifact, precision: str, each: int) -> list[Any]:
    """Quantize a graph artifact, and return its `COUNTS`."""
    calibration = load_calibration(SYNTHETIC, graph.subject.resolution, graph.preprocessing)
    batches = calibration.feeds(1, graph.inputs, graph.preprocessing)
    model = onnx_file.load(graph.path)
    quantized = to_a16w8(model, batches) if precision == "a16w8" else to_mixed_int8(model, batches).model
    quantized, feeds = onnx_file.infer_shapes(quantized, graph.name), batches[:PAIRED_IMAGES]
    result = pair(model, quantized, feeds)
    faults = {"": result.faults}
    tensors = inner_tensors(quantized)
    for name in ("ort", "ov"):
        with tempfile.TemporaryDirectory() as folder:
            traced = deploy.get(name).traced(_written(graph, quantized, Path(folder)), {}, tensors)
            assert traced is not None
            compared, faults[name] = (runtime := pair_runtime(quantized, traced, feeds)).compared, runtime.faults
    for name, items in faults.items():
        print(*(f"   {name} {item}" for item in items[:3]), sep="\n", end="\n" if items else "", file=sys.stderr)
    counts = Counter(_outcomes(quantized, feeds, each, graph.name))
    seeded = [counts[name] for name in ("found", "missed", "equivalent")]
    return [result.compared, len(faults[""]), compared, len(faults["ort"]), len(faults["ov"]), *seeded]


def _written(graph: Artifact, quantized: onnx.ModelProto, folder: Path) -> Artifact:
    onnx.save(quantized, folder / "model.onnx")
    return replace(graph, folder=folder, entry="model.onnx")


def _outcomes(quantized: onnx.ModelProto, feeds: Any, each: int, seed: str) -> list[str]:
    tensors, outcomes = inner_tensors(quantized), []
    right = runner(quantized, tensors, optimized=False)(feeds[0])
    for mutation in mutations.mutations(quantized, each, seed, SEEDED):
        try:
            traced = runner(mutation.model, tensors)
            faults = pair_runtime(quantized, traced, feeds).faults
        except ConversionError as error:
            print(f"   refused: {mutation.place}: {error.message}", file=sys.stderr)
            continue
        if faults:
            outcomes.append("found")
            continue
        wrong = runner(mutation.model, tensors, optimized=False)(feeds[0])
        same = all(
            np.allclose(right[name], wrong[name], rtol=0, atol=1e-6 * np.abs(right[name]).max()) for name in right
        )
        outcomes.append("equivalent" if same else "missed")
        print(f"   {outcomes[-1]}: {mutation.kind}: {mutation.place}", file=sys.stderr)
    return outcomes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", default=[], metavar="MODEL")
    parser.add_argument("--precision", action="append", choices=("int8", "a16w8"))
    parser.add_argument("--each", type=int, default=3, help="wrong copies of each kind")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as home:
        for name in options.only or MODELS:
            for precision in options.precision or ("int8", "a16w8"):
                start, shapes = time.perf_counter(), InputShapes((MODELS[name], MODELS[name]))
                try:
                    graph = fp32_graph(resolve(name, None, 0), shapes, Path(home), Limits.of(STAGE_LIMIT_S))
                    counts = row(graph, precision, options.each)
                except EffbenchError as error:
                    print(f"{name} {precision}: {error.message}", file=sys.stderr, flush=True)
                    continue
                rows.append([name, shapes, precision, *counts, f"{time.perf_counter() - start:.0f}"])
                print(*rows[-1], sep="\t", file=sys.stderr, flush=True)
    totals = [sum(row[column] for row in rows) for column in range(3, len(HEAD) - 1)]
    print(tabulate([*rows, ["all", "", "", *totals, ""]], HEAD, tablefmt="pipe"))
    return int(any(totals[column] for column in (1, 3, 4)))


if __name__ == "__main__":
    sys.exit(main())
