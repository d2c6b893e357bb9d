"""A runtime against its quantized graph, part by part: right runtimes pass, each wrong one is named."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser
from test_pairing import FEEDS, changed, graphs, scaled

from effbench.deploy import Array, Traced
from effbench.deploy.graph import mutations
from effbench.deploy.graph.run_ort import runner
from effbench.deploy.precision.pairing.runtime import inner_tensors, pair_runtime

pytestmark = pytest.mark.target("ort")
Pair = tuple[onnx.ModelProto, onnx.ModelProto]
__all__ = ["graphs"]  # the fixture


def on_ort(model: onnx.ModelProto, right: onnx.ModelProto | None = None) -> Traced:
    return runner(model, inner_tensors(right or model))


def test_a_right_runtime_has_no_fault(graphs: Pair) -> None:
    result = pair_runtime(graphs[1], on_ort(graphs[1]), FEEDS)
    assert (result.compared, result.faults) == (3, ())


@pytest.mark.parametrize("name", ["w1_s", "w2_s", "b1", "b2"])
def test_one_weight_of_the_runtime_scaled_by_two_percent_is_found(graphs: Pair, name: str) -> None:
    faults = pair_runtime(graphs[1], on_ort(changed(graphs[1], scaled(name, 1.02))), FEEDS).faults
    assert len(faults) == 1
    assert faults[0].expected != pytest.approx(faults[0].observed, abs=1e-4)


@pytest.mark.parametrize("kind", ["weight scaled 2 %", "axis mirrored", "channel order flipped", "output swapped"])
def test_seeded_faults_of_a_runtime_are_found(graphs: Pair, kind: str) -> None:
    wrong = list(mutations.mutations(graphs[1], 2, "runtime", (kind,)))
    assert len(wrong) == 2
    for mutation in wrong:
        assert pair_runtime(graphs[1], on_ort(mutation.model, graphs[1]), FEEDS).faults, mutation.place


@pytest.mark.parametrize(("from_border", "right"), [(1e-4, True), (0.1, False)])
def test_a_level_may_fall_either_way_at_a_border_alone(graphs: Pair, from_border: float, right: bool) -> None:
    """The image holds a value near the border between levels 2 and 3, and the runtime takes the further one."""
    step = 4 / 127
    feed = {"image": FEEDS[0]["image"].copy()}
    feed["image"][0, 0, 0, 0] = (2.5 - from_border) * step

    def traced(feed: Mapping[str, Array]) -> Mapping[str, Array]:
        levels = np.array(on_ort(graphs[1])(feed)["q0"])
        assert levels[0, 0, 0, 0] == 2
        levels[0, 0, 0, 0] = 3
        return {"q0": levels}

    faults = pair_runtime(graphs[1], traced, [feed]).faults
    assert [fault.operator for fault in faults] == ([] if right else ["image"])


@pytest.mark.parametrize(("error", "right"), [(5e-7, True), (1e-5, False)])
def test_a_sigmoid_may_have_a_small_absolute_error(error: float, right: bool) -> None:
    """ONNX Runtime writes 0 where the exact value is 1e-26."""
    text = '<ir_version: 10, opset_import: ["" : 20]> g (float[1, 4] x) => (float[1, 4] y) { y = Sigmoid (x) }'
    feed = {"x": np.full((1, 4), -60, np.float32)}
    traced = {"y": np.full((1, 4), error, np.float32)}
    assert (not pair_runtime(parser.parse_model(text), lambda _: traced, [feed]).faults) is right


def test_a_bias_may_be_rounded_to_an_integer_of_32_bits(graphs: Pair) -> None:
    """Kernels of int8 add biases as integers, in steps of the product of both scales."""

    def rounded(model: onnx.ModelProto, steps: float) -> None:
        constants = {tensor.name: tensor for tensor in model.graph.initializer}
        s0, w1 = (numpy_helper.to_array(constants[name]) for name in ("s0", "w1_s"))
        bias = numpy_helper.to_array(constants["b1"])
        grid = s0 * w1 * np.float32(steps)
        constants["b1"].CopyFrom(numpy_helper.from_array((np.rint(bias / grid) * grid).astype(np.float32), "b1"))

    for steps, right in ((1, True), (40, False)):
        wrong = changed(graphs[1], lambda model, steps=steps: rounded(model, steps))
        assert bool(pair_runtime(graphs[1], on_ort(wrong), FEEDS).faults) is not right


@pytest.mark.parametrize(("places", "right"), [([0, 2], True), ([2, 0], True), ([1, 0], False)])
def test_of_tied_values_any_may_be_selected_and_what_follows_reads_the_same(places: list[int], right: bool) -> None:
    text = """<ir_version: 10, opset_import: ["" : 20]>
        g (float[1, 4] x, float[1, 4] z) => (float[1, 2] best, float[1, 2] y) <int64[1] k = {2}>
        { best, at = TopK (x, k)  y = GatherElements <axis = 1> (z, at) }"""
    feed = {"x": np.array([[3, 1, 3, 2]], np.float32), "z": np.array([[10, 20, 30, 40]], np.float32)}
    at = np.array([places])
    traced = {"at": at, "best": np.array([[3, 3]], np.float32), "y": np.take_along_axis(feed["z"], at, 1)}
    faults = pair_runtime(parser.parse_model(text), lambda _: traced, [feed]).faults
    assert [fault.op for fault in faults] == ([] if right else ["TopK"])
