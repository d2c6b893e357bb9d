"""The interpreter's number systems, its islands, and what it refuses."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, parser

from effbench.deploy.interpreter import MODES, Interpreter, operators, run_model
from effbench.errors import ConversionError, DataError, UsageError


def model(body: str, inputs: str = "float[N] x", outputs: str = "float[M] y", constants: str = "") -> onnx.ModelProto:
    return parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 20]> g ({inputs}) => ({outputs}) {constants} {{ {body} }}'
    )


def run(graph: onnx.ModelProto, mode: str, **feeds: object) -> np.ndarray:
    return run_model(graph, {k: np.asarray(v, np.float32) for k, v in feeds.items()}, mode)["y"]


def test_modes_round_to_their_precision() -> None:
    third = model("y = Div (x, c)", constants="<float c = {3.0}>")
    assert run(third, "float64", x=[1])[0] == 1 / 3
    assert run(third, "float32", x=[1])[0] == np.float32(1) / np.float32(3)
    assert run(third, "half-acc32", x=[1])[0] == float(np.float16(1) / np.float16(3))


def test_subnormals_are_flushed_and_large_numbers_overflow() -> None:
    same = model("y = Neg (x)")
    values = [2.0**-14, 2.0**-14 * 0.75, 1e-7, 65504, 65520, -70000]
    assert run(same, "half-acc32", x=values).tolist() == [-(2.0**-14), 0, 0, -65504, -np.inf, np.inf]


def test_half_accumulation_loses_terms_that_fp32_accumulation_keeps() -> None:
    total = model("y = ReduceSum <keepdims = 1> (x)")
    ones = np.full(8192, 0.5)
    assert run(total, "half-acc32", x=ones).item() == 4096
    # Beyond 2048 each partial sum of 32 halves is still a multiple of the spacing of half precision; others are not.
    odd = np.full(8192, 0.51)
    exact = float(np.float16(0.51)) * 8192
    assert abs(run(total, "half-acc32", x=odd).item() - exact) <= 2
    assert abs(run(total, "half-acc16", x=odd).item() - exact) > 20


def test_a_mean_overflows_inside_with_half_accumulation_only() -> None:
    mean = model("y = ReduceMean <keepdims = 1> (x)")
    assert run(mean, "half-acc32", x=np.full(4096, 100)).item() == 100
    assert run(mean, "half-acc16", x=np.full(4096, 100)).item() == np.inf


@pytest.mark.parametrize("body", ["y = MatMul (x, w)", 'y = Einsum <equation = "ik,kj->ij"> (x, w)', "y = Gemm (x, w)"])
def test_products_agree_across_forms_in_every_mode(body: str) -> None:
    rng = np.random.default_rng(0)
    w, x = rng.normal(size=(200, 3)), rng.normal(size=(2, 200))
    graph = model(body, "float[2, 200] x, float[200, 3] w", "float[2, 3] y")
    for mode, tolerance in (("float64", 1e-6), ("float32", 1e-4), ("half-acc32", 0.1), ("half-acc16", 0.3)):
        np.testing.assert_allclose(run(graph, mode, x=x, w=w), x @ w, atol=tolerance)
    matmul = model("y = MatMul (x, w)", "float[2, 200] x, float[200, 3] w", "float[2, 3] y")
    assert run(graph, "half-acc16", x=x, w=w).tolist() == run(matmul, "half-acc16", x=x, w=w).tolist()
    assert run(graph, "half-acc16", x=x, w=w).tolist() != run(graph, "half-acc32", x=x, w=w).tolist()


@settings(derandomize=True, deadline=None, max_examples=20)
@given(groups=st.sampled_from([1, 2, 4]), kernel=st.sampled_from([1, 3]), seed=st.integers(0, 99))
def test_a_convolution_accumulates_the_same_numbers_in_every_mode(groups: int, kernel: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, w = rng.normal(size=(1, 64, 5, 5)), rng.normal(size=(8, 64 // groups, kernel, kernel)) / 8
    graph = model(
        f"y = Conv <group = {groups}, pads = [1, 1, 1, 1]> (x, w)",
        f"float[1, 64, 5, 5] x, float[8, {64 // groups}, {kernel}, {kernel}] w",
        "float[1, 8, H, W] y",
    )
    exact = run(graph, "float64", x=x, w=w)
    np.testing.assert_allclose(run(graph, "half-acc32", x=x, w=w), exact, atol=0.03)
    np.testing.assert_allclose(run(graph, "half-acc16", x=x, w=w), exact, atol=0.1)


def test_islands_keep_float32_between_themselves() -> None:
    graph = model("a = Mul (x, c)  y = Div (a, c)", constants="<float c = {1000.0}>")
    assert run(graph, "half-acc32", x=[100]).item() == np.inf
    assert (
        Interpreter(graph).run({"x": np.array([100], np.float32)}, "half-acc32", islands={"a", "y"})["y"].item() == 100
    )


def test_an_fp16_graph_runs_in_the_types_it_declares() -> None:
    graph = model("h = Cast <to = 10> (x)  y = Add (h, h)", outputs="float16[M] y")
    output = run(graph, "float32", x=[1 / 3])
    assert output.dtype == np.float16
    assert output.item() == 2 * float(np.float16(1 / 3))


def test_a_trace_yields_every_step_with_its_values() -> None:
    graph = model("[first] a = Neg (x)  [second] y = Abs (a)")
    steps = [(e.step.name, e.outputs[0].tolist()) for e in Interpreter(graph).trace({"x": np.array([2.0], np.float32)})]
    assert steps == [("first", [-2.0]), ("second", [2.0])]


def test_a_local_function_is_inlined() -> None:
    graph = parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 20, "local" : 1]>
        g (float[2] x) => (float[2] y) { y = local.twice (x) }
        <opset_import: ["" : 20], domain: "local"> twice (x) => (y) { y = Add (x, x) }""")
    assert run(graph, "float32", x=[1, 2]).tolist() == [2, 4]


def test_a_missing_operator_is_named_with_its_node_and_the_nearest_ones() -> None:
    graph = model("[noise] y = RandomNormalLike (x)", "float[2, 2] x", "float y")
    with pytest.raises(ConversionError, match=r"node noise.*operator RandomNormalLike") as caught:
        Interpreter(graph)
    assert "Export the model with standard ONNX operators." == caught.value.hint
    graph = model("[norm] y = InstanceNorm (x)", "float[2, 2] x", "float y")
    with pytest.raises(ConversionError) as caught:
        Interpreter(graph)
    assert f"The nearest of its {len(operators())} operators: InstanceNormalization" in str(caught.value.hint)
    assert len(str(caught.value.hint)) < 200


def test_an_impossible_node_names_itself() -> None:
    graph = model("[clash] y = Add (x, c)", constants="<float[2] c = {1.0, 2.0}>")
    with pytest.raises(ConversionError, match=r"node clash.*operator Add"):
        run(graph, "float32", x=[1, 2, 3])


def test_a_missing_input_and_an_unknown_mode_are_refused() -> None:
    graph = model("y = Neg (x)")
    with pytest.raises(UsageError, match="x"):
        run_model(graph, {})
    with pytest.raises(UsageError, match="float8"):
        run(graph, "float8", x=[1])
    assert set(MODES) == {"float32", "float64", "half-acc32", "half-acc16", "half-sums"}


def external(folder: Path, location: str) -> Path:
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value=location)
    x, y = (helper.make_tensor_value_info(name, 1, [2]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", [x], [y], [weight])
    path = folder / "model.onnx"
    path.write_bytes(helper.make_model(graph, ir_version=10).SerializeToString())
    return path


def test_external_data_come_from_the_models_folder_only(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    np.array([5, 6], np.float32).tofile(tmp_path / "secret")
    np.array([1, 2], np.float32).tofile(folder / "weights")
    feed = {"x": np.zeros(2, np.float32)}
    assert run_model(external(folder, "weights"), feed)["y"].tolist() == [1, 2]
    (folder / "link").symlink_to(tmp_path / "secret")
    for location in ("../secret", str(tmp_path / "secret"), "link", "missing"):
        with pytest.raises(DataError):
            run_model(external(folder, location), feed)
