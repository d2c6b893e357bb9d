"""Signal to noise of quantizers that write the same form of Q/DQ.

    python benchmarks/quantizers.py [--precision a16w8] [MODEL ...]     (about 20 minutes on 2 cores, a16w8 three)

In int8: onnxruntime's quantizer, NNCF, NNCF's ranges with weights rounded by `precision.rounding`, and the noisiest
operators in float (`precision.int8_noise`). In a16w8: weights rounded to the nearest level and by `precision.rounding`.
The models are untrained, calibrated with synthetic images and judged on five sets of six other images. The figures are
the signal to quantization noise in dB, without the mean over images, of the worst set and the best.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from pathlib import Path
from typing import TypeAlias
from unittest import mock

import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from tabulate import tabulate

from effbench.deploy import Array
from effbench.deploy.artifact import feeding, fidelity, synthetic
from effbench.deploy.graph import signature
from effbench.deploy.graph.run_ort import runner
from effbench.deploy.precision.a16w8 import to_a16w8
from effbench.deploy.precision.calibration import load_calibration
from effbench.deploy.precision.int8_noise import signal_to_noise_db, to_mixed_int8
from effbench.deploy.precision.quantize import QUANTIZED, to_int8
from effbench.schema import Preprocessing
from numerics import export

MODELS = ("regla_t", "regla_m", "iformer_t", "iformer_m", "resnet18")
HARD = ("efficientnet_b0", "repvit_m0_9", "mobilevitv2_050", "starnet_s1")
RESOLUTION = 224
JUDGE_SEEDS = (0, 100, 200, 300, 400)
Row: TypeAlias = dict[str, object]


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """Give onnxruntime one calibration batch a call."""

    def __init__(self, batches: list[dict[str, Array]]) -> None:
        self.batches = iter(batches)

    def get_next(self) -> dict[str, Array] | None:
        """Return the next batch, None at the end."""
        return next(self.batches, None)


def by_onnxruntime(model: onnx.ModelProto, batches: list[dict[str, Array]]) -> onnx.ModelProto:
    constants = {tensor.name for tensor in model.graph.initializer}
    products = [n.name for n in model.graph.node if n.op_type == "MatMul" and n.input[1] not in constants]
    with tempfile.TemporaryDirectory() as folder:
        source, result = Path(folder) / "source.onnx", Path(folder) / "result.onnx"
        onnx.save(model, source)
        quantize_static(
            source,
            result,
            Reader(batches),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(QUANTIZED),
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            nodes_to_exclude=products,
            extra_options={
                "ActivationSymmetric": True,
                "WeightSymmetric": True,
                "QuantizeBias": False,
                "MatMulConstBOnly": True,
                "DedicatedQDQPair": True,
                # Without this the residual stream is quantized too.
                "OpTypesToExcludeOutputQuantization": list(QUANTIZED),
            },
        )
        return onnx.load(result)


def by_nncf(model: onnx.ModelProto, batches: list[dict[str, Array]]) -> onnx.ModelProto:
    """Return the int8 graph of NNCF, with each weight rounded to the nearest level."""
    with mock.patch("effbench.deploy.precision.rounding.round_weights"):
        return to_int8(model, batches)


def in_int8(model: onnx.ModelProto, batches: list[dict[str, Array]]) -> tuple[dict[str, onnx.ModelProto], Row]:
    """Return the int8 graphs by quantizer, and figures of the search for the noisiest operators."""
    mixed = to_mixed_int8(model, batches)
    graphs = {
        "onnxruntime": by_onnxruntime(model, batches),
        "NNCF": by_nncf(model, batches),
        "GPTQ rounding": to_int8(model, batches),
        "GPTQ rounding, extremes": to_int8(model, batches, extremes=True),
        "noisiest in float": mixed.model,
    }
    return graphs, {
        "in float": f"{len(mixed.float_nodes)} of {mixed.quantizable}",
        "work in float": f"{mixed.share_pct:.0f} %",
        "ranges": "least error" if mixed.clipping is None else "extremes",
    }


def in_a16w8(model: onnx.ModelProto, batches: list[dict[str, Array]]) -> tuple[dict[str, onnx.ModelProto], Row]:
    """Return the graph with weights rounded to the nearest level, and with weights rounded for the output error."""
    with mock.patch("effbench.deploy.precision.rounding.round_weights"):
        nearest = to_a16w8(model, batches)
    return {"nearest level": nearest, "GPTQ rounding": to_a16w8(model, batches)}, {}


def run() -> int:
    logging.getLogger().setLevel(logging.ERROR)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=[*MODELS, *HARD], metavar="MODEL")
    parser.add_argument("--precision", choices=("int8", "a16w8"), default="int8")
    options = parser.parse_args()
    rows = []
    for name in options.models:
        model = export(name, RESOLUTION)
        spec = signature.guessed(model)[0]
        preprocessing, size = Preprocessing(), (RESOLUTION, RESOLUTION)
        batches = load_calibration("synthetic", size, preprocessing).feeds(1, (spec,), preprocessing)
        image_sets = [synthetic.reference_images(fidelity.NATURAL, 3, size, seed) for seed in JUDGE_SEEDS]
        judges = [feeding.feeds({spec.name: images}, 1, (spec,), preprocessing) for images in image_sets]
        graphs, figures = (in_int8 if options.precision == "int8" else in_a16w8)(model, batches)
        row: Row = {"untrained model": name, "px": RESOLUTION}
        for label, graph in graphs.items():
            levels = [
                signal_to_noise_db(fidelity.run_all(runner(model), feeds), fidelity.run_all(runner(graph), feeds))
                for feeds in judges
            ]
            row[f"{label}, dB"] = f"{min(levels):.1f} to {max(levels):.1f}"
        rows.append(row | figures)
        print(rows[-1], file=sys.stderr, flush=True)
    print(tabulate(rows, headers="keys", tablefmt="pipe"))
    return 0


if __name__ == "__main__":
    sys.exit(run())
