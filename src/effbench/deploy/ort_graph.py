"""What ONNX Runtime really computes: read from the graph that it runs after its own optimization."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HEAVY = ("Conv", "Gemm", "MatMul")
QUANTIZED = ("QLinearConv", "QLinearMatMul", "QGemm", "ConvInteger", "MatMulInteger")
_PRECISIONS = {1: "fp32", 10: "fp16", 11: "fp64"}
"""ONNX's numbers of tensor types."""


def left_unfused(path: Path) -> dict[str, int]:
    """Count, in the graph that the CPU provider runs, operators in int8 and Q/DQ nodes that stand alone.

    One that stands alone costs a pass over its tensor and saves nothing.
    """
    kinds = Counter(node.op_type for node in optimized(path, "CPUExecutionProvider").graph.node)
    borders = kinds["QuantizeLinear"] + kinds["DequantizeLinear"]
    return {"int8": sum(kinds[name] for name in QUANTIZED), "pairs": borders}


def optimized(path: Path, provider: str) -> Any:
    """Return the graph as ONNX Runtime rewrites it, before the layouts of one processor."""
    import onnx
    import onnxruntime as ort

    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.optimized_model_filepath = f"{folder}/optimized.onnx"
        # Above this level the file would hold layouts of this processor alone.
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.log_severity_level = 3
        ort.InferenceSession(str(path), options, providers=[provider])
        return onnx.load(options.optimized_model_filepath)


def heavy_by_precision(path: Path, provider: str) -> dict[str, int]:
    """Count convolutions and matrix products by the type they compute in.

    The CPU provider computes most of an fp16 graph in fp32: it casts around each operator. The count shows it.
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
