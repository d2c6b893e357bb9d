"""Which quantizer loses less: NNCF as `effbench.deploy.quantize` uses it, or onnxruntime's, in the same form of Q/DQ.

Run with ``python benchmarks/quantizers.py`` (about 10 minutes on 2 cores). Untrained models; calibrated with synthetic
pictures, judged on others. Signal to quantization noise in dB, the mean over pictures taken off.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import onnx
import onnxruntime as ort
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from tabulate import tabulate

from effbench.deploy import Array, fidelity, onnx_file
from effbench.deploy.calibration import load_calibration
from effbench.deploy.quantize import QUANTIZED, to_int8
from effbench.deploy.sensitive import signal_to_noise_db
from effbench.schema import Preprocessing
from numerics import export

MODELS = ("regla_m", "iformer_m", "convnext_atto", "resnet18")
RESOLUTION = 224


class Reader(CalibrationDataReader):
    """Hands calibration batches to onnxruntime, one a call."""

    def __init__(self, batches: list[dict[str, Array]]) -> None:
        self.left = iter(batches)

    def get_next(self) -> dict[str, Array] | None:
        """Return the next batch, None at the end."""
        return next(self.left, None)


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


def outputs(model: onnx.ModelProto, feeds: list[dict[str, Array]]) -> dict[str, Array]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(feed: Mapping[str, Array]) -> dict[str, Array]:
        return dict(zip(names, session.run(None, dict(feed)), strict=True))

    return fidelity.run_all(run, feeds)


def run() -> int:
    logging.getLogger().setLevel(logging.ERROR)
    rows = []
    for name in MODELS:
        model = export(name, RESOLUTION)
        spec = onnx_file.inputs(model)[0]
        calibration = load_calibration("synthetic", (RESOLUTION, RESOLUTION), Preprocessing())
        batches = calibration.feeds(1, spec, Preprocessing())
        images = fidelity.pictures(fidelity.NATURAL, 3, (RESOLUTION, RESOLUTION))
        feeds = fidelity.feeds(images, 1, spec, Preprocessing())
        expected = outputs(model, feeds)
        row: dict[str, object] = {"untrained model": name, "px": RESOLUTION}
        for label, quantize in (("onnxruntime", by_onnxruntime), ("NNCF", to_int8)):
            row[f"{label} dB"] = signal_to_noise_db(expected, outputs(quantize(model, batches), feeds))
        rows.append(row)
        print(row, file=sys.stderr, flush=True)
    print(tabulate(rows, headers="keys", floatfmt=".1f"))
    return 0


if __name__ == "__main__":
    sys.exit(run())
