"""int8 written into the graph as Q/DQ, with scales from calibration images.

It has the one form that ONNX Runtime, OpenVINO, TensorRT and Core ML all take: signed and symmetric, per-channel
scales for weights, weights stored as int8, biases in float, and only convolutions and products with a constant matrix
quantized. NNCF chooses the scales: it measured better than onnxruntime's quantizer (docs/explanation/numerics.md).
effbench rounds the weights itself (`effbench.deploy.precision.rounding`).
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from effbench.deploy import Array
from effbench.deploy.graph import onnx_file
from effbench.errors import ConversionError, MissingDependencyError, UsageError

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

QUANTIZED = ("Conv", "Gemm", "MatMul")
HALF_RANGE = 64
"""The largest level of a weight that is summed over channels. Without VNNI (AVX2, most x86 before 2021), OpenVINO adds
pairs of 8-bit products in 16 bits, which overflow with larger levels; cosines of networks then drop below 0.4."""
_MOVES = ("Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity")
_TRANSPARENT = (*_MOVES, "Constant")


def to_int8(model: ModelProto, batches: Sequence[Mapping[str, Array]], extremes: bool = False) -> ModelProto:
    """Return the model with convolutions and constant matrix products in int8 (Q/DQ).

    Args:
        model: An fp32 graph of static shape.
        batches: Preprocessed calibration inputs (`effbench.deploy.precision.calibration`).
        extremes: Take the quantization range of an activation from the largest value of all batches, so that none is
            clipped. By default it is the range of least squared error, which clips rare values.

    Raises:
        UsageError: There are no calibration batches.
        MissingDependencyError: NNCF or onnxruntime is not installed.
        ConversionError: NNCF refuses the graph, or writes Q/DQ in a form that some targets refuse.
    """
    from effbench.deploy.precision.mix import mixed
    from effbench.deploy.precision.rounding import round_weights

    if not batches:
        raise UsageError("int8 needs calibration images.", hint="Give --images FOLDER.")
    model = _recent(model)
    quantized = _nncf(model, batches, extremes)
    _fold_weights(quantized)
    _halve_range(quantized)
    _make_signed(quantized)
    _move_next_to_readers(quantized)
    round_weights(model, quantized, batches)
    result = mixed(model, quantized, ())  # NNCF lets some nodes in float read Q/DQ as well
    check_form(result)
    return result


LEAST_OPSET = 13
"""From opset 13 on, QuantizeLinear has scales per channel."""


def _recent(model: ModelProto) -> ModelProto:
    """Return a model in an opset that has Q/DQ as it is written here.

    Raises:
        ConversionError: It has control flow, or the package onnx cannot raise its opset.
    """
    import onnx

    for node in model.graph.node:
        if onnx_file.bodies(node):
            raise ConversionError("int8", "the graph has control flow", node=node.name, op=node.op_type)
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), LEAST_OPSET)
    if opset >= LEAST_OPSET:
        return model
    try:
        raised = onnx.version_converter.convert_version(model, LEAST_OPSET)
    except Exception as error:  # its C++ code raises what its checks raise
        text = next(iter(str(error).strip().splitlines()), "no message")
        raise ConversionError("int8", f"opset {opset} cannot be raised to {LEAST_OPSET}: {text}") from error
    return onnx.shape_inference.infer_shapes(raised, data_prop=True)


def _nncf(model: ModelProto, batches: Sequence[Mapping[str, Array]], extremes: bool) -> ModelProto:
    with _silenced():
        try:
            import nncf
            from nncf.quantization.advanced_parameters import (
                AdvancedQuantizationParameters,
                OverflowFix,
                QuantizationMode,
                QuantizationParameters,
            )
            from nncf.quantization.range_estimator import RangeEstimatorParametersSet
        except ImportError as error:
            raise MissingDependencyError("int8", "nncf", "int8") from error
        constants = {tensor.name for tensor in model.graph.initializer}
        types = {node.op_type for node in model.graph.node} - {*QUANTIZED, *_TRANSPARENT}
        products = [n.name for n in model.graph.node if n.op_type == "MatMul" and not constants & set(n.input)]
        symmetric = QuantizationParameters(mode=QuantizationMode.SYMMETRIC)
        ranges = RangeEstimatorParametersSet.MINMAX if extremes else RangeEstimatorParametersSet.HISTOGRAM
        try:
            result = nncf.quantize(
                model,
                nncf.Dataset(list(batches)),
                preset=nncf.QuantizationPreset.PERFORMANCE,
                subset_size=len(batches),
                ignored_scope=nncf.IgnoredScope(types=sorted(types), names=products, validate=False),
                advanced_parameters=AdvancedQuantizationParameters(
                    overflow_fix=OverflowFix.ENABLE,  # see HALF_RANGE
                    activations_quantization_params=symmetric,
                    # Averaged extremes, NNCF's default, clip images of high contrast; the extremes of all images waste
                    # levels on one pixel. The range of least error over all values measured best on most models.
                    activations_range_estimator_params=ranges,
                ),
            )
        except Exception as error:  # NNCF has no class of its own, and meets graphs that its rules do not foresee
            text = next(iter(str(error).strip().splitlines()), "no message")
            raise ConversionError("int8", f"NNCF: {type(error).__name__}: {text}") from error
    quantized: ModelProto = result
    return quantized


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Keep NNCF's progress bars off stdout, which belongs to ``--json``."""
    logging.getLogger("nncf").setLevel(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def _constants(model: ModelProto) -> dict[str, Any]:
    from onnx import numpy_helper

    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def _replace_constant(model: ModelProto, name: str, value: Array) -> None:
    from onnx import numpy_helper

    for tensor in model.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(numpy_helper.from_array(value, name))


def _axis(node: NodeProto) -> int:
    return next((a.i for a in node.attribute if a.name == "axis"), 1)


def _fold_weights(model: ModelProto) -> None:
    """Store quantized weights as int8: TensorRT needs a constant before DequantizeLinear, and files get smaller."""
    from onnx import numpy_helper

    constants = _constants(model)
    for node in [n for n in model.graph.node if n.op_type == "QuantizeLinear" and n.input[0] in constants]:
        weight, scale, zero = (constants[name] for name in node.input)
        shape = [1] * weight.ndim
        if scale.size > 1:
            shape[_axis(node)] = -1
        limits = np.iinfo(zero.dtype)
        levels = np.rint(weight / scale.reshape(shape)) + zero.reshape(shape).astype(np.float64)
        folded = np.clip(levels, limits.min, limits.max).astype(zero.dtype)
        model.graph.initializer.append(numpy_helper.from_array(folded, node.output[0]))
        for reader in (n for n in model.graph.node if node.output[0] in n.input):
            for attribute in (a for a in reader.attribute if a.name == "axis"):
                attribute.i %= weight.ndim  # some runtimes refuse a negative axis
        model.graph.node.remove(node)


def _halve_range(model: ModelProto) -> None:
    """Halve the weights of grouped convolutions, which NNCF leaves at the full range, to `HALF_RANGE`."""
    constants = _constants(model)
    for node in model.graph.node:
        weight = constants.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if weight is None or weight.dtype != np.int8 or weight.ndim < 2 or weight.shape[1] == 1:
            continue
        if np.abs(weight.astype(np.int16)).max() > HALF_RANGE:
            _replace_constant(model, node.input[0], np.rint(weight / 2).astype(np.int8))
            _replace_constant(model, node.input[1], constants[node.input[1]] * np.float32(2))


def _make_signed(model: ModelProto) -> None:
    """Make unsigned activations, such as outputs of a ReLU, signed: the same largest value, half the levels."""
    constants = _constants(model)
    signed: set[str] = set()
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and constants[node.input[2]].dtype == np.uint8:
            _, scale, zero = node.input
            if np.any(constants[zero]):
                raise ConversionError("int8", "asymmetric activations", node=node.name, op=node.op_type)
            if scale not in signed:
                _replace_constant(model, scale, (constants[scale] * np.float32(255 / 127)).astype(np.float32))
            signed |= {scale, zero}
    for name in signed:
        if constants[name].dtype == np.uint8:
            _replace_constant(model, name, constants[name].astype(np.int8))


def _move_next_to_readers(model: ModelProto) -> None:
    """Move Q/DQ behind a Transpose or Reshape, directly in front of the nodes that compute in int8.

    Values stay the same. But `effbench.deploy.precision.mix` looks for Q/DQ only there, and OpenVINO 2026.4.1 computed
    EfficientViT-B0 wrong with Q/DQ in front of a Transpose and a Reshape.
    """
    constants = _constants(model)
    producers = {name: node for node in model.graph.node for name in node.output}
    moves: dict[str, tuple[NodeProto, NodeProto, NodeProto]] = {}
    readers: dict[str, list[NodeProto]] = {}
    for node in model.graph.node:
        weight = producers.get(node.input[1]) if node.op_type in QUANTIZED else None
        if weight is None or weight.input[0] not in constants:
            continue
        first, producer = None, producers.get(node.input[0])
        while producer is not None and producer.op_type in _MOVES:
            first, producer = producer, producers.get(producer.input[0])
        if first is None or producer is None or producer.op_type != "DequantizeLinear":
            continue
        quantizer = producers.get(producer.input[0])
        if quantizer is not None and constants[producer.input[1]].size == 1:
            moves[node.input[0]] = (first, quantizer, producer)
            readers.setdefault(node.input[0], []).append(node)
    for name, (first, quantizer, dequantizer) in moves.items():
        first.input[0] = quantizer.input[0]
        index = next(i for i, node in enumerate(model.graph.node) if name in node.output) + 1
        for reader in readers[name]:
            reader.input[0] = f"{name}/dequantized"
        for old, source, output in (
            (dequantizer, f"{name}/quantized", f"{name}/dequantized"),
            (quantizer, name, f"{name}/quantized"),
        ):
            new = type(old)()
            new.CopyFrom(old)
            new.name, new.input[0], new.output[0] = output, source, output
            model.graph.node.insert(index, new)


def check_form(model: ModelProto) -> None:
    """Check that the Q/DQ of a graph has the form that every target takes.

    Raises:
        ConversionError: A zero point is not a signed zero, a bias or an activation constant is quantized, or a node
            other than a convolution or a matrix product reads a dequantized weight.
    """
    constants = _constants(model)
    readers: dict[str, list[tuple[NodeProto, int]]] = {}
    for node in model.graph.node:
        for i, name in enumerate(node.input):
            readers.setdefault(name, []).append((node, i))
    for node in model.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        zero = constants.get(node.input[2]) if len(node.input) > 2 else np.zeros(1, np.int8)
        if zero is None or zero.dtype != np.int8 or np.any(zero):
            raise ConversionError("int8", "a zero point that is not a signed zero", node=node.name, op=node.op_type)
        weight = node.op_type == "DequantizeLinear" and node.input[0] in constants
        for reader, slot in readers.get(node.output[0], ()):
            if weight and (reader.op_type not in QUANTIZED or slot > 1):
                raise ConversionError("int8", f"a quantized constant feeds {reader.op_type}", node=node.name)
