"""Run a graph in memory with ONNX Runtime, and inspect the graph that remains after its optimization."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effbench import drafts
from effbench.deploy.artifact import fidelity
from effbench.deploy.graph import onnx_file
from effbench.errors import ConversionError, MissingDependencyError

if TYPE_CHECKING:
    from onnx import ModelProto

HEAVY = ("Conv", "Gemm", "MatMul")
QUANTIZED = ("QLinearConv", "QLinearMatMul", "QGemm", "ConvInteger", "MatMulInteger")
_PRECISIONS = {1: "fp32", 10: "fp16", 11: "fp64"}
"""ONNX's numbers of tensor types."""


def runner(model: ModelProto, tensors: Sequence[str] = (), optimized: bool = True) -> fidelity.Run:
    """Return a function that runs a graph on one thread of the CPU and returns its outputs by name.

    Args:
        model: The graph.
        tensors: Intermediate tensors that are returned too.
        optimized: Whether ONNX Runtime may rewrite the graph; if not, it runs the operators that the graph has.

    Raises:
        ConversionError: ONNX Runtime refuses the graph.
        MissingDependencyError: onnxruntime is not installed.
    """
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise MissingDependencyError("int8", "onnxruntime", "ort") from error
    options = session_options(1)
    if not optimized:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = ort.InferenceSession(_with_outputs(model, tensors), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        # The exception classes of onnxruntime share no public base class.
        raise ConversionError("onnxruntime load", onnx_file.reason(error)) from error
    names = [output.name for output in session.get_outputs()]

    def run(feeds: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return dict(zip(names, session.run(names, dict(feeds)), strict=True))
        except Exception as error:
            raise ConversionError("onnxruntime run", onnx_file.reason(error)) from error

    return run


def session_options(threads: int) -> Any:
    """Return the options that every session of ONNX Runtime has here.

    By default ONNX Runtime rounds the activations of a product with weights of 8 bits to 8 bits too, whatever the
    graph says; level 1 computes it in fp32.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    return options


def _with_outputs(model: ModelProto, names: Sequence[str]) -> bytes:
    import onnx

    inner = {name for node in model.graph.node for name in node.output} - {output.name for output in model.graph.output}
    wider = onnx.ModelProto()
    wider.CopyFrom(model)
    wider.graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(names) if name in inner)
    return bytes(wider.SerializeToString())


def count_unfused(path: Path) -> dict[str, int]:
    """Count operators in int8 and Q/DQ nodes that did not fuse, in the graph that the CPU provider runs.

    A Q/DQ node that did not fuse costs a pass over its tensor and saves nothing.
    """
    kinds = Counter(node.op_type for node in optimized(path, "CPUExecutionProvider").graph.node)
    unfused = kinds["QuantizeLinear"] + kinds["DequantizeLinear"]
    return {"int8": sum(kinds[name] for name in QUANTIZED), "qdq": unfused}


def optimized(path: Path, provider: str) -> Any:
    """Return the graph after ONNX Runtime's optimization, but before it depends on the processor."""
    import onnx
    import onnxruntime as ort

    with drafts.scratch() as folder:
        options = ort.SessionOptions()
        options.optimized_model_filepath = f"{folder}/optimized.onnx"
        # A higher level writes memory layouts of this processor into the file.
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.log_severity_level = 3
        ort.InferenceSession(str(path), options, providers=[provider])
        return onnx.load(options.optimized_model_filepath)


def heavy_by_precision(path: Path, provider: str) -> dict[str, int]:
    """Count convolutions and matrix products by the type they compute in.

    The CPU provider computes most of an fp16 graph in fp32, with casts around each operator, which this count shows.
    """
    model = optimized(path, provider)
    types = {value.name: value.type.tensor_type.elem_type for value in (*model.graph.value_info, *model.graph.input)}
    types |= {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    types |= {node.output[0]: _cast_to(node) for node in model.graph.node if node.op_type == "Cast"}
    kinds = (_kind(node, types) for node in model.graph.node if any(name in node.op_type for name in HEAVY))
    return dict(sorted(Counter(kind for kind in kinds if kind is not None).items()))


def _cast_to(node: Any) -> int:
    return next(int(attribute.i) for attribute in node.attribute if attribute.name == "to")


def _kind(node: Any, types: Mapping[str, int]) -> str | None:
    if node.op_type in QUANTIZED:
        return "int8"
    known = [types[name] for name in node.input[:2] if name in types]
    return _PRECISIONS.get(known[-1]) if known else None
