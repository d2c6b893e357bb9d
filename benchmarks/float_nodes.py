"""Does the search for float nodes still choose the same ones? Print the digests of 12 graphs, four for each judge.

    python benchmarks/float_nodes.py [--out DIR] [--judge fp16 ...]       (about 6 minutes on 2 idle cores)

The three judges share one search (`effbench.deploy.precision.float_nodes`). For fp16 it is rounding over four images,
with the limits divided by a factor, so that an untrained network needs islands. For int8 it is quantization noise over
24 calibration images. For a bound it is the drop of top-1, in points, on the small networks of `bounded_int8.py`.

A digest is the start of the SHA-256 of the graph. These were recorded on 2026-11-29, before the judges shared a search:

| judge | model | px | condition | in float | digest |
|---|---|---|---|---|---|
| fp16 | regla_t | 96 | limits / 2 | 68 of 271 | 322b404f3ed4ad8a |
| fp16 | timm/mobilenetv3_small_100.lamb_in1k | 96 | limits / 1.5 | 15 of 122 | 695420e58287173a |
| fp16 | deit_t | 64 | limits / 6 | 159 of 397 | 90c8e402554e4cf1 |
| fp16 | timm/mobilevitv2_050.cvnets_in1k | 96 | limits / 1.3 | 130 of 323 | 2c25026f801006c1 |
| int8 | regla_t | 96 | | 31 of 118 | 4cf7c97123a6ec2a |
| int8 | timm/mobilenetv3_small_100.lamb_in1k | 96 | | 3 of 36 | db62a1d038381089 |
| int8 | timm/mobilevitv2_050.cvnets_in1k | 96 | | 38 of 65 | 236304d61f676ea8 |
| int8 | timm/efficientnet_b0.ra_in1k | 96 | | 32 of 50 | 8c9552da68f89325 |
| bound | fragile-0 | 32 | 1 point | 2 of 6 blocks | 30ed37ab1216b5fb |
| bound | fragile-1 | 32 | 1 point | 1 of 6 blocks | ac176338c1557e0c |
| bound | fragile-2 | 32 | 1.5 points | 2 of 6 blocks | 2645a183f0992f02 |
| bound | fragile-0 | 32 | 3 points | 2 of 6 blocks | 30ed37ab1216b5fb |

They hold for torch 2.13.0, onnx 1.23.2, onnxruntime 1.32.0, NNCF 3.4.0 and OpenVINO 2026.4.1 on x86-64 with AVX-512.
With other versions or processors, print the digests of both trees on one machine instead. Ends with 1 if one differs.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import torch
from onnx import ModelProto

import bounded_int8
from effbench.api.export.run import export
from effbench.deploy.artifact import bundle, feeding, synthetic
from effbench.deploy.artifact.limits import LIMITS
from effbench.deploy.graph import onnx_file
from effbench.schema import Artifact

FP16 = (
    ("regla_t", 96, 2),
    ("timm/mobilenetv3_small_100.lamb_in1k", 96, 1.5),
    ("deit_t", 64, 6),
    ("timm/mobilevitv2_050.cvnets_in1k", 96, 1.3),
)
"""Models, pixels, and the factor by which the limits are divided: the largest at which the search still succeeds."""
FP16_IMAGES = 4
INT8 = (
    ("regla_t", 96),
    ("timm/mobilenetv3_small_100.lamb_in1k", 96),
    ("timm/mobilevitv2_050.cvnets_in1k", 96),
    ("timm/efficientnet_b0.ra_in1k", 96),
)
INT8_IMAGES = 24
BOUND = ((0, 1.0), (1, 1.0), (2, 1.5), (0, 3.0))
"""Seeds of the fragile networks, and points of top-1."""

Row = tuple[str, str, int, str, str, str]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="keep the artifacts in this folder and reuse them")
    parser.add_argument("--judge", action="append", dest="judges", choices=JUDGES, help="repeatable; default: all")
    options = parser.parse_args()
    torch.set_num_threads(1)
    differing = 0
    with tempfile.TemporaryDirectory() as scratch:
        home = (options.out or Path(scratch)).resolve()
        for judge in options.judges or JUDGES:
            for row in JUDGES[judge](home):
                line = re.sub(" +", " ", f"| {' | '.join(map(str, row))} |")
                recorded = line in (__doc__ or "")
                differing += not recorded
                print(line if recorded else f"{line} differs", flush=True)
    return int(differing > 0)


def fp16_rows(home: Path) -> Iterator[Row]:
    """Yield the graphs with the islands that rounding asks for, under limits that are divided by a factor."""
    from effbench.deploy.precision.fp32_islands import HalfPrecisionJudge, add_noisiest
    from effbench.deploy.precision.half import to_fp16

    for name, size, factor in FP16:
        graph, model = exported(name, size, home)
        images = synthetic.reference_images(8, 3, (size, size))
        feeds = feeding.feeds({graph.inputs[0].name: images}, 1, graph.inputs, graph.preprocessing)[:FP16_IMAGES]
        limits = LIMITS["fp16"]
        tighter = {"p99_error": limits["p99_error"] / factor, "cosine": 1 - (1 - limits["cosine"]) / factor**2}
        with mock.patch.dict(limits, tighter):
            islands = add_noisiest(HalfPrecisionJudge(model, feeds, natural=FP16_IMAGES), frozenset())
        counts = f"{len(islands)} of {len(model.graph.node)}"
        yield "fp16", name, size, f"limits / {factor:g}", counts, digest(to_fp16(model, islands))


def int8_rows(home: Path) -> Iterator[Row]:
    """Yield the quantized graphs with their noisiest operators in float."""
    from effbench.deploy.precision.int8_noise import to_mixed_int8

    for name, size in INT8:
        graph, model = exported(name, size, home)
        images = synthetic.reference_images(INT8_IMAGES, 3, (size, size))
        result = to_mixed_int8(
            model, feeding.feeds({graph.inputs[0].name: images}, 1, graph.inputs, graph.preprocessing)
        )
        counts = f"{len(result.float_nodes)} of {result.quantizable}"
        yield "int8", name, size, "", counts, digest(result.model)


def bound_rows(home: Path) -> Iterator[Row]:
    """Yield the mixes that keep a bound on the drop of top-1, on networks that are trained here."""
    from effbench.api.quantize import quantize

    # The export of a module's network runs in a child process, which has to find the module.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    bounded_int8.write_images(home)
    seeds = dict.fromkeys(seed for seed, _ in BOUND)
    weights = {seed: bounded_int8.fragile_weights(home, seed) for seed in seeds}
    for seed, points in BOUND:
        out = home / f"float-nodes-{seed}-{points:g}"
        # Which float type is faster is a measurement, so it is fixed here.
        with mock.patch("effbench.api.quantize.search.ratio", return_value=1.0):
            (cell,) = quantize(
                "bounded_int8:net",
                [bounded_int8.TARGET],
                [bounded_int8.SIZE],
                images=home / "calibration",
                max_drop=points,
                data=home / "data" / "list.csv",
                weights=str(weights[seed]),
                out=out,
                verify=False,
                reduce_s=0,
            )
        if cell.artifact is None:
            raise SystemExit(f"fragile-{seed}, {points:g} points: {cell.status}: {cell.reason}")
        artifact = bundle.load(Path(cell.artifact))
        graph = next(item for item in bundle.artifacts(out) if item.digest == artifact.graph_digest)
        blocks = next(match for note in cell.notes if (match := re.match(r"mix: (\d+) of (\d+) blocks", note)))
        condition = f"{points:g} point{'s' if points != 1 else ''}"
        counts = f"{int(blocks[2]) - int(blocks[1])} of {blocks[2]} blocks"
        yield "bound", f"fragile-{seed}", bounded_int8.SIZE, condition, counts, digest(onnx_file.load(graph.path))


JUDGES = {"fp16": fp16_rows, "int8": int8_rows, "bound": bound_rows}


def exported(name: str, size: int, home: Path) -> tuple[Artifact, ModelProto]:
    """Return the fp32 graph of a model, untrained, as an artifact and loaded."""
    export(name, ["ort"], [size], out=home, verify=False, reduce_s=0)
    graphs = (item for item in bundle.artifacts(home) if item.subject.target == "onnx")
    fp32 = (item for item in graphs if item.subject.storage_precision == "fp32")
    graph = next(item for item in fp32 if (item.subject.model, item.subject.resolution) == (name, (size, size)))
    return graph, onnx_file.load(graph.path)


def digest(model: ModelProto) -> str:
    """Return the start of the SHA-256 of a graph."""
    return hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()[:16]


if __name__ == "__main__":
    sys.exit(main())
