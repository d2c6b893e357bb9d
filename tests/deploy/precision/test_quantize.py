"""int8 and a16w8 in the graph: the form that every target takes, little noise, an error without images."""

from collections import Counter
from pathlib import Path
from unittest import mock

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from effbench.deploy.artifact import feeding, fidelity
from effbench.deploy.artifact.synthetic import reference_images
from effbench.deploy.graph import onnx_file, signature
from effbench.deploy.interpreter import Interpreter
from effbench.deploy.precision.a16w8 import to_a16w8
from effbench.deploy.precision.calibration import Calibration, load_calibration
from effbench.deploy.precision.int8_noise import signal_to_noise_db
from effbench.deploy.precision.quantize import check_form, to_int8
from effbench.errors import ConversionError, DataError, UsageError
from effbench.schema import Preprocessing

# A convolution, another one behind a ReLU (usually unsigned), an attention product without constants, a Gemm.
BODY = """
<ir_version: 10, opset_import: ["" : 20]>
g (float[1, 3, 32, 32] image) => (float[1, 10] output) <int64[3] flat = {1, 16, -1}, int64[2] axes = {2, 3}>
{
    [stem] a = Conv <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]> (image, w1, b1)
    [relu] b = Relu (a)
    [deep] c = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1], group = 4> (b, w2, b2)
    [skip] d = Add (b, c)
    [gelu] e = Gelu (d)
    [tokens] f = Reshape (e, flat)
    [turn] t = Transpose <perm = [0, 2, 1]> (f)
    [scores] s = MatMul (f, t)
    [soft] p = Softmax (s)
    [mix] m = MatMul (p, f)
    [pool] q = ReduceMean <keepdims = 0> (e, axes)
    [mean] r = ReduceMean <keepdims = 0> (m, last)
    [sum] u = Add (q, r)
    [head] output = Gemm <transB = 1> (u, w3, b3)
}
"""
SHAPES = {"w1": (16, 3, 3, 3), "b1": (16,), "w2": (16, 4, 3, 3), "b2": (16,), "w3": (10, 16), "b3": (10,)}


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    graph = parser.parse_model(BODY.replace("{2, 3}>", "{2, 3}, int64[1] last = {2}>"))
    for name, shape in SHAPES.items():
        values = rng.normal(size=shape) / np.sqrt(max(1, np.prod(shape[1:])))
        graph.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
    return onnx_file.infer_shapes(graph, "the example")


@pytest.fixture(scope="module")
def synthetic() -> Calibration:
    return load_calibration("synthetic", (32, 32), Preprocessing())


def batches(model: onnx.ModelProto, calibration: Calibration) -> list[dict[str, np.ndarray]]:
    return calibration.feeds(1, signature.guessed(model), Preprocessing())


def feeds_of(model: onnx.ModelProto) -> list[dict[str, np.ndarray]]:
    inputs = signature.guessed(model)
    return feeding.feeds(feeding.synthetic(inputs, 6), 1, inputs, Preprocessing())


@pytest.fixture(scope="module")
def quantized(model: onnx.ModelProto, synthetic: Calibration) -> onnx.ModelProto:
    pytest.importorskip("nncf")
    return to_int8(model, batches(model, synthetic))


def photographs(folder: Path, count: int, seed: int = 0) -> Path:
    from PIL import Image

    folder.mkdir(exist_ok=True)
    for i, image in enumerate(reference_images(count, 3, (40, 60), seed)):
        Image.fromarray(image.transpose(1, 2, 0)).save(folder / f"{i:03d}.png")
    return folder


def test_every_quantized_operator_has_the_form_that_all_targets_take(quantized: onnx.ModelProto) -> None:
    constants = {t.name: numpy_helper.to_array(t) for t in quantized.graph.initializer}
    producers = {n.output[0]: n for n in quantized.graph.node}
    for node in quantized.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert constants[node.input[2]].dtype == np.int8
            assert not constants[node.input[2]].any()
    for name in ("stem", "deep", "head"):
        node = next(n for n in quantized.graph.node if n.name == name)
        weight = producers[node.input[1]]
        assert weight.op_type == "DequantizeLinear"
        assert constants[weight.input[0]].dtype == np.int8
        assert constants[weight.input[1]].size == constants[weight.input[0]].shape[0]  # per channel
        assert constants[node.input[2]].dtype == np.float32  # the bias
    others = [n for n in quantized.graph.node if n.op_type in ("MatMul", "Softmax", "Add")]
    kinds = Counter(producers[n.input[0]].op_type for n in others)
    assert "DequantizeLinear" not in kinds


def test_qdq_is_directly_in_front_of_quantized_operators_and_nowhere_else(synthetic: Calibration) -> None:
    pytest.importorskip("nncf")
    # The tokens are read by two products with constants, one of them behind a Reshape, and by one with an activation.
    moved = parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 20]>
        g (float[1, 3, 32, 32] image) => (float[1, 8, 64] output)
        <int64[3] flat = {1, 16, 64}, int64[3] halves = {2, 32, 16}, int64[3] whole = {1, 64, 16}>
        {
            a = Conv <kernel_shape = [4, 4], strides = [4, 4]> (image, w1, b1)
            b = Relu (a)
            c = Reshape (b, flat)
            t = Transpose <perm = [0, 2, 1]> (c)
            s = MatMul (t, c)
            v = MatMul (s, t)
            h = Reshape (t, halves)
            m = MatMul (h, w2)
            k = Reshape (m, whole)
            n = MatMul (t, w2)
            d = Add (k, n)
            e = Add (d, v)
            u = Transpose <perm = [0, 2, 1]> (e)
            output = Conv <kernel_shape = [1]> (u, w3)
        }""")
    rng = np.random.default_rng(0)
    for name, shape in {"w1": (16, 3, 4, 4), "b1": (16,), "w2": (16, 16), "w3": (8, 16, 1)}.items():
        values = rng.normal(size=shape) / np.sqrt(max(1, np.prod(shape[1:])))
        moved.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
    moved = onnx_file.infer_shapes(moved, "the example")
    feeds = batches(moved, synthetic)
    quantized = to_int8(moved, feeds)
    onnx.checker.check_model(quantized, full_check=True)
    producers = {name: node.op_type for node in quantized.graph.node for name in node.output}
    inputs = {node.output[0]: [producers.get(name) for name in node.input] for node in quantized.graph.node}
    levels = "DequantizeLinear"
    assert all([levels, levels] == inputs[name][:2] for name in ("a", "m", "n", "output")), inputs
    others = [node for node in moved.graph.node if node.output[0] not in ("a", "m", "n", "output")]
    assert all(levels not in inputs[node.output[0]] for node in others)
    expected = fidelity.run_all(lambda x: Interpreter(moved).run(x), feeds[:6])
    outputs = fidelity.run_all(lambda x: Interpreter(quantized).run(x), feeds[:6])
    assert signal_to_noise_db(expected, outputs) > 20


def test_noise_is_low_on_images_outside_the_calibration(model: onnx.ModelProto, quantized: onnx.ModelProto) -> None:
    ort = pytest.importorskip("onnxruntime")
    feeds = feeds_of(model)
    expected = fidelity.run_all(lambda x: Interpreter(model).run(x), feeds)
    session = ort.InferenceSession(quantized.SerializeToString(), providers=["CPUExecutionProvider"])
    on_ort = fidelity.run_all(lambda x: {"output": session.run(None, dict(x))[0]}, feeds)
    simulated = fidelity.run_all(lambda x: Interpreter(quantized).run(x), feeds)
    # With sixteen channels of random weights, outputs differ little between images.
    assert 18 < signal_to_noise_db(expected, on_ort) < 60
    assert signal_to_noise_db(on_ort, simulated) > 30


def test_ranges_from_the_extremes_clip_nothing_of_the_calibration(
    model: onnx.ModelProto, synthetic: Calibration, quantized: onnx.ModelProto
) -> None:
    feeds = batches(model, synthetic)
    wide = to_int8(model, feeds, extremes=True)
    check_form(wide)
    largest = max(float(np.abs(feed["image"]).max()) for feed in feeds)
    limits = []
    for graph in (quantized, wide):
        constants = {t.name: numpy_helper.to_array(t) for t in graph.graph.initializer}
        (scale,) = (
            constants[n.input[1]] for n in graph.graph.node if n.op_type == "QuantizeLinear" and n.input[0] == "image"
        )
        limits.append(127.5 * float(scale.max()))
    assert limits[0] <= limits[1]
    assert limits[1] >= largest


@pytest.mark.target("trt-rtx")
def test_tensorrt_rtx_takes_the_form(quantized: onnx.ModelProto) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    logger = trt.Logger(trt.Logger.ERROR)
    network = trt.Builder(logger).create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    onnx_parser = trt.OnnxParser(network, logger)
    parsed = onnx_parser.parse(quantized.SerializeToString())
    assert parsed, [str(onnx_parser.get_error(i)) for i in range(onnx_parser.num_errors)]


def test_weights_summed_over_channels_use_half_the_range(quantized: onnx.ModelProto) -> None:
    constants = {t.name: numpy_helper.to_array(t) for t in quantized.graph.initializer}
    weights = [constants[n.input[0]] for n in quantized.graph.node if n.input[0] in constants and "Linear" in n.op_type]
    assert len(weights) == 3
    assert all(64 >= np.abs(weight.astype(int)).max() >= 60 for weight in weights)


@pytest.mark.target("ov")
def test_openvino_takes_the_form(model: onnx.ModelProto, quantized: onnx.ModelProto, tmp_path: Path) -> None:
    ov = pytest.importorskip("openvino")
    onnx.save(quantized, tmp_path / "model.onnx")
    hint = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = ov.Core().compile_model(str(tmp_path / "model.onnx"), "CPU", hint)
    feeds = feeds_of(model)
    expected = fidelity.run_all(lambda x: Interpreter(model).run(x), feeds)
    outputs = fidelity.run_all(lambda x: {"output": compiled(dict(x))[0]}, feeds)
    assert signal_to_noise_db(expected, outputs) > 18


def test_another_form_is_refused() -> None:
    unsigned = parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 20]> g (float[4] x) => (float[4] y)
        <float s = {0.1}, uint8 z = {128}> { q = QuantizeLinear (x, s, z)  y = DequantizeLinear (q, s, z) }""")
    with pytest.raises(ConversionError, match="zero point"):
        check_form(unsigned)
    constant = parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 20]> g (float[4] x) => (float[4] y)
        <float s = {0.1}, int8 z = {0}, int8[4] w = {1, 2, 3, 4}> { d = DequantizeLinear (w, s, z)  y = Add (x, d) }""")
    with pytest.raises(ConversionError, match="feeds Add"):
        check_form(constant)


def test_noise_is_relative_to_the_differences_between_images() -> None:
    rng = np.random.default_rng(0)
    expected = rng.normal(size=(50, 100))
    noise = rng.normal(size=(50, 100)) / 10
    assert signal_to_noise_db({"y": expected}, {"y": expected + noise}) == pytest.approx(20, abs=0.2)
    assert signal_to_noise_db({"y": expected + 1000}, {"y": expected + 1000 + noise}) == pytest.approx(20, abs=0.2)


@pytest.mark.slow
def test_a16w8_has_sixteen_bit_activations(model: onnx.ModelProto, synthetic: Calibration) -> None:
    feeds = batches(model, synthetic)
    a16w8 = to_a16w8(model, feeds)
    kinds = {n.name: (n.data_type, len(n.dims)) for n in a16w8.graph.initializer}
    zeros = {kinds[n.input[2]][0] for n in a16w8.graph.node if n.op_type == "QuantizeLinear"}
    assert zeros == {onnx.TensorProto.UINT16}
    producers = {n.output[0]: n for n in a16w8.graph.node}
    weights = [producers[n.input[1]] for n in a16w8.graph.node if n.op_type == "Conv"]
    assert {kinds[n.input[0]][0] for n in weights} == {onnx.TensorProto.INT8}
    assert {kinds[n.input[1]][1] for n in weights} == {1}  # a scale per channel
    with mock.patch("effbench.deploy.precision.rounding.round_weights"):
        nearest = to_a16w8(model, feeds)
    expected, rounded, plain = (
        fidelity.run_all(lambda x, m=m: Interpreter(m).run(x), feeds[:6]) for m in (model, a16w8, nearest)
    )
    assert signal_to_noise_db(expected, rounded) > max(30, signal_to_noise_db(expected, plain) + 3)


def test_a16w8_keeps_biases_in_int32_and_scales_of_norms_unsigned() -> None:
    """A vector that is the bias of two convolutions and the scale of a norm, as equal constants are stored once."""
    model = parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 20]> g (float[1, 8, 4, 8] x) => (float[1, 8, 4, 8] y)
        { a = Conv (x, w, v)  b = Conv (a, u, v)  y = LayerNormalization (b, v, o) }""")
    rng = np.random.default_rng(0)
    for name, shape in {"w": (8, 8, 1, 1), "u": (8, 8, 1, 1), "v": (8,), "o": (8,)}.items():
        model.graph.initializer.append(numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name))
    feeds = [{"x": rng.normal(size=(1, 8, 4, 8)).astype(np.float32)} for _ in range(24)]
    a16w8 = to_a16w8(onnx_file.infer_shapes(model, "the example"), feeds)
    kinds = {tensor.name: tensor.data_type for tensor in a16w8.graph.initializer}
    producers = {node.output[0]: node for node in a16w8.graph.node}
    readers = [node for node in a16w8.graph.node if node.op_type in ("Conv", "LayerNormalization")]
    read = {(node.op_type, i): kinds[producers[node.input[i]].input[0]] for node in readers for i in (1, 2)}
    assert [read["Conv", 1], read["Conv", 2]] == [onnx.TensorProto.INT8, onnx.TensorProto.INT32]
    assert read["LayerNormalization", 1] == onnx.TensorProto.UINT8
    expected, outputs = (fidelity.run_all(lambda x, m=m: Interpreter(m).run(x), feeds[:6]) for m in (model, a16w8))
    assert signal_to_noise_db(expected, outputs) > 35


def test_without_images_int8_is_refused(model: onnx.ModelProto) -> None:
    with pytest.raises(UsageError, match="images"):
        load_calibration(None, (32, 32), Preprocessing())
    for quantize in (to_int8, to_a16w8):
        with pytest.raises(UsageError, match="calibration images"):
            quantize(model, [])


def test_a_folder_is_read_and_hashed(tmp_path: Path, synthetic: Calibration) -> None:
    calibration = load_calibration(photographs(tmp_path / "a", 7), (32, 48), Preprocessing())
    assert calibration.images.shape == (7, 3, 32, 48)
    assert calibration.check_images is not None
    assert synthetic.check_images is None
    again = load_calibration(photographs(tmp_path / "b", 7), (32, 48), Preprocessing())
    other = load_calibration(photographs(tmp_path / "c", 7, seed=1), (32, 48), Preprocessing())
    assert calibration.sha256 == again.sha256
    assert len({calibration.sha256, other.sha256, synthetic.sha256}) == 3


def test_preprocessing_decides_crop_and_channel_order(tmp_path: Path) -> None:
    from PIL import Image

    board = np.zeros((64, 64, 3), np.uint8)
    board[8:56, 8:56] = (200, 100, 50)
    Image.fromarray(board).save(tmp_path / "board.png")
    uncropped = load_calibration(tmp_path, (64, 64), Preprocessing(crop_pct=1.0)).images[0]
    center = load_calibration(tmp_path, (64, 64), Preprocessing(crop_pct=0.7)).images[0]
    swapped = load_calibration(tmp_path, (64, 64), Preprocessing(crop_pct=1.0, channel_order="BGR")).images[0]
    assert uncropped[:, 0, 0].tolist() == [0, 0, 0]
    assert center[:, 0, 0].tolist() == [200, 100, 50]
    assert swapped[:, 32, 32].tolist() == [50, 100, 200]


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder"):
        load_calibration(tmp_path / "none", (32, 32), Preprocessing())
    with pytest.raises(DataError, match="holds no images"):
        load_calibration(tmp_path, (32, 32), Preprocessing())
    (tmp_path / "broken.png").write_bytes(b"not an image")
    with pytest.raises(DataError, match="cannot be read"):
        load_calibration(tmp_path, (32, 32), Preprocessing())
