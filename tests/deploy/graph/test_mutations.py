from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from effbench.deploy.graph import mutations, onnx_file
from effbench.deploy.interpreter import run_model

RNG = np.random.default_rng(1)
TWO_OUTPUTS = """
<ir_version: 10, opset_import: ["" : 20]>
g (float[1, 3, 8, 8] image) => (float[1, 4, 8, 8] left, float[1, 4, 8, 8] right)
{
    [stem] a = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (image, w)
    [bend] b = LeakyRelu <alpha = 0.1> (a)
    left = Tanh (b)
    right = Sigmoid (b)
}
"""
FEED = {"image": RNG.normal(size=(1, 3, 8, 8)).astype(np.float32)}


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    graph = parser.parse_model(TWO_OUTPUTS)
    graph.graph.initializer.append(numpy_helper.from_array(RNG.normal(size=(4, 3, 3, 3)).astype(np.float32), "w"))
    return onnx_file.infer_shapes(graph, "the example")


def test_every_kind_gives_valid_graphs_of_the_same_outputs_and_other_values(model: onnx.ModelProto) -> None:
    expected = run_model(model, FEED)
    wrong = list(mutations.mutations(model, 3, "a"))
    assert {item.kind for item in wrong} == set(mutations.KINDS)
    assert len({(item.kind, item.place) for item in wrong}) == len(wrong)
    for item in wrong:
        onnx.checker.check_model(item.model, full_check=True)
        outputs = run_model(item.model, FEED)
        assert {name: value.shape for name, value in outputs.items()} == {n: v.shape for n, v in expected.items()}
        assert any(not np.array_equal(outputs[name], expected[name]) for name in expected), item


def test_the_same_seed_gives_the_same_mutations(model: onnx.ModelProto) -> None:
    places = [[item.place for item in mutations.mutations(model, 2, seed)] for seed in ("a", "a", "b")]
    assert places[0] == places[1] != places[2]


def test_swapped_outputs_exchange_their_values(model: onnx.ModelProto) -> None:
    (swapped,) = mutations.mutations(model, 1, "a", ("output swapped",))
    before, after = run_model(model, FEED), run_model(swapped.model, FEED)
    assert np.array_equal(after["left"], before["right"])
    assert np.array_equal(after["right"], before["left"])


def test_one_weight_tensor_is_scaled_by_two_percent(model: onnx.ModelProto) -> None:
    (scaled,) = mutations.mutations(model, 1, "a", ("weight scaled 2 %",))
    assert scaled.place == "w of Conv (108 values) times 1.02"
    before, after = (numpy_helper.to_array(item.graph.initializer[0]) for item in (model, scaled.model))
    assert after == pytest.approx(before * 1.02)


def test_a_kind_that_a_graph_has_no_place_for_is_left_out() -> None:
    text = '<ir_version: 10, opset_import: ["" : 20]> g (float[1, 1] x) => (float[1, 1] y) { y = Relu (x) }'
    graph = onnx_file.infer_shapes(parser.parse_model(text), "the example")
    assert {item.kind for item in mutations.mutations(graph, 2)} == {"attribute changed", "layer lost"}
