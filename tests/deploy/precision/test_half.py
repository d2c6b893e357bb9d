"""fp16 in the graph: borders, islands, no chains of casts, and the runtimes that take it."""

from collections import Counter

import field_models
import numpy as np
import onnx
import pytest
from onnx import TensorProto, parser

from effbench import models
from effbench.deploy.artifact import feeding, fidelity, judge, limits, synthetic
from effbench.deploy.graph import from_torch, onnx_file
from effbench.deploy.graph.run_ort import runner
from effbench.deploy.interpreter import Interpreter
from effbench.deploy.precision.half import HALF_MAX, long_softmaxes, to_fp16
from effbench.errors import UsageError
from effbench.models.build import build
from effbench.schema import InputSpec, Preprocessing, Weights

EXAMPLE = """
<ir_version: 10, opset_import: ["" : 20]>
example (float[1, 3, 8, 8] image) => (float[1, 4] output)
<float[4, 3] weight = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, float eps = {0.000001}, int64[2] axes = {2, 3},
 int64[1] one = {1}, float[4] scales = {1.0, 1.0, 1.7, 1.7}>
{
    larger = Resize <mode = "nearest"> (image, , scales)
    mean = ReduceMean <keepdims = 0> (larger, axes)
    [square] square = Mul (mean, mean)
    [total] total = ReduceSum (square, one)
    [safe] safe = Add (total, eps)
    [root] root = Sqrt (safe)
    unit = Div (mean, root)
    output = Gemm <transB = 1> (unit, weight)
}
"""


@pytest.fixture(scope="module")
def regla() -> onnx.ModelProto:
    return from_torch.from_module(build(models.get("regla_t"), Weights()), from_torch.image_inputs(3, (64, 64), 1), 1)


@pytest.fixture(scope="module")
def images() -> list[dict[str, np.ndarray]]:
    spec = InputSpec("image", "float32", (1, 3, 64, 64))
    return feeding.feeds({spec.name: synthetic.reference_images(6, 3, (64, 64))}, 1, (spec,), Preprocessing())


def example() -> onnx.ModelProto:
    return onnx_file.infer_shapes(parser.parse_model(EXAMPLE), "example")


def types(model: onnx.ModelProto) -> dict[str, int]:
    values = [*model.graph.input, *model.graph.value_info, *model.graph.output]
    return {v.name: v.type.tensor_type.elem_type for v in values}


def test_borders_stay_float32_and_the_inside_is_half() -> None:
    model = to_fp16(example())
    kinds = types(model)
    assert kinds["image"] == kinds["output"] == TensorProto.FLOAT
    assert {kinds[n.output[0]] for n in model.graph.node if n.op_type != "Cast"} == {TensorProto.FLOAT16}
    assert Counter(n.op_type for n in model.graph.node)["Cast"] == 2


def test_scales_of_a_resize_stay_float32() -> None:
    kinds = {t.name: t.data_type for t in to_fp16(example()).graph.initializer}
    assert kinds["scales"] == TensorProto.FLOAT
    assert kinds["weight_half"] == TensorProto.FLOAT16


def test_islands_compute_in_float32_with_one_cast_per_border() -> None:
    model = to_fp16(example(), islands=["square", "total", "safe", "root"])
    kinds = types(model)
    assert {kinds[name] for name in ("square", "total", "safe", "root")} == {TensorProto.FLOAT}
    casts = [n for n in model.graph.node if n.op_type == "Cast"]
    assert len(casts) == 4  # image in, mean into the island, root out of it, output out
    cast_names = {n.output[0] for n in casts}
    assert not any(n.input[0] in cast_names for n in casts)


def test_an_island_saves_an_epsilon_that_half_precision_loses() -> None:
    feeds = {"image": np.zeros((1, 3, 8, 8), np.float32)}
    interpreter = Interpreter(example())
    assert np.isfinite(interpreter.run(feeds, "float64")["output"]).all()
    assert np.isnan(interpreter.run(feeds, "half-acc32")["output"]).all()
    saved = interpreter.run(feeds, "half-acc32", islands={"square", "total", "safe", "root", "unit"})
    assert np.isfinite(saved["output"]).all()
    # The rewritten graph, run in the types that it declares, is finite as well.
    declared = Interpreter(to_fp16(example(), ["safe", "root", "unit"])).run(feeds)["output"]
    assert np.isfinite(declared).all()


def test_an_integer_that_was_cast_is_cast_again_from_the_integer() -> None:
    model = parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 20]>
        f (int32[4] x) => (float[4] y, float[4] z) <float c = {2.0}>
        { a = Cast <to = 1> (x)   y = Mul (a, c)   [wide] z = Add (a, c) }""")
    result = to_fp16(model, islands=["wide"])
    casts = {n.output[0]: n.input[0] for n in result.graph.node if n.op_type == "Cast"}
    assert not any(source in casts for source in casts.values())
    outputs = Interpreter(result).run({"x": np.array([1, 2, 3, 4], np.int32)})
    assert outputs["z"].tolist() == [3.0, 4.0, 5.0, 6.0]
    assert outputs["y"].tolist() == [2.0, 4.0, 6.0, 8.0]


def test_constants_beyond_half_are_saturated() -> None:
    model = parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 20]>
        f (float[2] x) => (float[2] y) <float[2] c = {1e9, -1e9}> { y = Min (x, c) }""")
    constant = next(t for t in to_fp16(model).graph.initializer)
    assert onnx.numpy_helper.to_array(constant).tolist() == [HALF_MAX, -HALF_MAX]


def test_an_input_that_is_an_output_and_an_output_that_is_read() -> None:
    model = parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 20]>
        f (float[2] x) => (float[2] y, float[2] z) { y = Relu (x)   z = Neg (y) }""")
    outputs = Interpreter(to_fp16(model)).run({"x": np.array([-1, 2], np.float32)})
    assert [v.tolist() for v in outputs.values()] == [[0, 2], [0, -2]]
    assert {v.dtype for v in outputs.values()} == {np.dtype("float32")}


def test_unknown_islands_are_refused() -> None:
    with pytest.raises(UsageError, match="skware"):
        to_fp16(example(), islands=["skware"])


@pytest.mark.target("ort")
def test_bodies_of_control_flow_stay_in_fp32() -> None:
    model = onnx_file.infer_shapes(field_models.captured_weights(), "m")
    half = to_fp16(model)
    x = np.random.default_rng(0).uniform(size=(1, 3, 64, 64)).astype(np.float32)
    expected, actual = (runner(graph)({"x": x})["logits"] for graph in (model, half))
    assert 2e-3 > np.abs(expected - actual).max() / np.abs(expected).max()
    assert not np.array_equal(expected, actual), "the convolutions are in half"


def test_bodies_read_inputs_constants_and_outputs_as_they_are() -> None:
    branch = parser.parse_graph("g () => (float[2] b) { s = Add (x, k)   t = Mul (s, h)   b = Add (t, h) }")
    nodes = parser.parse_graph("g (float[2] x) => (float[2] h) { h = Relu (x) }").node
    choice = onnx.helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    again = onnx.helper.make_node("Mul", ["y", "h"], ["z"])
    specs = (("x", 1, [2]), ("c", 9, []), ("z", 1, [2]), ("h", 1, [2]))
    values = [onnx.helper.make_tensor_value_info(*spec) for spec in specs]
    k = onnx.helper.make_tensor("k", 1, [2], [1.0, 2.0])
    graph = onnx.helper.make_graph([*nodes, choice, again], "g", values[:2], values[2:], [k])
    model = onnx.helper.make_model(graph, ir_version=10, opset_imports=[onnx.helper.make_opsetid("", 20)])
    outputs = Interpreter(to_fp16(onnx_file.infer_shapes(model, "m"))).run(
        {"x": np.float32([1, 3]), "c": np.array(True)}
    )
    assert [[3, 54], [1, 3]] == [outputs[name].tolist() for name in ("z", "h")]


@pytest.mark.target("ort")
def test_regla_in_fp16_is_still_regla_on_onnx_runtime(regla: onnx.ModelProto, images: list) -> None:
    ort = pytest.importorskip("onnxruntime")
    model = to_fp16(regla)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = fidelity.run_all(lambda x: Interpreter(regla).run(x, "float64"), images)
    outputs = fidelity.run_all(lambda x: {"output": session.run(None, dict(x))[0]}, images)
    simulated = fidelity.run_all(lambda x: Interpreter(regla).run(x, "half-acc32"), images)
    figures = judge.compare(expected, outputs)
    assert figures["cosine"] >= limits.LIMITS["fp16"]["cosine"]
    # The power of the noise is compared: a percentile of six small images doubles from one processor to another.
    assert figures["snr_db"] >= judge.compare(expected, simulated)["snr_db"] - 3
    assert figures["max_error"] > 1e-5  # it really was rounded


@pytest.mark.target("ov")
@pytest.mark.parametrize("hint", ["f32", "f16"])
def test_regla_in_fp16_is_still_regla_on_openvino(regla: onnx.ModelProto, images: list, hint: str, tmp_path) -> None:
    ov = pytest.importorskip("openvino")
    onnx.save(to_fp16(regla), tmp_path / "model.onnx")
    core = ov.Core()
    compiled = core.compile_model(str(tmp_path / "model.onnx"), "CPU", {"INFERENCE_PRECISION_HINT": hint})
    expected = fidelity.run_all(lambda x: Interpreter(regla).run(x, "float64"), images)
    outputs = fidelity.run_all(lambda x: {"output": compiled(dict(x))[0]}, images)
    # On a CPU without half arithmetic the hint f16 becomes bf16, which has three bits fewer.
    limit = 0.999 if hint == "f32" else 0.9
    assert judge.compare(expected, outputs)["cosine"] >= limit


@pytest.mark.target("trt-rtx")
def test_regla_in_fp16_is_parsed_by_tensorrt_rtx(regla: onnx.ModelProto) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    onnx_parser = trt.OnnxParser(network, trt.Logger(trt.Logger.ERROR))
    parsed = onnx_parser.parse(to_fp16(regla, islands=[regla.graph.node[5].output[0]]).SerializeToString())
    assert parsed, [str(onnx_parser.get_error(i)) for i in range(onnx_parser.num_errors)]


def squeeze(opset: int, rows: int, kind: str) -> onnx.ModelProto:
    """Return a graph that takes one mean over all rows and columns of a map."""
    node = {
        "attribute": "ReduceMean <axes = [2, -1], keepdims = 0> (image)",
        "input": "ReduceMean <keepdims = 0> (image, axes)",
        "pool": "GlobalAveragePool (image)",
    }[kind]
    rank = "[1, 3, 1, 1]" if kind == "pool" else "[1, 3]"
    axes = "<int64[2] axes = {2, 3}>" if kind == "input" else ""
    text = f"""<ir_version: 8, opset_import: ["" : {opset}]>
        g (float[1, 3, {rows}, {rows}] image) => (float{rank} output) {axes} {{ [pool] output = {node} }}"""
    return onnx_file.infer_shapes(parser.parse_model(text), "the example")


@pytest.mark.parametrize(("opset", "kind"), [(13, "attribute"), (18, "input"), (20, "input"), (20, "pool")])
def test_a_long_mean_is_computed_over_columns_and_then_rows(opset: int, kind: str) -> None:
    image = np.random.default_rng(0).uniform(0, 12, (1, 3, 112, 112)).astype(np.float32)
    want = image.astype(np.float64).mean(axis=(2, 3))
    model = to_fp16(squeeze(opset, 112, kind))
    means = [node.op_type for node in model.graph.node if node.op_type != "Cast"]
    assert means == ["ReduceMean", "GlobalAveragePool" if kind == "pool" else "ReduceMean"]
    (output,) = Interpreter(model).run({"image": image}, "half-acc16").values()
    assert np.abs(output.reshape(1, 3) - want).max() < 0.02
    # One sum would overflow: 12,544 values with a mean of 6. An island stays one sum.
    as_island = to_fp16(squeeze(opset, 112, kind), ["pool"])
    assert [node.op_type for node in as_island.graph.node if node.op_type != "Cast"] == means[1:]
    assert len([n for n in to_fp16(squeeze(opset, 16, kind)).graph.node if n.op_type != "Cast"]) == 1


def attention_over(positions: int, axis: int = -1, opset: int = 20) -> onnx.ModelProto:
    """Keys under a softmax over positions, transposed, times values: the content part of a lambda layer."""
    shape = f"1, 4, {positions}" if axis == -1 else f"1, {positions}, 4"
    turn = "[0, 2, 1]" if axis == -1 else "[0, 1, 2]"
    return onnx_file.infer_shapes(
        parser.parse_model(f"""<ir_version: 8, opset_import: ["" : {opset}]>
        g (float[{shape}] key, float[1, 6, {positions}] value) => (float[1, 6, 4] output) {{
            [weigh] w = Softmax <axis = {axis}> (key)
            [turn] t = Transpose <perm = {turn}> (w)
            [sum] s = MatMul (value, t)
            [after] output = Relu (s) }}"""),
        "attention",
    )


@pytest.mark.parametrize(
    ("model", "islands"),
    [
        (attention_over(4096), {"w", "t", "s"}),
        (attention_over(4096, axis=1), {"w", "t", "s"}),
        (attention_over(2048), set()),
        (attention_over(1024, opset=11), set()),
    ],
    ids=("long", "another axis", "short", "short, all from the axis on"),
)
def test_a_long_softmax_and_its_sum_stay_in_fp32(model: onnx.ModelProto, islands: set[str]) -> None:
    assert long_softmaxes(model) == islands
    half = to_fp16(model)
    types = {value.name: value.type.tensor_type.elem_type for value in half.graph.value_info}
    single = {node.name for node in half.graph.node if types.get(node.output[0]) == onnx.TensorProto.FLOAT}
    assert single >= {"weigh", "turn", "sum"} if islands else single.isdisjoint({"weigh", "turn", "sum"})


def test_a_long_softmax_survives_flushing() -> None:
    rng = np.random.default_rng(0)
    feed = {
        "key": rng.normal(size=(1, 4, 16384)).astype(np.float32),
        "value": rng.normal(1, 1, (1, 6, 16384)).astype(np.float32),
    }
    interpreter = Interpreter(attention_over(16384))
    exact = interpreter.run(feed, "float64")["output"]
    errors = [
        float(np.abs(interpreter.run(feed, "half-acc32", islands)["output"] - exact).max())
        for islands in (frozenset(), long_softmaxes(attention_over(16384)))
    ]
    assert errors[0] > 0.05
    assert errors[1] < 0.002


def test_an_output_of_unknown_rank():
    model = to_fp16(onnx_file.infer_shapes(field_models.unknown_rank(), "m"))
    assert not model.graph.output[0].type.tensor_type.HasField("shape")
    assert TensorProto.FLOAT16 in {tensor.data_type for tensor in model.graph.initializer}


def test_arithmetic_that_decides_a_shape_stays_in_fp32():
    model = parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 20]>
        example (float[1, 4, 1369] x) => (float[1, 4, 37, 37] y)
        <float half = {0.5}, int64[2] front = {1, 4}, int64[1] zero = {0}, int64 axis = {2}>
        {
            sizes = Shape (x)
            count = Gather (sizes, axis)
            area = Cast <to = 1> (count)
            root = Pow (area, half)
            whole = Cast <to = 7> (root)
            side = Unsqueeze (whole, zero)
            shape = Concat <axis = 0> (front, side, side)
            doubled = Add (x, x)
            y = Reshape (doubled, shape)
        }
    """)
    half = to_fp16(onnx_file.infer_shapes(model, "m"))
    x = np.random.default_rng(0).standard_normal((1, 4, 1369)).astype(np.float32)
    outputs = Interpreter(half).run({"x": x}, "float32")
    assert (1, 4, 37, 37) == outputs["y"].shape
    types = {value.name: value.type.tensor_type.elem_type for value in half.graph.value_info}
    assert TensorProto.FLOAT16 == types["doubled_half"]
