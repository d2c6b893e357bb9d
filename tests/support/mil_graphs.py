"""ONNX graphs of one or a few nodes for the tests of the Core ML translator, with onnxruntime as the reference."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

from effbench.deploy.targets.coreml.convert import Options, convert
from effbench.deploy.targets.coreml.session import MilSession


def graph(
    nodes: Sequence[onnx.NodeProto],
    feeds: dict[str, Any],
    constants: dict[str, Any] | None = None,
    outputs: Sequence[str] = ("y",),
    opset: int = 20,
) -> onnx.ModelProto:
    """Build a model of fixed shapes whose output types are inferred."""
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in feeds.items()
    ]
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()]
    open_outputs = [onnx.ValueInfoProto(name=name) for name in outputs]
    built = helper.make_graph(list(nodes), "case", inputs, open_outputs, initializers)
    model = helper.make_model(built, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)


def reference_outputs(model: onnx.ModelProto, feeds: dict[str, Any]) -> dict[str, Any]:
    """Return the outputs of onnxruntime without graph optimizations."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip([output.name for output in session.get_outputs()], session.run(None, feeds), strict=True))


def translated(model: onnx.ModelProto, folder: Path, accumulate: str = "float32", **options: Any) -> MilSession:
    """Translate a model, save the package, and open it."""
    package = folder / "model.mlpackage"
    convert(model, package, Options(**options))
    return MilSession(package, accumulate=accumulate)


def assert_same(model: onnx.ModelProto, feeds: dict[str, Any], folder: Path, tolerance: float = 1e-5) -> MilSession:
    """Compare the saved package with onnxruntime: values, shapes and types of every output."""
    expected = reference_outputs(model, feeds)
    session = translated(model, folder)
    outputs = session(feeds)
    assert list(expected) == list(outputs)
    for name, values in expected.items():
        assert values.dtype == outputs[name].dtype
        np.testing.assert_allclose(outputs[name], values, rtol=tolerance, atol=tolerance)
    return session
