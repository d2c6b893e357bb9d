from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

pytestmark = pytest.mark.target("coreml")
pytest.importorskip("coremltools")

from mil_graphs import assert_same, graph, reference_outputs, translated  # noqa: E402

from effbench.deploy.precision.half import to_fp16  # noqa: E402
from effbench.deploy.targets.coreml.translator import supported  # noqa: E402
from effbench.deploy.targets.coreml.translator.graph import LISTING, feature_name, translate  # noqa: E402
from effbench.errors import ConversionError, UsageError  # noqa: E402

RNG = np.random.default_rng(0)
IMAGE = RNG.standard_normal((1, 6, 9, 7)).astype(np.float32)
ROWS = RNG.standard_normal((2, 5, 8)).astype(np.float32)


def floats(*shape: int) -> Any:
    return RNG.standard_normal(shape).astype(np.float32)


def integers(*values: int) -> Any:
    return np.array(values, np.int64)


CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "conv": ("Conv", {"x": IMAGE}, {"w": floats(4, 3, 3, 3), "b": floats(4)}, {"group": 2, "pads": [1, 0, 2, 1]}),
    "conv strided": ("Conv", {"x": IMAGE}, {"w": floats(4, 6, 3, 3)}, {"strides": [2, 3], "dilations": [2, 1]}),
    "conv same": ("Conv", {"x": IMAGE}, {"w": floats(4, 6, 3, 2)}, {"auto_pad": "SAME_LOWER", "strides": [2, 2]}),
    "conv 1d": ("Conv", {"x": ROWS}, {"w": floats(3, 5, 3)}, {"pads": [1, 1]}),
    "conv transposed": (
        "ConvTranspose",
        {"x": IMAGE},
        {"w": floats(6, 2, 3, 3), "b": floats(4)},
        {"group": 2, "strides": [2, 2], "pads": [1, 0, 0, 1], "output_padding": [1, 1]},
    ),
    "max pool": ("MaxPool", {"x": IMAGE}, {}, {"kernel_shape": [3, 2], "strides": [2, 2], "ceil_mode": 1}),
    "max pool dilated": ("MaxPool", {"x": IMAGE}, {}, {"kernel_shape": [2, 2], "dilations": [2, 3]}),
    "average pool": (
        "AveragePool",
        {"x": IMAGE},
        {},
        {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 2], "ceil_mode": 1},
    ),
    "average pool counted": (
        "AveragePool",
        {"x": IMAGE},
        {},
        {"kernel_shape": [3, 3], "pads": [1, 0, 1, 1], "count_include_pad": 1},
    ),
    "global pool": ("GlobalAveragePool", {"x": IMAGE}, {}, {}),
    "matmul constant": ("MatMul", {"x": ROWS}, {"w": floats(8, 3)}, {}),
    "matmul": ("MatMul", {"x": ROWS, "z": floats(2, 8, 3)}, {}, {}),
    "matmul broadcast": ("MatMul", {"x": ROWS}, {"w": floats(1, 8, 3)}, {}),
    "gemm": ("Gemm", {"x": ROWS[0]}, {"w": floats(4, 8), "c": floats(4)}, {"transB": 1, "alpha": 0.5, "beta": 2.0}),
    "gemm row bias": ("Gemm", {"x": ROWS[0]}, {"w": floats(8, 4), "c": floats(5, 1)}, {"beta": 0.5}),
    "einsum": ("Einsum", {"x": ROWS, "z": floats(2, 6, 8)}, {}, {"equation": "bnd,bmd->bnm"}),
    "einsum batched": ("Einsum", {"x": IMAGE, "z": floats(6, 7, 3)}, {}, {"equation": "bhnd,hdm->bmhn"}),
    "einsum summed": ("Einsum", {"x": ROWS}, {}, {"equation": "...ij->...i"}),
    "layer norm": ("LayerNormalization", {"x": ROWS}, {"g": floats(8), "b": floats(8)}, {"epsilon": 1e-6}),
    "layer norm 2 axes": ("LayerNormalization", {"x": ROWS}, {"g": floats(5, 8)}, {"axis": 1}),
    "instance norm": ("InstanceNormalization", {"x": IMAGE}, {"g": floats(6), "b": floats(6)}, {}),
    "batch norm": (
        "BatchNormalization",
        {"x": IMAGE},
        {"g": floats(6), "b": floats(6), "m": floats(6), "v": np.abs(floats(6)) + 0.1},
        {},
    ),
    "lrn": ("LRN", {"x": IMAGE}, {}, {"size": 3, "alpha": 0.1}),
    "gelu": ("Gelu", {"x": ROWS}, {}, {}),
    "gelu tanh": ("Gelu", {"x": ROWS}, {}, {"approximate": "tanh"}),
    "hard swish": ("HardSwish", {"x": 4 * ROWS}, {}, {}),
    "hard sigmoid": ("HardSigmoid", {"x": 4 * ROWS}, {}, {"alpha": 0.3, "beta": 0.4}),
    "softmax": ("Softmax", {"x": ROWS}, {}, {"axis": 1}),
    "prelu": ("PRelu", {"x": IMAGE}, {"s": floats(6, 1, 1)}, {}),
    "clip": ("Clip", {"x": ROWS}, {"low": np.float32(-0.5), "high": np.float32(0.25)}, {}),
    "clip one side": ("Clip", {"x": ROWS}, {"low": np.float32(-0.5)}, {}),
    "pow": ("Pow", {"x": np.abs(ROWS)}, {"p": np.float32(1.7)}, {}),
    "integer division": ("Div", {"x": np.array([-7, 7, -8], np.int32)}, {"d": np.array([2, -2, 4], np.int32)}, {}),
    "where": ("Where", {"c": np.array([[True], [False]]), "x": ROWS[0][:2]}, {"z": np.float32(3)}, {}),
    "reduce sum": ("ReduceSum", {"x": ROWS}, {"axes": integers(-1)}, {"keepdims": 0}),
    "reduce mean all": ("ReduceMean", {"x": ROWS}, {}, {"keepdims": 0}),
    "reduce l2": ("ReduceL2", {"x": ROWS}, {"axes": integers(1, 2)}, {}),
    "argmax last": ("ArgMax", {"x": np.round(ROWS)}, {}, {"axis": 2, "select_last_index": 1}),
    "cumsum": ("CumSum", {"x": ROWS}, {"axis": np.int64(1)}, {"reverse": 1, "exclusive": 1}),
    "reshape": ("Reshape", {"x": ROWS}, {"s": integers(0, -1, 2)}, {}),
    "transpose": ("Transpose", {"x": IMAGE}, {}, {"perm": [0, 2, 3, 1]}),
    "expand": ("Expand", {"x": ROWS[:, :1]}, {"s": integers(3, 1, 5, 1)}, {}),
    "slice": (
        "Slice",
        {"x": IMAGE},
        {"b": integers(-1, 6), "e": integers(-9, 0), "a": integers(2, 3), "s": integers(-2, -3)},
        {},
    ),
    "slice to the end": ("Slice", {"x": ROWS}, {"b": integers(1), "e": integers(2**63 - 1), "a": integers(2)}, {}),
    "gather": ("Gather", {"x": ROWS}, {"i": integers(-1, 0)}, {"axis": 2}),
    "gather one": ("Gather", {"x": ROWS}, {"i": np.int64(-2)}, {"axis": 1}),
    "gather run time": ("Gather", {"x": ROWS, "i": integers(3, 1)}, {}, {"axis": 1}),
    "pad": ("Pad", {"x": IMAGE}, {"p": integers(0, 0, 1, 2, 0, 1, 0, 3), "v": np.float32(2)}, {}),
    "pad reflect": ("Pad", {"x": IMAGE}, {"p": integers(0, 0, 1, 2, 0, 0, 0, 3)}, {"mode": "reflect"}),
    "pad edge": ("Pad", {"x": IMAGE}, {"p": integers(0, 1, 0, 2, 0, 0, 0, 3)}, {"mode": "edge"}),
    "tile": ("Tile", {"x": ROWS}, {"r": integers(1, 3, 2)}, {}),
    "depth to space": ("DepthToSpace", {"x": floats(1, 8, 2, 3)}, {}, {"blocksize": 2}),
    "depth to space crd": ("DepthToSpace", {"x": floats(1, 8, 2, 3)}, {}, {"blocksize": 2, "mode": "CRD"}),
    "space to depth": ("SpaceToDepth", {"x": floats(1, 2, 4, 6)}, {}, {"blocksize": 2}),
    "cast": ("Cast", {"x": 3 * ROWS}, {}, {"to": TensorProto.INT64}),
    "is inf": ("IsInf", {"x": np.array([1, np.inf, -np.inf], np.float32)}, {}, {"detect_negative": 0}),
    "grid sample": ("GridSample", {"x": IMAGE, "g": floats(1, 4, 5, 2) / 2}, {}, {"padding_mode": "border"}),
}


def case(name: str) -> tuple[onnx.ModelProto, dict[str, Any]]:
    op, feeds, constants, attributes = CASES[name]
    feeds = {key: np.ascontiguousarray(value) for key, value in feeds.items()}
    node = helper.make_node(op, [*feeds, *constants], ["y"], **attributes)
    return graph([node], feeds, constants), feeds


@pytest.mark.parametrize("name", CASES)
def test_an_operator_agrees_with_onnxruntime(name: str, tmp_path: Path) -> None:
    model, feeds = case(name)
    assert_same(model, feeds, tmp_path, 2e-5)


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("coordinates", ["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"])
@pytest.mark.parametrize("size", [(18, 14), (5, 11)])
def test_a_resize_agrees_with_onnxruntime(mode: str, coordinates: str, size: tuple[int, int], tmp_path: Path) -> None:
    constants = {"roi": np.zeros(0, np.float32), "scales": np.zeros(0, np.float32), "sizes": integers(1, 6, *size)}
    # A rounding without ties, because the engines round .5 differently.
    rounding = {"nearest_mode": "floor"} if mode == "nearest" else {}
    node = helper.make_node(
        "Resize", ["x", *constants], ["y"], mode=mode, coordinate_transformation_mode=coordinates, **rounding
    )
    assert_same(graph([node], {"x": IMAGE}, constants), {"x": IMAGE}, tmp_path, 2e-5)


def test_missing_operators_are_named_with_their_nodes(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    names = [f"det{index}" for index in range(7)]
    nodes = [
        *(helper.make_node("Det", ["x"], [name], name) for name in names),
        helper.make_node("NonZero", ["x"], ["n"], "nonzero"),
        helper.make_node("Sum", names, ["y"], "supported"),
    ]
    feeds = {"x": floats(2, 3, 3)}
    with pytest.raises(ConversionError) as caught:
        translated(graph(nodes, feeds, outputs=["y", "n"]), tmp_path)
    assert "no translation for Det (node det0), Det (node det1), " in caught.value.message
    assert caught.value.message.endswith("Det (node det4) and 3 more.")
    assert (caught.value.node, caught.value.op) == ("det0", "Det")
    # The failure's log has all of them, and the message does not list all supported operators.
    assert "Det (node det6), NonZero (node nonzero)" in capfd.readouterr().err
    assert f"{len(supported())} operators are supported" in str(caught.value.hint)
    assert len(str(caught.value.hint)) < 160


def test_the_hint_for_missing_operators_lists_the_supported_ones() -> None:
    command = [sys.executable, *shlex.split(LISTING)[1:]]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (0, f"{supported()}\n") == (process.returncode, process.stdout)


def test_unsupported_outputs_name_their_node(tmp_path: Path) -> None:
    node = helper.make_node("MaxPool", ["x"], ["y", "i"], "pool_with_indices", kernel_shape=[2, 2])
    model = graph([node], {"x": IMAGE}, outputs=["y", "i"])
    with pytest.raises(ConversionError, match="pool_with_indices"):
        translated(model, tmp_path)


def test_an_open_dimension_is_refused() -> None:
    model, _ = case("gelu")
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    import coremltools as ct

    with pytest.raises(ConversionError, match="sizes must be fixed"):
        translate(model, ct.target.iOS16)


def test_shape_computations_are_folded(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "first"], ["batch"]),
        helper.make_node("Concat", ["batch", "rest"], ["target"], axis=0),
        helper.make_node("Reshape", ["x", "target"], ["y"]),
    ]
    feeds = {"x": ROWS}
    session = assert_same(graph(nodes, feeds, {"first": integers(0), "rest": integers(-1)}), feeds, tmp_path)
    assert session.placement()["operations"] == {"reshape": 1}


def test_a_branch_with_a_constant_condition_is_translated(tmp_path: Path) -> None:
    branches = {}
    for key, op in (("then_branch", "Relu"), ("else_branch", "Neg")):
        out = helper.make_tensor_value_info(key, TensorProto.FLOAT, ROWS.shape)
        branches[key] = helper.make_graph([helper.make_node(op, ["x"], [key])], key, [], [out])
    model = graph([helper.make_node("If", ["c"], ["y"], **branches)], {"x": ROWS}, {"c": np.array(False)})
    assert_same(model, {"x": ROWS}, tmp_path)


def test_types_that_features_lack_are_restored(tmp_path: Path) -> None:
    nodes = [helper.make_node("Greater", ["a", "b"], ["y"]), helper.make_node("ReduceMax", ["a"], ["z"], keepdims=0)]
    feeds = {"a": integers(1, 5, -3), "b": np.array(1, np.int64)}
    session = assert_same(graph(nodes, feeds, outputs=["y", "z"]), feeds, tmp_path)
    assert session(feeds)["y"].dtype == np.bool_


def test_a_half_graph_stays_half(tmp_path: Path) -> None:
    model, feeds = case("layer norm")
    session = translated(to_fp16(model), tmp_path)
    assert session.compute_precision == "fp16"
    np.testing.assert_allclose(session(feeds)["y"], reference_outputs(model, feeds)["y"], atol=2e-2)


def test_a_float32_island_stays_float32(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Mul", ["x", "k"], ["m"], "wide"),
        helper.make_node("Sigmoid", ["m"], ["y"], "narrow"),
    ]
    model = to_fp16(graph(nodes, {"x": ROWS}, {"k": np.float32(3)}), islands=["wide"])
    assert translated(model, tmp_path).compute_precision == "fp16+fp32"


def test_an_epsilon_below_half_precision_is_added_in_float32(tmp_path: Path) -> None:
    node = helper.make_node("LayerNormalization", ["x", "g"], ["y"], epsilon=1e-12)
    feeds = {"x": np.ones((1, 4, 8), np.float32)}
    session = translated(to_fp16(graph([node], feeds, {"g": np.ones(8, np.float32)})), tmp_path)
    assert np.isfinite(session(feeds)["y"]).all()


def test_a_quantized_graph_agrees_with_onnxruntime(tmp_path: Path) -> None:
    weight = RNG.integers(-127, 128, (4, 6, 3, 3)).astype(np.int8)
    constants = {
        "w": weight,
        "ws": np.abs(floats(4)) / 100 + 0.001,
        "wz": np.zeros(4, np.int8),
        "s": np.float32(0.03),
        "z": np.int8(0),
        "b": floats(4),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["k"], axis=0),
        helper.make_node("Conv", ["d", "k", "b"], ["y"]),
    ]
    session = assert_same(graph(nodes, {"x": IMAGE}, constants), {"x": IMAGE}, tmp_path)
    counts = session.placement()["operations"]
    assert counts == {"constexpr_affine_dequantize": 1, "conv": 1, "dequantize": 1, "quantize": 1}
    assert session.compute_precision == "int8+fp32"


def test_sixteen_bit_activations_are_refused_by_name(tmp_path: Path) -> None:
    node = helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], "wide_activation")
    back = helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"])
    constants = {"s": np.float32(0.001), "z": np.uint16(32768)}
    with pytest.raises(ConversionError, match=r"wide_activation.*uint16"):
        translated(graph([node, back], {"x": ROWS}, constants, opset=21), tmp_path)


@pytest.mark.parametrize(("name", "expected"), [("onnx::Conv_1", "onnx__Conv_1"), ("1st", "_1st"), ("é", "_")])
def test_feature_names_have_the_characters_that_core_ml_allows(name: str, expected: str) -> None:
    assert expected == feature_name(name)


def test_an_unknown_deployment_target_is_refused(tmp_path: Path) -> None:
    model, _ = case("gelu")
    with pytest.raises(UsageError, match="iOS99"):
        translated(model, tmp_path, target="iOS99")


@pytest.mark.parametrize("target", ["iOS15", "iOS16", "iOS17", "iOS18"])
def test_every_deployment_target_computes_the_same(target: str, tmp_path: Path) -> None:
    model, feeds = case("conv")
    session = translated(model, tmp_path, target=target)
    np.testing.assert_allclose(session(feeds)["y"], reference_outputs(model, feeds)["y"], atol=1e-5)
