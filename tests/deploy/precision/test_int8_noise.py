"""The operators of an int8 graph that stay in float: the noisiest ones, as few as the limits need."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from mixed_graphs import Feeds, calibration, inexact, network, network_in_int8, ruined
from onnx import numpy_helper, parser

from effbench.deploy.artifact import fidelity
from effbench.deploy.graph import onnx_file
from effbench.deploy.graph.run_ort import runner
from effbench.deploy.precision import int8_noise
from effbench.deploy.precision.int8_noise import FloatNodesResult, choose_float_nodes, signal_to_noise_db
from effbench.deploy.precision.mix import quantized
from effbench.deploy.precision.quantize import to_int8
from effbench.errors import ConversionError


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return network()


@pytest.fixture(scope="module")
def int8() -> onnx.ModelProto:
    return network_in_int8()


@pytest.fixture(scope="module")
def images(int8: onnx.ModelProto) -> Feeds:
    return calibration()


def test_the_operator_that_int8_ruins_stays_in_float(
    model: onnx.ModelProto, int8: onnx.ModelProto, images: Feeds
) -> None:
    result = choose_float_nodes(model, ruined("d"), images)
    assert result.float_nodes[0] == "d"
    assert result.before_db < 15 < result.after_db
    assert 0 < result.share_pct <= 50
    assert len(result.float_nodes) < result.quantizable
    assert set(quantized(result.model)) == set(quantized(int8)) - set(result.float_nodes)
    (note,) = result.notes()
    assert f"{len(result.float_nodes)} of 4 operators" in note


def test_no_operator_is_in_float_that_need_not_be(
    model: onnx.ModelProto, int8: onnx.ModelProto, images: Feeds, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8_noise, "TARGET_DB", 12.0)
    unchanged = choose_float_nodes(model, int8, images)
    assert (unchanged.model, unchanged.float_nodes, unchanged.notes()) == (int8, (), ())
    assert choose_float_nodes(model, ruined("d"), images).float_nodes == ("d",)
    single = choose_float_nodes(model, ruined("d"), images[:1])
    assert single.float_nodes == ()  # one image has no spread to judge by


def test_no_more_than_half_of_the_work_is_in_float(model: onnx.ModelProto, images: Feeds) -> None:
    result = choose_float_nodes(model, ruined("a", "c", "d"), images)
    assert result.float_nodes
    assert result.share_pct <= 50
    assert result.after_db < int8_noise.TARGET_DB


LARGEST = "p = GlobalMaxPool (d)  f = Flatten (p)  output = Gemm <transB = 1> (f, w3)"
WHOLE_MAP = "output = Conv <kernel_shape = [1, 1]> (d, w3)"


def three_products(side: int, end: str, uneven: float = 1.0) -> onnx.ModelProto:
    """Return a network of three products; ``uneven`` scales a channel between the first and the second."""
    shape = "1, 8" if end == LARGEST else f"1, 8, {side}, {side}"
    model = parser.parse_model(f"""<ir_version: 10, opset_import: ["" : 20]>
        g (float[1, 8, {side}, {side}] image) => (float[{shape}] output) {{
            a = Conv <kernel_shape = [1, 1]> (image, w1)
            b = Relu (a)
            c = Conv <kernel_shape = [1, 1]> (b, w2)
            d = Relu (c)
            {end} }}""")
    rng = np.random.default_rng(0)
    first, second, third = (np.eye(8) + 0.1 * rng.normal(size=(8, 8)) for _ in range(3))
    first[0] *= uneven
    second[:, 0] /= uneven
    last_shape = (8, 8) if end == LARGEST else (8, 8, 1, 1)
    weights = {"w1": first.reshape(8, 8, 1, 1), "w2": second.reshape(8, 8, 1, 1), "w3": third.reshape(last_shape)}
    for name, weight in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(weight.astype(np.float32), name))
    return onnx_file.infer_shapes(model, "the example")


def noise_images(side: int, count: int = 24) -> Feeds:
    rng = np.random.default_rng(1)
    return [{"image": rng.normal(size=(1, 8, side, side)).astype(np.float32)} for _ in range(count)]


@pytest.fixture
def ranges(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Return a list that fills with the kind of each quantization: whether its ranges are the extremes."""
    kinds: list[bool] = []

    def recorded(model: onnx.ModelProto, batches: Feeds, extremes: bool = False) -> onnx.ModelProto:
        kinds.append(extremes)
        return to_int8(model, batches, extremes)

    monkeypatch.setattr(int8_noise, "to_int8", recorded)
    return kinds


def test_extremes_become_the_ranges_if_clipping_loses_what_the_output_depends_on(ranges: list[bool]) -> None:
    pytest.importorskip("nncf")
    model, feeds, rng = three_products(128, LARGEST), noise_images(128), np.random.default_rng(2)
    for feed in feeds:  # one value of 131,072 decides each output; the squared error hardly counts it
        feed["image"][0, rng.integers(8), rng.integers(128), rng.integers(128)] = rng.uniform(20, 30)
    result = int8_noise.to_mixed_int8(model, feeds)
    assert ranges == [False, True]
    assert result.holds
    assert result.clipping is not None
    assert not result.clipping.holds
    assert result.float_nodes == ()
    assert "extremes" in result.notes()[-1]
    assert f"{result.clipping.after_db:.1f} dB with {result.clipping.share_pct:.0f} %" in result.notes()[-1]
    scales = {tensor.name: numpy_helper.to_array(tensor) for tensor in result.model.graph.initializer}
    (scale,) = (scales[n.input[1]] for n in result.model.graph.node if n.input[0] == "image")
    assert 127.5 * float(scale) >= max(float(feed["image"].max()) for feed in feeds)


def test_clipping_ranges_stay_if_the_extremes_are_noisier(ranges: list[bool]) -> None:
    pytest.importorskip("nncf")
    # The second product reads a channel that is 300 times as large as the others: a third of the work is in float.
    model, feeds = three_products(64, WHOLE_MAP, uneven=300), noise_images(64)
    feeds[7]["image"][0, 3, 5, 5] = 25  # one stray value, for which the extremes give up three bits
    result = int8_noise.to_mixed_int8(model, feeds)
    assert ranges == [False, True]
    assert result.float_nodes == ("c",)
    assert result.clipping is None
    extremes = choose_float_nodes(model, to_int8(model, feeds, extremes=True), feeds)
    assert result.after_db > extremes.after_db + 1


def test_extremes_are_not_tried_if_little_is_in_float(ranges: list[bool]) -> None:
    pytest.importorskip("nncf")
    result = int8_noise.to_mixed_int8(three_products(16, WHOLE_MAP), noise_images(16))
    assert ranges == [False]
    assert result.holds
    assert (result.float_nodes, result.clipping) == ((), None)


@pytest.mark.parametrize(
    ("clipping", "extremes", "chosen"),
    [
        ((True, 40, 22.5), (True, 30, 22.1), "extremes"),  # a tenth of the work less in float
        ((True, 32, 22.9), (True, 32, 24.0), "extremes"),
        ((True, 26, 22.5), (True, 29, 22.7), "clipping"),
        ((True, 26, 22.5), (True, 40, 25.0), "clipping"),  # less noise, for much of the work
        ((True, 32, 24.0), (True, 26, 22.1), "clipping"),
        ((True, 49, 22.1), (False, 30, 21.9), "clipping"),
        ((False, 49, 18.7), (False, 40, 19.5), "extremes"),
    ],
)
def test_of_two_ranges_the_one_with_less_in_float_or_less_noise_is_chosen(
    clipping: tuple[bool, float, float], extremes: tuple[bool, float, float], chosen: str
) -> None:
    results = {
        name: FloatNodesResult(onnx.ModelProto(), ("d",), 4, share, 10.0, after, holds)
        for name, (holds, share, after) in (("clipping", clipping), ("extremes", extremes))
    }
    assert int8_noise.better_ranges(**results) is results[chosen]


def test_the_worst_set_of_images_decides(model: onnx.ModelProto, images: Feeds) -> None:
    sets = [images[start : start + fidelity.NATURAL] for start in range(0, 48, fidelity.NATURAL)]
    levels = [
        signal_to_noise_db(*(fidelity.run_all(runner(graph), feeds) for graph in (model, ruined("d"))))
        for feeds in sets
    ]
    result = choose_float_nodes(model, ruined("d"), images)
    assert result.sets == 8
    assert result.before_db == pytest.approx(min(levels), abs=1e-6)
    too_few_for_two_sets = choose_float_nodes(model, ruined("d"), images[:11])
    assert too_few_for_two_sets.sets == 1
    assert "on calibration images" in too_few_for_two_sets.notes()[0]


def test_a_graph_is_not_judged_further_after_the_first_set_that_it_fails(
    model: onnx.ModelProto, images: Feeds, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []
    run_all = fidelity.run_all

    def counted(run: fidelity.Run, batches: Feeds) -> dict[str, np.ndarray]:
        counts.append(len(batches))
        return run_all(run, batches)

    judge = int8_noise._NoiseJudge(model, images, 1)
    monkeypatch.setattr(fidelity, "run_all", counted)
    assert not int8_noise._holds(judge.figures(ruined("a"), all_sets=False))
    assert counts == [fidelity.NATURAL]
    judge.figures(ruined("a"))
    assert counts == [fidelity.NATURAL] * 9


def test_the_set_that_fails_is_judged_first_the_next_time(model: onnx.ModelProto, images: Feeds) -> None:
    judge = int8_noise._NoiseJudge(model, images, 1)
    expected, feeds = judge._sets[-1]
    judge._sets[-1] = ({name: value[::-1] for name, value in expected.items()}, feeds)
    assert not int8_noise._holds(judge.figures(model, all_sets=False))  # the exact graph holds all others
    assert judge._sets[0][1] is feeds
    assert len(judge._sets) == 8


def test_a_result_that_is_not_finite_goes_to_float_first(
    model: onnx.ModelProto, int8: onnx.ModelProto, images: Feeds
) -> None:
    broken = onnx.ModelProto()
    broken.CopyFrom(int8)
    (name,) = (node.input[2] for node in broken.graph.node if node.output[0] == "output")
    (bias,) = (tensor for tensor in broken.graph.initializer if tensor.name == name)
    bias.CopyFrom(numpy_helper.from_array(np.full(10, np.nan, np.float32), bias.name))
    result = choose_float_nodes(model, broken, images)
    assert result.float_nodes[0] == "output"
    assert result.before_db == -np.inf
    assert result.after_db > 15


def test_without_derivatives_the_noise_is_measured_by_runs(
    model: onnx.ModelProto, images: Feeds, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = choose_float_nodes(model, ruined("d"), images)

    def unknown(*_: Any) -> dict[str, float]:
        raise ConversionError("interpret", "the interpreter has no such operator", op="Mystery")

    monkeypatch.setattr("effbench.deploy.precision.noise.quantization_noise", unknown)
    result = choose_float_nodes(model, ruined("d"), images)
    assert expected.float_nodes[0] == result.float_nodes[0] == "d"
    assert expected.holds == result.holds


def test_noise_per_work_counts_only_if_it_saves_a_tenth_of_the_work(
    model: onnx.ModelProto, int8: onnx.ModelProto, images: Feeds, monkeypatch: pytest.MonkeyPatch
) -> None:
    macs = onnx_file.macs_by_node(model)
    saved_pct = 100 * (macs["a"] - macs["d"]) / sum(macs[name] for name in quantized(int8))
    assert saved_pct > 10
    # Both make most of the noise, a a little more, d more for its work. Without either one, 5.8 dB hold.
    noisy = inexact({"a": 10, "d": 7})
    monkeypatch.setattr(int8_noise, "TARGET_DB", 5.8)
    monkeypatch.setattr(int8_noise, "LEAST_COSINE", 0.0)
    worst_set = int8_noise._NoiseJudge(model, images, 1).worst(noisy)
    powers = int8_noise._noise_powers(model, noisy, quantized(noisy), worst_set)
    assert sorted(powers, key=powers.__getitem__)[-2:] == ["d", "a"]
    assert powers["d"] / macs["d"] > powers["a"] / macs["a"]
    # The head costs next to nothing, so it is the first by noise per work.
    for worth_pct, chosen in ((saved_pct - 1, ("output", "d")), (saved_pct + 1, ("a",))):
        monkeypatch.setattr(int8_noise, "WORTH_PCT", worth_pct)
        assert choose_float_nodes(model, noisy, images).float_nodes == chosen
