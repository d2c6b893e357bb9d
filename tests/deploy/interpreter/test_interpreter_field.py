"""Operators of detectors, recurrent models, control flow and quantized files, against ONNX Runtime's results."""

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper, parser

from effbench.deploy.graph.run_ort import runner
from effbench.deploy.interpreter import Interpreter
from effbench.errors import ConversionError

pytestmark = pytest.mark.target("ort")
RNG = np.random.default_rng(7)
Arrays = dict[str, np.ndarray]


def one_node(
    op: str, feeds: Arrays, outputs: int = 1, domain: str = "", version: int = 20, **attributes: Any
) -> onnx.ModelProto:
    """Return a graph of one node, whose inputs are the feeds in their order; an empty name is left out."""
    names = list(feeds)
    results = [f"y{i}" for i in range(outputs)]
    inputs = ["" if name.startswith("skip") else name for name in names]
    node = helper.make_node(op, inputs, results, domain=domain, **attributes)
    kinds = {name: helper.np_dtype_to_tensor_dtype(feeds[name].dtype) for name in names if name in inputs}
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info(name, kind, feeds[name].shape) for name, kind in kinds.items()],
        [onnx.ValueInfoProto(name=name) for name in results],
    )
    imports = [helper.make_opsetid("", version), *([helper.make_opsetid(domain, 1)] if domain else [])]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def check(model: onnx.ModelProto, feeds: Arrays, levels: int = 0) -> Arrays:
    """Compare all outputs with ONNX Runtime's; integers may differ by ``levels``."""
    feeds = {name: value for name, value in feeds.items() if not name.startswith("skip")}
    expected, actual = runner(model)(feeds), Interpreter(model).run(feeds)
    assert list(expected) == list(actual)
    for name, want in expected.items():
        have = actual[name]
        assert (want.dtype, want.shape) == (have.dtype, have.shape), name
        if want.dtype.kind in "iu":
            assert np.abs(want.astype(np.int64) - have.astype(np.int64)).max(initial=0) <= levels, name
        else:
            np.testing.assert_allclose(have, want, rtol=1e-4, atol=1e-5, err_msg=name)
    return actual


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize(("op", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_recurrent_layers_over_sequences_of_different_lengths(op: str, gates: int, direction: str) -> None:
    time, batch, size, hidden, ways = 5, 3, 4, 6, 2 if direction == "bidirectional" else 1
    feeds = {
        "x": normal(time, batch, size),
        "w": normal(ways, gates * hidden, size),
        "r": normal(ways, gates * hidden, hidden),
        "b": normal(ways, 2 * gates * hidden),
        "lengths": np.array([5, 2, 4], np.int32),
        "h": normal(ways, batch, hidden),
    }
    if op == "LSTM":
        feeds |= {"c": normal(ways, batch, hidden), "p": normal(ways, 3 * hidden)}
    check(one_node(op, feeds, 2 + (op == "LSTM"), hidden_size=hidden, direction=direction), feeds)


@pytest.mark.parametrize("linear", [0, 1])
def test_gru_resets_the_state_before_or_after_its_product(linear: int) -> None:
    feeds = {"x": normal(4, 2, 3), "w": normal(1, 15, 3), "r": normal(1, 15, 5), "b": normal(1, 30)}
    check(one_node("GRU", feeds, 2, hidden_size=5, linear_before_reset=linear), feeds)


@pytest.mark.parametrize("center", [0, 1])
def test_boxes_suppress_each_other(center: int) -> None:
    corner = RNG.uniform(0, 20, (2, 40, 2))
    boxes = np.concatenate([corner, RNG.uniform(2, 9, (2, 40, 2)) + (0 if center else corner)], 2).astype(np.float32)
    feeds = {
        "boxes": boxes,
        "scores": RNG.uniform(size=(2, 3, 40)).astype(np.float32),
        "most": np.array([7]),
        "iou": np.array([0.3], np.float32),
        "score": np.array([0.2], np.float32),
    }
    selected = check(one_node("NonMaxSuppression", feeds, center_point_box=center), feeds)["y0"]
    assert 10 < len(selected) <= 2 * 3 * 7


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("opset", [10, 16])
@pytest.mark.parametrize("ratio", [0, 2])
def test_features_are_pooled_inside_boxes(mode: str, opset: int, ratio: int) -> None:
    feeds = {
        "x": normal(2, 3, 20, 24),
        "rois": np.array([[0, 0, 40, 30], [-3, 5, 20, 37], [10, 10, 10.5, 60], [30, 2, 70, 50]], np.float32),
        "index": np.array([0, 1, 1, 0]),
    }
    attributes = {"output_height": 3, "output_width": 4, "sampling_ratio": ratio, "spatial_scale": 0.5, "mode": mode}
    check(one_node("RoiAlign", feeds, version=opset, **attributes), feeds)


def test_a_branch_reads_tensors_from_outside() -> None:
    body = """<ir_version: 10, opset_import: ["" : 20]>
    g (float[2] x, bool c) => (float[2] y) {
        z = Neg (x)
        y = If (c) <
            then_branch = t () => (float[2] a) { a = Mul (z, z) },
            else_branch = e () => (float[2] b) { b = Add (z, x) }
        >
    }"""
    model = parser.parse_model(body)
    for condition in (True, False):
        check(model, {"x": normal(2), "c": np.array(condition)})


def test_a_loop_carries_states_and_stacks_what_it_appends() -> None:
    body = """<ir_version: 10, opset_import: ["" : 20]>
    g (int64 n, float[2] x) => (float[2] last, float[N, 2] all) {
        yes = Constant <value = bool {1}> ()
        last, all = Loop (n, yes, x) <
            body = b (int64 i, bool go, float[2] s) => (bool on, float[2] t, float[2] u) {
                on = Identity (go)
                t = Add (s, x)
                u = Mul (s, t)
            }
        >
    }"""
    feeds = {"n": np.array(4), "x": normal(2)}
    assert (4, 2) == check(parser.parse_model(body), feeds)["all"].shape


def test_a_loop_without_a_trip_that_stacks_is_a_sentence() -> None:
    body = """<ir_version: 10, opset_import: ["" : 20]>
    g (int64 n, float[2] x) => (float[N, 2] all) {
        yes = Constant <value = bool {1}> ()
        all = Loop (n, yes) <
            body = b (int64 i, bool go) => (bool on, float[2] u) { on = Identity (go) u = Neg (x) }
        >
    }"""
    with pytest.raises(ConversionError, match="a loop without a trip"):
        Interpreter(parser.parse_model(body)).run({"n": np.array(0), "x": normal(2)})


def quantized(shape: tuple[int, ...], scale: float = 0.05, zero: int = 120) -> list[np.ndarray]:
    return [RNG.integers(0, 256, shape, np.uint8), np.array(scale, np.float32), np.array(zero, np.uint8)]


def named(*arrays: np.ndarray) -> Arrays:
    return {f"i{index}": value for index, value in enumerate(arrays)}


@pytest.mark.parametrize(
    ("op", "inputs", "attributes"),
    [
        ("QLinearAdd", [*quantized((2, 3, 4, 4)), *quantized((2, 3, 4, 4), 0.02, 5)], {}),
        ("QLinearMul", [*quantized((2, 3, 4, 4)), *quantized((2, 3, 4, 4), 0.02, 5)], {}),
        ("QLinearSigmoid", quantized((3, 7)), {}),
        ("QLinearLeakyRelu", quantized((3, 7)), {"alpha": 0.2}),
        ("QLinearSoftmax", quantized((3, 7)), {"axis": 1, "opset": 13}),
        ("QLinearGlobalAveragePool", quantized((2, 3, 5, 5)), {"channels_last": 0}),
        ("QLinearAveragePool", quantized((2, 3, 6, 6)), {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_operators_of_quantized_files(op: str, inputs: list[np.ndarray], attributes: dict[str, Any]) -> None:
    scale = np.array(0.004 if op in ("QLinearSigmoid", "QLinearSoftmax") else 0.07, np.float32)
    feeds = named(*inputs, scale, np.array(0 if scale < 0.01 else 128, np.uint8))
    model = one_node(op, feeds, domain="com.microsoft", **attributes)
    check(as_constants(model, feeds), {"i0": feeds["i0"], **({"i3": feeds["i3"]} if len(inputs) > 3 else {})}, levels=1)


def as_constants(model: onnx.ModelProto, feeds: Arrays) -> onnx.ModelProto:
    """Return a graph whose scales and zero points are initializers, as ONNX Runtime requires."""
    tensors = [value for value in model.graph.input if len(feeds[value.name].shape) > 0]
    fixed = [value.name for value in model.graph.input if len(feeds[value.name].shape) == 0]
    del model.graph.input[:]
    model.graph.input.extend(tensors)
    model.graph.initializer.extend(numpy_helper.from_array(feeds[name], name) for name in fixed)
    return model


def test_a_file_of_integer_operators_runs_as_onnx_runtime_runs_it() -> None:
    x, x_scale, x_zero = quantized((1, 4, 9, 9))
    weight = RNG.integers(-127, 128, (6, 2, 3, 3), np.int8)
    feeds = named(
        x, x_scale, x_zero, weight, RNG.uniform(0.001, 0.01, 6).astype(np.float32), np.zeros(6, np.int8),
        np.array(0.2, np.float32), np.array(100, np.uint8), RNG.integers(-900, 900, 6, np.int32),
    )  # fmt: skip
    model = one_node("QLinearConv", feeds, pads=[1, 0, 1, 2], strides=[2, 1], group=2)
    constants = [value for value in model.graph.input if value.name != "i0"]
    for value in constants:
        model.graph.input.remove(value)
        model.graph.initializer.append(numpy_helper.from_array(feeds[value.name], value.name))
    levels = check(model, {"i0": x}, levels=1)["y0"]
    assert len(np.unique(levels)) > 30


def test_fused_operators_of_an_optimized_file() -> None:
    feeds = {"x": normal(1, 4, 8, 8), "w": normal(6, 4, 3, 3), "b": normal(6)}
    check(one_node("FusedConv", feeds, domain="com.microsoft", activation="Relu", pads=[1] * 4), feeds)
    rows = {"a": normal(2, 3, 5, 4), "b": normal(2, 3, 5, 6)}
    check(one_node("FusedMatMul", rows, domain="com.microsoft", transA=1, alpha=0.5), rows)
    vectors = {"x": normal(2, 5, 8), "skip_": normal(1), "s": normal(2, 5, 8), "g": normal(8), "h": normal(8)}
    vectors.pop("skip_")
    check(one_node("SkipLayerNormalization", vectors, domain="com.microsoft", epsilon=1e-6), vectors)
    for name in ("Gelu", "QuickGelu"):
        check(one_node(name, {"x": normal(3, 8)}, domain="com.microsoft"), {"x": normal(3, 8)})


def test_a_deformable_convolution_without_offsets_is_a_convolution() -> None:
    x, w = normal(2, 4, 7, 7), normal(6, 2, 3, 3)
    feeds = {"x": x, "w": w, "offset": np.zeros((2, 2 * 9 * 2, 4, 4), np.float32), "b": normal(6)}
    model = one_node("DeformConv", feeds, version=22, strides=[2, 2], pads=[1] * 4, group=2, offset_group=2)
    expected = torch.nn.functional.conv2d(
        torch.tensor(x), torch.tensor(w), torch.tensor(feeds["b"]), stride=2, padding=1, groups=2
    )
    np.testing.assert_allclose(Interpreter(model).run(feeds)["y0"], expected.numpy(), rtol=1e-4, atol=1e-5)
    feeds["offset"][:, 1::2] = 1.0  # every sample one column to the right
    moved = torch.nn.functional.pad(torch.tensor(x), (0, 1))[..., 1:]
    expected = torch.nn.functional.conv2d(
        torch.nn.functional.pad(moved, (1, 1, 1, 1))[..., :9],
        torch.tensor(w),
        torch.tensor(feeds["b"]),
        stride=2,
        groups=2,
    )
    inside = Interpreter(model).run(feeds)["y0"][..., 1:3]
    np.testing.assert_allclose(inside, expected.numpy()[..., 1:3], rtol=1e-4, atol=1e-5)


def test_half_precision_reaches_into_subgraphs() -> None:
    body = """<ir_version: 10, opset_import: ["" : 20]>
    g (float[1] x, bool c) => (float[1] y) {
        y = If (c) < then_branch = t () => (float[1] a) { a = Mul (x, x) },
                     else_branch = e () => (float[1] b) { b = Neg (x) } >
    }"""
    interpreter = Interpreter(parser.parse_model(body))
    feeds = {"x": np.array([300.0], np.float32), "c": np.array(True)}
    assert 90000 == interpreter.run(feeds)["y"]
    assert np.isinf(interpreter.run(feeds, "half-acc32")["y"])


def test_an_unknown_operator_of_another_domain_is_named() -> None:
    model = one_node("Nonsense", {"x": normal(2)}, domain="com.microsoft")
    with pytest.raises(ConversionError, match=r"com\.microsoft::Nonsense"):
        Interpreter(model)
