"""Operators decomposed for the HTP: the same functions, with errors in half precision no larger than its rounding."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper, parser
from small_graphs import product

from effbench.deploy.graph import onnx_file
from effbench.deploy.interpreter import Interpreter
from effbench.deploy.precision.half import to_fp16
from effbench.deploy.targets.qnn.htp import DECOMPOSITIONS, prepare

BODIES = {
    "gelu": "y = Gelu (x)",
    "gelu by tanh": 'y = Gelu <approximate = "tanh"> (x)',
    "sigmoid": "y = Sigmoid (x)",
    "silu": "s = Sigmoid (x) y = Mul (x, s)",
    "silu with swapped inputs": "s = Sigmoid (x) y = Mul (s, x)",
    "a gate": "a = Relu (x) s = Sigmoid (a) y = Mul (x, s)",
    "a sigmoid read twice": "s = Sigmoid (x) a = Mul (x, s) y = Add (a, s)",
    "hard swish": "y = HardSwish (x)",
    "tanh": "y = Tanh (x)",
    "softmax": "y = Softmax <axis = 3> (x)",
    "softmax over the last axis": "y = Softmax (x)",
    "softmax over channels": "y = Softmax <axis = 1> (x)",
    "a chain": "a = Gelu (x) b = Sigmoid (a) c = Gelu (b) y = Mul (a, c)",
}


def graph(body: str) -> onnx.ModelProto:
    head = '<ir_version: 9, opset_import: ["" : 20]> g (float[1, 8, 64, 64] x) => (float[1, 8, 64, 64] y)'
    return onnx_file.infer_shapes(parser.parse_model(f"{head} {{ {body} }}"), "activations")


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_a_decomposed_operator_computes_the_same(body: str) -> None:
    model = graph(body)
    half = to_fp16(model)
    prepared = prepare(half)
    onnx.checker.check_model(prepared)
    assert not {node.op_type for node in prepared.graph.node} & (set(DECOMPOSITIONS) - {"Tanh"})
    names = [node.name for node in prepared.graph.node if node.name]
    assert len(set(names)) == len(names)
    values = np.random.default_rng(0).normal(0, 2, (1, 8, 64, 64)).astype(np.float16).astype(np.float32)
    values[0, 0, 0, :8] = [0, 100, -100, 6, -6, 3, -3, 60000]
    want = Interpreter(model).run({"x": values}, "float64")["y"]
    # First only the constants are in half precision, then the whole graph.
    assert np.allclose(Interpreter(prepared).run({"x": values}, "float64")["y"], want, rtol=6e-4, atol=6e-4)
    output = Interpreter(prepared).run({"x": values})["y"].astype(np.float64)
    assert np.linalg.norm((output - want)[want < 50]) < 5e-4 * np.linalg.norm(want[want < 50])


def as_passed_to_the_htp(model: onnx.ModelProto) -> onnx.ModelProto:
    """Quantize the second operand of a product from 16 to 8 bits, as ONNX Runtime's provider does for the HTP."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    producers = {node.output[0]: node for node in result.graph.node}
    initializers = {tensor.name: numpy_helper.to_array(tensor) for tensor in result.graph.initializer}
    nodes = []
    for node in result.graph.node:
        second = producers[node.input[1]] if node.op_type == "MatMul" else None
        if second is not None and initializers[second.input[2]].dtype == np.uint16:
            scale, zero = (initializers[name] for name in second.input[1:])
            parameters = {"scale": np.float32(scale * 257), "zero": np.rint(zero / 257).astype(np.uint8)}
            names = [f"{node.name}/{name}" for name in parameters]
            result.graph.initializer.extend(
                numpy_helper.from_array(np.asarray(value), name)
                for name, value in zip(names, parameters.values(), strict=True)
            )
            levels, values = f"{node.name}/levels", f"{node.name}/values"
            nodes.append(helper.make_node("QuantizeLinear", [node.input[1], *names], [levels]))
            nodes.append(helper.make_node("DequantizeLinear", [levels, *names], [values]))
            node.input[1] = values
        nodes.append(node)
    del result.graph.node[:]
    result.graph.node.extend(nodes)
    return result


@pytest.mark.parametrize("domain", ["", "com.microsoft"])
@pytest.mark.parametrize(("least", "most"), [(-4.0, 4.0), (-1.76, 4.0), (0.0, 1.0), (-4.0, 0.0)])
def test_products_of_activations_keep_their_16_bits(least: float, most: float, domain: str) -> None:
    model = product(least, most, domain)
    prepared = prepare(model)
    assert sum(node.op_type == "MatMul" for node in prepared.graph.node) == 2
    assert [node.op_type for node in prepare(model, exact=False).graph.node].count("MatMul") == 1
    rng = np.random.default_rng(0)
    # The second operand has small values too: less than half a level of 8 bits.
    feeds = {"a": rng.normal(size=(2, 5, 16)), "b": rng.uniform(least, most, (2, 16, 7)) * [[[1]], [[0.004]]]}
    feeds = {name: value.astype(np.float32) for name, value in feeds.items()}
    want = feeds["a"].astype(np.float64) @ feeds["b"]

    def errors(graph: onnx.ModelProto) -> np.ndarray:
        return np.abs(Interpreter(graph).run(feeds, "float64")["z"] - want).max(axis=(1, 2))

    assert (errors(prepared) < 6 * errors(model)).all()
    assert (errors(as_passed_to_the_htp(prepared)) < 8 * errors(model)).all()
    assert (errors(as_passed_to_the_htp(prepared)) < errors(as_passed_to_the_htp(model)) / [4, 1]).all()


def test_a_product_with_an_8_bit_second_operand_is_kept() -> None:
    model = product(-4.0, 4.0, "")
    del model.graph.initializer[3:4]
    model.graph.initializer.append(numpy_helper.from_array(np.array(128, np.uint8), "b/zero"))
    assert [node.op_type for node in prepare(model).graph.node].count("MatMul") == 1


def test_operators_in_fp32_are_kept() -> None:
    model = graph(BODIES["gelu"])
    assert [node.op_type for node in prepare(model).graph.node] == ["Gelu"]
    island = to_fp16(model, ["y"])
    assert "Gelu" in {node.op_type for node in prepare(island).graph.node}


def test_no_tanh_reads_a_convolution() -> None:
    """The HTP would fuse the two, and round badly."""
    size = "float[1, 8, 64, 64]"
    for body in ("y = Tanh (c)", "y = Sigmoid (c)", "y = Gelu (c)"):
        head = f'<ir_version: 9, opset_import: ["" : 20]> g ({size} x, float[8, 8, 1, 1] w) => ({size} y)'
        model = onnx_file.infer_shapes(parser.parse_model(f"{head} {{ c = Conv (x, w) {body} }}"), "fused")
        prepared = prepare(to_fp16(model))
        producers = {node.output[0]: node.op_type for node in prepared.graph.node}
        (tanh,) = [node for node in prepared.graph.node if node.op_type == "Tanh"]
        assert producers[tanh.input[0]] in ("Clip", "Mul")


def test_silu_takes_one_tanh_and_no_product_with_a_gate() -> None:
    """x Sigmoid(x) rounds the gate, which is nearly one for a large x."""
    prepared = prepare(to_fp16(graph(BODIES["silu"])))
    kinds = [node.op_type for node in prepared.graph.node if node.op_type != "Cast"]
    assert sorted(kinds) == sorted(["Abs", "Clip", "Mul", "Tanh", "Sub", "Relu", "Mul", "Sub"])
    island = prepare(to_fp16(graph(BODIES["silu"]), ["s", "y"]))
    assert {"Sigmoid", "Mul"} <= {node.op_type for node in island.graph.node}


def test_infinities_are_kept() -> None:
    prepared = prepare(to_fp16(graph("a = Tanh (x) b = Sigmoid (x) y = Add (a, b)")))
    values = np.zeros((1, 8, 64, 64), np.float32)
    values[0, 0, 0, :2] = [np.inf, -np.inf]
    output = Interpreter(prepared).run({"x": values})["y"]
    assert output[0, 0, 0, :3].tolist() == [2.0, -1.0, 0.5]


def strided(indices: list[int]) -> onnx.ModelProto:
    head = '<ir_version: 9, opset_import: ["" : 20]> g (float[1, 4, 6, 6] x) => (float[1, 1, 1, 4] y)'
    values = ", ".join(map(str, indices))
    initializers = f"int64[2] over = {{2, 3}}, int64[1] flat = {{-1}}, int64[1, 4, 1, 1] indices = {{{values}}}"
    body = "m = ReduceMean (x, over) f = Reshape (m, flat) g = Gather (f, indices)"
    body += " y = Transpose <perm = [0, 2, 3, 1]> (g)"
    return onnx_file.infer_shapes(parser.parse_model(f"{head} <{initializers}> {{ {body} }}"), "strided")


@pytest.mark.parametrize("exact", [True, False])
def test_an_identity_gather_becomes_a_reshape(exact: bool) -> None:
    """Such a Gather, as in ConvNeXtV2 and EdgeNeXt, aborts the compiler."""
    model = strided([0, 1, 2, 3])
    prepared = prepare(model, exact)
    onnx.checker.check_model(prepared)
    assert [node.op_type for node in prepared.graph.node] == ["ReduceMean", "Reshape", "Reshape", "Transpose"]
    feeds = {"x": np.random.default_rng(0).normal(size=(1, 4, 6, 6)).astype(np.float32)}
    assert np.array_equal(Interpreter(prepared).run(feeds)["y"], Interpreter(model).run(feeds)["y"])


def test_an_identity_gather_between_16_bit_quantizers_is_a_reshape_too() -> None:
    """ONNX infers no shapes through these Q/DQ operators, because ONNX Runtime defines them."""
    model = strided([0, 1, 2, 3])
    (gather,) = [node for node in model.graph.node if node.op_type == "Gather"]
    flat = gather.input[0]
    scale = numpy_helper.from_array(np.array(1e-4, np.float32), "scale")
    zero = numpy_helper.from_array(np.array(32768, np.uint16), "zero")
    pair = [
        helper.make_node(kind, [name, "scale", "zero"], [f"{flat}/{kind}"], domain="com.microsoft")
        for kind, name in (("QuantizeLinear", flat), ("DequantizeLinear", f"{flat}/QuantizeLinear"))
    ]
    gather.input[0] = pair[1].output[0]
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes[:2], *pair, *nodes[2:]])
    model.graph.initializer.extend([scale, zero])
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    assert "Gather" not in {node.op_type for node in prepare(model).graph.node}


def test_any_other_gather_is_kept() -> None:
    assert "Gather" in {node.op_type for node in prepare(strided([0, 2, 1, 3])).graph.node}
