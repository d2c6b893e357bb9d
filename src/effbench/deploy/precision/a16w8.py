"""a16w8 written into the graph as Q/DQ: 16-bit activations and 8-bit weights, for the Snapdragon NPU."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from effbench import drafts
from effbench.deploy import Array
from effbench.errors import MissingDependencyError, UsageError

if TYPE_CHECKING:
    from onnx import ModelProto


def to_a16w8(model: ModelProto, batches: Sequence[Mapping[str, Array]]) -> ModelProto:
    """Return the model with 16-bit activations and 8-bit weights for the Snapdragon NPU (Q/DQ everywhere).

    Weights are signed, with per-channel scales, and rounded as in int8 (`effbench.deploy.precision.rounding`).

    Raises:
        UsageError: There are no calibration batches.
        MissingDependencyError: onnxruntime is not installed.
    """
    import onnx

    from effbench.deploy.precision.rounding import round_weights

    if not batches:
        raise UsageError("a16w8 needs calibration images.", hint="Give --images FOLDER.")
    try:
        from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize
        from onnxruntime.quantization.execution_providers.qnn import get_qnn_qdq_config, qnn_preprocess_model
    except ImportError as error:
        raise MissingDependencyError("a16w8", "onnxruntime", "ort") from error

    class CalibrationReader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._remaining = iter(batches)

        def get_next(self) -> Mapping[str, Array] | None:
            return next(self._remaining, None)

    with drafts.scratch() as folder, contextlib.redirect_stdout(io.StringIO()):
        source, prepared, result = (Path(folder) / f"{name}.onnx" for name in ("source", "prepared", "result"))
        onnx.save(model, source)
        changed = qnn_preprocess_model(source, prepared)
        exact = onnx.load(prepared if changed else source)
        _unshare_vectors(exact)
        constants = {tensor.name for tensor in exact.graph.initializer}
        onnx.save(exact, prepared)
        config = get_qnn_qdq_config(
            prepared,
            CalibrationReader(),
            activation_type=QuantType.QUInt16,
            weight_type=QuantType.QInt8,
            weight_symmetric=True,
            per_channel=True,
            # A quantizer's clipping can replace a ReLU, but OpenVINO removes 16-bit quantizers from a graph.
            keep_removable_activations=True,
            # The HTP takes no signed weights of a LayerNormalization.
            init_overrides={
                node.input[1]: [{"quant_type": QuantType.QUInt8, "symmetric": False}]
                for node in exact.graph.node
                if node.op_type == "LayerNormalization" and node.input[1] in constants
            },
        )
        quantize(prepared, result, config)
        quantized = onnx.load(result)
    round_weights(exact, quantized, batches)
    return quantized


def _unshare_vectors(model: ModelProto) -> None:
    """Give each reader of a vector its own constant: a bias that is a weight elsewhere would be stored as a weight."""
    from onnx import TensorProto

    vectors = {t.name: t for t in model.graph.initializer if len(t.dims) == 1 and t.data_type == TensorProto.FLOAT}
    have_reader: set[str] = set()
    for node in model.graph.node:
        for i, name in enumerate(node.input):
            if name in have_reader:
                copy = model.graph.initializer.add()
                copy.CopyFrom(vectors[name])
                copy.name = node.input[i] = f"{name}/{node.output[0]}/{i}"
            elif name in vectors:
                have_reader.add(name)
