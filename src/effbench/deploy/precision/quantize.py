"""int8 and a16w8 written into the graph as Q/DQ, from calibration images.

int8 has the one form that ONNX Runtime, OpenVINO, TensorRT and Core ML all take: signed and symmetric, weights per
channel and stored as int8, biases in float, and only convolutions and products with a constant matrix quantized.
NNCF chooses the scales: it measured better than onnxruntime's quantizer (docs/explanation/numerics.md). To which levels
weights are rounded is effbench's own choice (`effbench.deploy.precision.rounding`), in a16w8 too.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from effbench.deploy import Array
from effbench.errors import ConversionError, MissingDependencyError, UsageError

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

QUANTIZED = ("Conv", "Gemm", "MatMul")
HALF_RANGE = 64
"""The largest weight that is summed over channels: without VNNI (AVX2, most x86 before 2021), OpenVINO adds pairs of
8-bit products in 16 bits, where full weights overflow; cosines of whole networks then drop below 0.4."""
_MOVES = ("Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity")
_TRANSPARENT = (*_MOVES, "Constant")


def to_int8(model: ModelProto, batches: Sequence[Mapping[str, Array]], extremes: bool = False) -> ModelProto:
    """Return the model with convolutions and constant matrix products in int8 (Q/DQ).

    Args:
        model: An fp32 graph of static shape.
        batches: Preprocessed calibration inputs (`effbench.deploy.precision.calibration`).
        extremes: Take an activation's range from the largest value of all batches, which clips none of them. By default
            it is the range of least squared error, which clips what is rare.

    Raises:
        UsageError: There are no calibration batches.
        MissingDependencyError: NNCF or onnxruntime is not installed.
        ConversionError: NNCF refuses the graph, or makes another form of Q/DQ than the one that all targets take.
    """
    from effbench.deploy.precision.mix import mixed
    from effbench.deploy.precision.rounding import round_weights

    if not batches:
        raise UsageError("int8 needs calibration images.", hint="Give --images FOLDER.")
    made = _nncf(model, batches, extremes)
    _fold_weights(made)
    _halve_range(made)
    _make_signed(made)
    _move_in_front(made)
    round_weights(model, made, batches)
    result = mixed(model, made, ())  # what is not quantized reads no Q/DQ, which NNCF lets it where it is near
    check_form(result)
    return result


def _nncf(model: ModelProto, batches: Sequence[Mapping[str, Array]], extremes: bool) -> ModelProto:
    with _quiet():
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
                    # Averaged extremes, NNCF's default, clip images of more contrast than most; the extremes of all
                    # waste levels on one pixel. The range of least error over all values measured best on most models.
                    activations_range_estimator_params=ranges,
                ),
            )
        except (RuntimeError, ValueError, KeyError) as error:
            raise ConversionError("int8", f"NNCF: {str(error).splitlines()[0]}") from error
    made: ModelProto = result
    return made


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep NNCF's progress bars off stdout, which belongs to ``--json``, and its usage statistics off the network."""
    import os

    before = os.environ.get("NNCF_CI")
    os.environ["NNCF_CI"] = "1"
    logging.getLogger("nncf").setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        if before is None:
            del os.environ["NNCF_CI"]
        else:
            os.environ["NNCF_CI"] = before


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
    """Store quantized weights as int8: TensorRT wants a constant before DequantizeLinear, and files get smaller."""
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
                attribute.i %= weight.ndim  # some readers know no negative axis
        model.graph.node.remove(node)


def _halve_range(model: ModelProto) -> None:
    """Bring weights to `HALF_RANGE` that NNCF leaves at the full one: those of grouped convolutions."""
    constants = _constants(model)
    for node in model.graph.node:
        weight = constants.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if weight is None or weight.dtype != np.int8 or weight.ndim < 2 or weight.shape[1] == 1:
            continue
        if np.abs(weight.astype(np.int16)).max() > HALF_RANGE:
            _replace_constant(model, node.input[0], np.rint(weight / 2).astype(np.int8))
            _replace_constant(model, node.input[1], constants[node.input[1]] * np.float32(2))


def _make_signed(model: ModelProto) -> None:
    """Turn unsigned activations (outputs of a ReLU, say) into signed ones: the same largest value, half the levels."""
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


def _move_in_front(model: ModelProto) -> None:
    """Bring Q/DQ directly in front of what computes in int8, from before a Transpose or Reshape where NNCF has them.

    Values are the same. But `effbench.deploy.precision.mix` looks for them there alone, and OpenVINO 2026.4.1 computed
    EfficientViT-B0 wrong with them before a Transpose and a Reshape.
    """
    constants = _constants(model)
    makers = {name: node for node in model.graph.node for name in node.output}
    found: dict[str, tuple[NodeProto, NodeProto, NodeProto]] = {}
    readers: dict[str, list[NodeProto]] = {}
    for node in model.graph.node:
        weight = makers.get(node.input[1]) if node.op_type in QUANTIZED else None
        if weight is None or weight.input[0] not in constants:
            continue
        first, maker = None, makers.get(node.input[0])
        while maker is not None and maker.op_type in _MOVES:
            first, maker = maker, makers.get(maker.input[0])
        if first is None or maker is None or maker.op_type != "DequantizeLinear":
            continue
        quantizer = makers.get(maker.input[0])
        if quantizer is not None and constants[maker.input[1]].size == 1:
            found[node.input[0]] = (first, quantizer, maker)
            readers.setdefault(node.input[0], []).append(node)
    for name, (first, quantizer, dequantizer) in found.items():
        first.input[0] = quantizer.input[0]
        place = next(i for i, node in enumerate(model.graph.node) if name in node.output) + 1
        for reader in readers[name]:
            reader.input[0] = f"{name}/dequantized"
        for old, given, made in (
            (dequantizer, f"{name}/quantized", f"{name}/dequantized"),
            (quantizer, name, f"{name}/quantized"),
        ):
            new = type(old)()
            new.CopyFrom(old)
            new.name, new.input[0], new.output[0] = made, given, made
            model.graph.node.insert(place, new)


def check_form(model: ModelProto) -> None:
    """Check that the Q/DQ of a graph has the one form that every target takes.

    Raises:
        ConversionError: A zero point is not a signed zero, a bias or an activation constant is quantized, or something
            else than a convolution or a matrix product reads a dequantized weight.
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


def _part_vectors(model: ModelProto) -> None:
    """Give each reader of a vector a constant of its own: a bias that is a weight elsewhere would be stored as one."""
    from onnx import TensorProto

    kept = {t.name: t for t in model.graph.initializer if len(t.dims) == 1 and t.data_type == TensorProto.FLOAT}
    seen: set[str] = set()
    for node in model.graph.node:
        for i, name in enumerate(node.input):
            if name in seen:
                own = model.graph.initializer.add()
                own.CopyFrom(kept[name])
                own.name = node.input[i] = f"{name}/{node.output[0]}/{i}"
            elif name in kept:
                seen.add(name)


def to_a16w8(model: ModelProto, batches: Sequence[Mapping[str, Array]]) -> ModelProto:
    """Return the model with 16-bit activations and 8-bit weights, as the Snapdragon NPU wants them (Q/DQ everywhere).

    Weights are signed and per channel, and rounded by results (`effbench.deploy.precision.rounding`).

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

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter(batches)

        def get_next(self) -> Mapping[str, Array] | None:
            return next(self.left, None)

    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        source, prepared, result = (Path(folder) / f"{name}.onnx" for name in ("source", "prepared", "result"))
        onnx.save(model, source)
        changed = qnn_preprocess_model(source, prepared)
        exact = onnx.load(prepared if changed else source)
        _part_vectors(exact)
        stored = {tensor.name for tensor in exact.graph.initializer}
        onnx.save(exact, prepared)
        config = get_qnn_qdq_config(
            prepared,
            Reader(),
            activation_type=QuantType.QUInt16,
            weight_type=QuantType.QInt8,
            weight_symmetric=True,
            per_channel=True,
            # A quantizer's clipping can stand for a ReLU, but OpenVINO takes 16-bit quantizers out of a graph.
            keep_removable_activations=True,
            # The HTP has no signed weights of a LayerNormalization.
            init_overrides={
                node.input[1]: [{"quant_type": QuantType.QUInt8, "symmetric": False}]
                for node in exact.graph.node
                if node.op_type == "LayerNormalization" and node.input[1] in stored
            },
        )
        quantize(prepared, result, config)
        made = onnx.load(result)
    round_weights(exact, made, batches)
    return made
