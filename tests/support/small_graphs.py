"""Small ONNX graphs as graph artifacts, the input of a target's `convert`, without a torch export."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from effbench.deploy.artifact import bundle, feeding, fidelity
from effbench.deploy.graph import onnx_file, signature
from effbench.deploy.interpreter import run_model
from effbench.deploy.precision.half import to_fp16
from effbench.schema import Artifact, InputShapes, Preprocessing, Subject, Weights

SIDE = 16


def product(least: float, most: float, domain: str) -> onnx.ModelProto:
    """Return a product of two 16-bit activations; the values of the second are in a range."""
    step = (most - least) / 65535
    scales = {"a": (8 / 65535, 32768), "b": (step, round(-least / step)), "y": (128 / 65535, 32768)}
    nodes = [helper.make_node("MatMul", ["a/d", "b/d"], ["y"], name="product")]
    for name, out in (("a", "a/d"), ("b", "b/d"), ("y", "z")):
        for kind, source, result in (("QuantizeLinear", name, f"{name}/q"), ("DequantizeLinear", f"{name}/q", out)):
            node = helper.make_node(kind, [source, f"{name}/scale", f"{name}/zero"], [result], domain=domain)
            nodes.insert(len(nodes) if name == "y" else len(nodes) - 1, node)
    stored = [
        numpy_helper.from_array(array, f"{name}/{part}")
        for name, (scale, zero) in scales.items()
        for part, array in (("scale", np.array(scale, np.float32)), ("zero", np.array(zero, np.uint16)))
    ]
    sizes = {"a": [2, 5, 16], "b": [2, 16, 7], "z": [2, 5, 7]}
    values = {name: helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, size) for name, size in sizes.items()}
    graph = helper.make_graph(nodes, "products", [values["a"], values["b"]], [values["z"]], stored)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, ir_version=10, opset_imports=opsets)


def attention(batch: int | None = 1, extra: str | None = None) -> onnx.ModelProto:
    """Return a convolution and a linear attention whose normalizer is a sum and an Unsqueeze, as in RGMA."""
    rng = np.random.default_rng(0)
    weights = {"w0": rng.standard_normal((8, 3, 3, 3)) / 5, "w1": rng.standard_normal((10, 8)) / 3}
    constants: dict[str, Any] = {key: value.astype(np.float32) for key, value in weights.items()}
    constants |= {"flat": np.array([-1, 1, 8, SIDE * SIDE // 4]), "last": np.array([3]), "row": np.array([2])}
    constants |= {"eps": np.array(0.01, np.float32), "sides": np.array([1, 3]), "scale": np.array(0.1, np.float32)}
    nodes = [
        helper.make_node("Conv", ["image", "w0"], ["conv"], "stem", pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Gelu", ["conv"], ["gelu"], "act"),
        helper.make_node("Relu", ["conv"], ["positive"], "relu"),
        helper.make_node("Mul", ["positive", "scale"], ["scaled"], "scale"),
        helper.make_node("Reshape", ["scaled", "flat"], ["key"], "key"),
        helper.make_node("Reshape", ["gelu", "flat"], ["value"], "value"),
        helper.make_node("Transpose", ["key"], ["turned"], "turn", perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", ["value", "turned"], ["state"], "state"),
        helper.make_node("ReduceSum", ["key", "last"], ["sums"], "sum", keepdims=0),
        helper.make_node("Unsqueeze", ["sums", "row"], ["row_sums"], "unsqueeze"),
        helper.make_node("MatMul", ["row_sums", "key"], ["normalizer"], "normalizer"),
        helper.make_node("MatMul", ["state", "key"], ["attended"], "attend"),
        helper.make_node("Add", ["normalizer", "eps"], ["guarded"], "guard"),
        helper.make_node("Div", ["attended", "guarded"], ["mixed"], "divide"),
        helper.make_node("ReduceMean", ["mixed", "sides"], ["pooled"], "pool", keepdims=0),
        helper.make_node("Gemm", ["pooled", "w1"], ["output"], "head", transB=1),
    ]
    if extra is not None:
        nodes[1] = helper.make_node(extra, ["conv"], ["gelu"], "odd_one")
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch or "batch", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [batch or "batch", 10])],
        [numpy_helper.from_array(value, key) for key, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return onnx_file.infer_shapes(model, "small")


def chain(depth: int) -> onnx.ModelProto:
    """Return a graph of so many 3x3 convolutions in a row."""
    rng = np.random.default_rng(0)
    channels = [3, *[16] * depth]
    weights = [
        numpy_helper.from_array(rng.standard_normal((after, before, 3, 3)).astype(np.float32), f"w{index}")
        for index, (before, after) in enumerate(pairwise(channels))
    ]
    names = ["image", *[f"x{index}" for index in range(depth - 1)], "output"]
    nodes = [
        helper.make_node("Conv", [before, f"w{index}"], [after], f"conv{index}", pads=[1, 1, 1, 1])
        for index, (before, after) in enumerate(pairwise(names))
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, SIDE, SIDE])
    output = helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 16, SIDE, SIDE])
    graph = helper.make_graph(nodes, "chain", [image], [output], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def graph_artifact(
    home: Path, model: onnx.ModelProto, precision: str = "fp32", expected: onnx.ModelProto | None = None
) -> Artifact:
    """Write a graph artifact with its expected outputs, by the interpreter in fp32."""
    stored = to_fp16(model) if precision == "fp16" else model
    inputs = signature.guessed(stored)
    samples = feeding.synthetic(inputs, fidelity.count_for(1))
    batches = feeding.feeds(samples, 1, inputs, Preprocessing())
    key = hashlib.sha256(stored.SerializeToString()).hexdigest()

    def build(draft: Path) -> Artifact:
        onnx.save(stored, draft / "model.onnx")
        outputs = fidelity.run_all(lambda feeds: run_model(expected or model, feeds), batches)
        reference = fidelity.Reference(samples, outputs, "interpreter, fp32")
        fidelity.save_reference(draft / fidelity.REFERENCE, reference)
        subject = Subject("small", "user", Weights(), InputShapes((SIDE, SIDE)), 1, "onnx", precision)
        specs = onnx_file.specs(stored.graph.output)
        return Artifact(draft, key, "", subject, inputs, specs, {}, "model.onnx")

    return bundle.write(home / "artifacts" / f"small-{precision}-{key[:8]}", build)


def converted(graph: Artifact, target: Any, **options: str) -> Artifact:
    """Convert a graph artifact as the export's worker does."""
    key = hashlib.sha256(f"{graph.key} {target.name} {sorted(options.items())}".encode()).hexdigest()

    def build(draft: Path) -> Artifact:
        result = target.convert(graph, draft, options)
        subject = replace(
            graph.subject, target=target.name, compute_precision=result.compute_precision, notes=result.notes
        )
        changes = {"folder": draft, "key": key, "subject": subject, "entry": result.entry, "options": options}
        return replace(graph, **changes, placement=result.placement, graph_digest=graph.digest)

    return bundle.write(graph.folder.with_name(f"small-{target.name}-{key[:10]}"), build)
