"""Mixes of int8 and float: between the two graphs they are made of, and the same function where nothing is in int8."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from effbench.deploy.artifact import fidelity
from effbench.deploy.graph import onnx_file
from effbench.deploy.graph.run_ort import left_unfused, runner
from effbench.deploy.interpreter import Interpreter
from effbench.deploy.precision import int8_noise
from effbench.deploy.precision.calibration import load_calibration
from effbench.deploy.precision.int8_noise import choose_float_nodes, signal_to_noise_db
from effbench.deploy.precision.mix import blocks, in_half, mixed, quantized
from effbench.deploy.precision.quantize import check_form, to_int8
from effbench.errors import ConversionError
from effbench.schema import Preprocessing

BODY = """
<ir_version: 10, opset_import: ["" : 20]>
g (float[1, 3, 32, 32] image) => (float[1, 10] output) <int64[2] axes = {2, 3}>
{
    [stem] a = Conv <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]> (image, w1, b1)
    [relu] b = Relu (a)
    [deep] c = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1], group = 4> (b, w2, b2)
    [wide] d = Conv <kernel_shape = [1, 1]> (c, w4, b4)
    [skip] e = Add (b, d)
    [pool] q = ReduceMean <keepdims = 0> (e, axes)
    [head] output = Gemm <transB = 1> (q, w3, b3)
}
"""
SHAPES = {
    "w1": (16, 3, 3, 3),
    "b1": (16,),
    "w2": (16, 4, 3, 3),
    "b2": (16,),
    "w3": (10, 16),
    "b3": (10,),
    "w4": (16, 16, 1, 1),
    "b4": (16,),
}


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    made = parser.parse_model(BODY)
    for name, shape in SHAPES.items():
        values = rng.normal(size=shape) / np.sqrt(max(1, np.prod(shape[1:])))
        made.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
    return onnx_file.infer_shapes(made, "the example")


@pytest.fixture(scope="module")
def int8(model: onnx.ModelProto) -> onnx.ModelProto:
    pytest.importorskip("nncf")
    images = load_calibration("synthetic", (32, 32), Preprocessing())
    return to_int8(model, images.feeds(1, onnx_file.inputs(model)[0], Preprocessing()))


def outputs(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    spec = onnx_file.inputs(model)[0]
    feeds = fidelity.feeds(fidelity.reference_images(6, 3, (32, 32)), 1, spec, Preprocessing())
    interpreter = Interpreter(model)
    return fidelity.run_all(interpreter.run, feeds)


def test_blocks_hold_every_quantized_node_once(model: onnx.ModelProto, int8: onnx.ModelProto):
    names = quantized(int8)
    assert ("a", "c", "d", "output") == names
    found = blocks(model, names)
    # Inside a residual no single tensor joins the halves: its convolutions stay together.
    assert [("a",), ("c", "d"), ("output",)] == [block.nodes for block in blocks(model, names, limit=100)]
    assert list(names) == [name for block in found for name in block.nodes]
    assert onnx_file.count_macs(model) == sum(block.macs for block in found)


def test_all_in_float_is_the_graph_and_none_is_int8(model: onnx.ModelProto, int8: onnx.ModelProto):
    names = quantized(int8)
    expected = outputs(model)
    assert all(np.array_equal(expected[k], v) for k, v in outputs(mixed(model, int8, names)).items())
    theirs = outputs(int8)
    assert all(np.allclose(theirs[k], v, atol=1e-5) for k, v in outputs(mixed(model, int8, ())).items())


def test_less_int8_is_less_noise(model: onnx.ModelProto, int8: onnx.ModelProto):
    expected, names = outputs(model), quantized(int8)
    some = mixed(model, int8, names[:3])
    check_form(some)
    assert set(names[3:]) == set(quantized(some))
    assert signal_to_noise_db(expected, outputs(int8)) < signal_to_noise_db(expected, outputs(some))


def test_the_float_part_in_half_keeps_the_pattern_of_int8(model: onnx.ModelProto, int8: onnx.ModelProto):
    some = mixed(model, int8, ("a",))
    half = in_half(some)
    # Half precision moves values over the edges of quantization levels, and so is compared by the noise as a whole.
    expected = outputs(model)
    assert signal_to_noise_db(expected, outputs(half)) > signal_to_noise_db(expected, outputs(some)) - 1
    kinds = {t.name: t.data_type for t in half.graph.initializer}
    scales = [kinds[n.input[1]] for n in half.graph.node if n.op_type == "DequantizeLinear"]
    assert {onnx.TensorProto.FLOAT} == set(scales)
    assert onnx.TensorProto.FLOAT16 == kinds[next(n for n in half.graph.node if n.op_type == "Conv").input[1]]


@pytest.mark.target("ort")
def test_what_onnx_runtime_does_not_fuse_is_counted(int8: onnx.ModelProto, model: onnx.ModelProto, tmp_path: Path):
    onnx.save(int8, tmp_path / "int8.onnx")
    onnx.save(model, tmp_path / "fp32.onnx")
    assert {"int8": 0, "pairs": 0} == left_unfused(tmp_path / "fp32.onnx")
    assert left_unfused(tmp_path / "int8.onnx")["pairs"] > 0


def calibration(model: onnx.ModelProto) -> list[dict[str, np.ndarray]]:
    images = load_calibration("synthetic", (32, 32), Preprocessing())
    return images.feeds(1, onnx_file.inputs(model)[0], Preprocessing())


def ruined(int8: onnx.ModelProto, *nodes: str) -> onnx.ModelProto:
    """Return the graph with the weights of some nodes shifted by one place: int8 that got them wrong."""
    made = onnx.ModelProto()
    made.CopyFrom(int8)
    readers = {node.output[0]: node.input[1] for node in made.graph.node if node.output[0] in nodes}
    for node in made.graph.node:
        if node.output[0] in readers.values():
            (weight,) = (tensor for tensor in made.graph.initializer if tensor.name == node.input[0])
            weight.CopyFrom(numpy_helper.from_array(np.roll(numpy_helper.to_array(weight), 1, axis=0), weight.name))
    return made


def test_the_operator_that_int8_ruins_goes_back_to_float(model: onnx.ModelProto, int8: onnx.ModelProto) -> None:
    found = choose_float_nodes(model, ruined(int8, "d"), calibration(model))
    assert found.float_nodes[0] == "d"
    assert found.before_db < 15 < found.after_db
    assert 0 < found.share_pct <= 50
    assert len(found.float_nodes) < found.quantizable
    assert set(quantized(found.model)) == set(quantized(int8)) - set(found.float_nodes)
    (note,) = found.notes()
    assert f"{len(found.float_nodes)} of 4 operators" in note


def test_no_operator_is_taken_back_that_need_not_be(
    model: onnx.ModelProto, int8: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = calibration(model)
    monkeypatch.setattr(int8_noise, "TARGET_DB", 12.0)
    kept = choose_float_nodes(model, int8, images)
    assert (kept.model, kept.float_nodes, kept.notes()) == (int8, (), ())
    assert choose_float_nodes(model, ruined(int8, "d"), images).float_nodes == ("d",)
    single = choose_float_nodes(model, ruined(int8, "d"), images[:1])
    assert single.float_nodes == ()  # one image has nothing to differ from


def test_no_more_than_half_of_the_work_goes_back(model: onnx.ModelProto, int8: onnx.ModelProto) -> None:
    found = choose_float_nodes(model, ruined(int8, "a", "c", "d"), calibration(model))
    assert found.float_nodes
    assert found.share_pct <= 50
    assert found.after_db < int8_noise.TARGET_DB


def test_extremes_are_tried_only_where_much_would_be_in_float(
    model: onnx.ModelProto, int8: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, asked = calibration(model), []

    def made(model: onnx.ModelProto, batches: object, extremes: bool = False) -> onnx.ModelProto:
        asked.append(extremes)
        return ruined(int8, "d") if extremes else ruined(int8, "a", "c", "d")

    monkeypatch.setattr(int8_noise, "to_int8", made)
    found = int8_noise.to_mixed_int8(model, images)
    assert asked == [False, True]
    assert found.holds
    assert found.clipping is not None
    assert "extremes" in found.notes()[-1]
    assert f"{found.clipping.after_db:.1f} dB with" in found.notes()[-1]
    monkeypatch.setattr(int8_noise, "_holds", lambda figures: True)
    assert int8_noise.to_mixed_int8(model, images).clipping is None
    assert asked == [False, True, False]


@pytest.mark.parametrize(
    ("least_error", "extremes", "wide"),
    [
        ((True, 40, 22.5), (True, 30, 22.1), True),  # a tenth of the work less in float
        ((True, 32, 22.9), (True, 32, 24.0), True),
        ((True, 26, 22.5), (True, 29, 22.7), False),
        ((True, 26, 22.5), (True, 40, 25.0), False),  # quieter, for much of the work
        ((True, 32, 24.0), (True, 26, 22.1), False),
        ((True, 49, 22.1), (False, 30, 21.9), False),
        ((False, 49, 18.7), (False, 40, 19.5), True),
    ],
)
def test_of_two_ranges_the_one_that_keeps_less_in_float_or_less_noise(
    model: onnx.ModelProto,
    int8: onnx.ModelProto,
    monkeypatch: pytest.MonkeyPatch,
    least_error: tuple[bool, float, float],
    extremes: tuple[bool, float, float],
    wide: bool,
) -> None:
    tried = iter([least_error, extremes])

    def found(*_: object) -> int8_noise.FloatNodesResult:
        quiet, share, after = next(tried)
        return int8_noise.FloatNodesResult(int8, ("d",), 4, share, 10.0, after, quiet)

    monkeypatch.setattr(int8_noise, "to_int8", lambda *_, **__: int8)
    monkeypatch.setattr(int8_noise, "choose_float_nodes", found)
    assert (int8_noise.to_mixed_int8(model, calibration(model)).clipping is not None) == wide


def test_the_worst_set_of_images_decides(model: onnx.ModelProto, int8: onnx.ModelProto) -> None:
    images = calibration(model)
    sets = [images[start : start + fidelity.NATURAL] for start in range(0, 48, fidelity.NATURAL)]
    levels = [
        signal_to_noise_db(*(fidelity.run_all(runner(graph), some) for graph in (model, ruined(int8, "d"))))
        for some in sets
    ]
    found = choose_float_nodes(model, ruined(int8, "d"), images)
    assert found.sets == 8
    assert found.before_db == pytest.approx(min(levels), abs=1e-6)
    few = choose_float_nodes(model, ruined(int8, "d"), images[:11])  # too few for two sets
    assert few.sets == 1
    assert "on calibration images" in few.notes()[0]


def test_a_graph_that_does_not_do_is_left_at_the_first_set_that_says_so(
    model: onnx.ModelProto, int8: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[int] = []
    whole = fidelity.run_all

    def counted(run: fidelity.Run, batches: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        ran.append(len(batches))
        return whole(run, batches)

    judge = int8_noise._NoiseJudge(model, calibration(model), 1)
    monkeypatch.setattr(fidelity, "run_all", counted)
    assert not int8_noise._holds(judge.figures(ruined(int8, "a"), all_sets=False))
    assert ran == [fidelity.NATURAL]
    judge.figures(ruined(int8, "a"))
    assert ran == [fidelity.NATURAL] * 9


def test_what_is_not_finite_goes_back_first(model: onnx.ModelProto, int8: onnx.ModelProto) -> None:
    broken = onnx.ModelProto()
    broken.CopyFrom(int8)
    (name,) = (node.input[2] for node in broken.graph.node if node.output[0] == "output")
    (bias,) = (tensor for tensor in broken.graph.initializer if tensor.name == name)
    bias.CopyFrom(numpy_helper.from_array(np.full(10, np.nan, np.float32), bias.name))
    found = choose_float_nodes(model, broken, calibration(model))
    assert found.float_nodes[0] == "output"
    assert found.before_db == -np.inf
    assert found.after_db > 15


def test_an_operator_that_has_no_derivative_here_costs_runs_and_not_the_result(
    model: onnx.ModelProto, int8: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, images = ruined(int8, "d"), calibration(model)
    wanted = choose_float_nodes(model, broken, images)

    def unknown(*_: object) -> dict[str, float]:
        raise ConversionError("interpret", "the interpreter has no such operator", op="Mystery")

    monkeypatch.setattr("effbench.deploy.precision.noise.quantization_noise", unknown)
    found = choose_float_nodes(model, broken, images)
    assert wanted.float_nodes[0] == found.float_nodes[0] == "d"
    assert wanted.holds == found.holds


def test_noise_for_work_counts_only_where_it_saves_a_tenth_of_the_work(
    model: onnx.ModelProto, int8: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    macs = onnx_file.macs_by_node(model)
    costly, cheap = max(("a", "d"), key=macs.__getitem__), min(("a", "d"), key=macs.__getitem__)
    saved = 100 * (macs[costly] - macs[cheap]) / sum(macs[name] for name in quantized(int8))
    # Either of the two alone is enough; the noisier is the costly one.
    powers = {name: {costly: 2.0, cheap: 1.9}.get(name, 0.0) for name in quantized(int8)}
    monkeypatch.setattr(int8_noise, "_noise_powers", lambda *_: powers)

    def enough(_: object, graph: onnx.ModelProto, all_sets: bool = True) -> dict[str, float]:
        quiet = not {costly, cheap} <= set(quantized(graph))
        return {"snr_db": 30.0 if quiet else 10.0, "cosine": 1.0}

    monkeypatch.setattr(int8_noise._NoiseJudge, "figures", enough)
    for worth, wanted in ((saved - 1, cheap), (saved + 1, costly)):
        monkeypatch.setattr(int8_noise, "WORTH_PCT", worth)
        assert choose_float_nodes(model, int8, calibration(model)).float_nodes == (wanted,)
