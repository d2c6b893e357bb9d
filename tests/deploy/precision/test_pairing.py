"""A quantized graph against its float graph, operator by operator: no fault in a right one, each wrong one named."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from effbench.deploy.graph import mutations, onnx_file
from effbench.deploy.precision.pairing import pair

RNG = np.random.default_rng(0)
FLOAT = """
<ir_version: 10, opset_import: ["" : 20]>
g (float[1, 3, 16, 16] image) => (float[1, 10] output)
{
    [stem] a = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (image, w1, b1)
    [relu] b = Relu (a)
    [gelu] c = Gelu (b)
    [pool] d = GlobalAveragePool (c)
    [flat] e = Flatten (d)
    [head] output = Gemm <transB = 1> (e, w2, b2)
}
"""
QUANTIZED = """
<ir_version: 10, opset_import: ["" : 20]>
g (float[1, 3, 16, 16] image) => (float[1, 10] output)
{
    q0 = QuantizeLinear (image, s0, z)
    x0 = DequantizeLinear (q0, s0, z)
    x1 = DequantizeLinear <axis = 0> (w1_q, w1_s, w1_z)
    [stem] a = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x0, x1, b1)
    [relu] b = Relu (a)
    [gelu] c = Gelu (b)
    [pool] d = GlobalAveragePool (c)
    [flat] e = Flatten (d)
    q2 = QuantizeLinear (e, s2, z)
    x2 = DequantizeLinear (q2, s2, z)
    x3 = DequantizeLinear <axis = 0> (w2_q, w2_s, w2_z)
    [head] output = Gemm <transB = 1> (x2, x3, b2)
}
"""
CONSTANTS = {
    "w1": RNG.normal(size=(16, 3, 3, 3)) / 5,
    "b1": RNG.normal(size=16),
    "w2": RNG.normal(size=(10, 16)) / 4,
    "b2": RNG.normal(size=10),
}


def add(model: onnx.ModelProto, **values: np.ndarray) -> None:
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), k) for k, v in values.items())


@pytest.fixture(scope="module")
def graphs() -> tuple[onnx.ModelProto, onnx.ModelProto]:
    model, quantized = parser.parse_model(FLOAT), parser.parse_model(QUANTIZED)
    add(model, **{name: value.astype(np.float32) for name, value in CONSTANTS.items()})
    add(quantized, **{name: CONSTANTS[name].astype(np.float32) for name in ("b1", "b2")})
    add(quantized, s0=np.float32(4 / 127), s2=np.float32(4 / 127), z=np.int8(0))
    for name in ("w1", "w2"):
        weight = CONSTANTS[name].reshape(len(CONSTANTS[name]), -1)
        scale = (np.abs(weight).max(1) / 64).astype(np.float32)
        levels = np.rint(weight / scale[:, None]).astype(np.int8).reshape(CONSTANTS[name].shape)
        add(quantized, **{f"{name}_q": levels, f"{name}_s": scale, f"{name}_z": np.zeros(len(scale), np.int8)})
    return model, onnx_file.infer_shapes(quantized, "the example")


FEEDS = [{"image": RNG.uniform(-4, 4, (1, 3, 16, 16)).astype(np.float32)} for _ in range(2)]


def changed(model: onnx.ModelProto, change: Callable[[onnx.ModelProto], None]) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    change(copy)
    return copy


def scaled(name: str, factor: float) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        (tensor,) = (item for item in model.graph.initializer if item.name == name)
        value = numpy_helper.to_array(tensor)
        tensor.CopyFrom(numpy_helper.from_array((value * factor).astype(value.dtype), name))

    return change


def test_a_right_quantization_has_no_fault(graphs: tuple[onnx.ModelProto, onnx.ModelProto]) -> None:
    result = pair(*graphs, FEEDS)
    assert (result.compared, result.unpaired, result.faults) == (6, (), ())


def test_a_graph_equals_itself(graphs: tuple[onnx.ModelProto, onnx.ModelProto]) -> None:
    assert pair(graphs[0], graphs[0], FEEDS).faults == ()


def test_a_fault_names_operator_element_and_values(graphs: tuple[onnx.ModelProto, onnx.ModelProto]) -> None:
    def mirror(model: onnx.ModelProto) -> None:
        (tensor,) = (item for item in model.graph.initializer if item.name == "w1_q")
        value = np.ascontiguousarray(numpy_helper.to_array(tensor)[..., ::-1])
        tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))

    (fault,) = pair(graphs[0], changed(graphs[1], mirror), FEEDS).faults
    assert (fault.operator, fault.op) == ("stem", "Conv")
    assert fault.text.startswith("input 1: its values ")
    assert fault.expected == pytest.approx(CONSTANTS["w1"][tuple(map(int, fault.element[1:-1].split(",")))], rel=1e-5)


@pytest.mark.parametrize("name", ["w1_s", "w2_s", "b1"])
def test_a_weight_scaled_by_two_percent_is_found(graphs: tuple[onnx.ModelProto, onnx.ModelProto], name: str) -> None:
    faults = pair(graphs[0], changed(graphs[1], scaled(name, 1.02)), FEEDS).faults
    assert len(faults) == 1
    assert "1.02" in faults[0].text or "1.01" in faults[0].text


@pytest.mark.parametrize(("factor", "text"), [(0.2, "clips"), (1.02, None)])
def test_ranges_of_activations_that_clip_are_named(
    graphs: tuple[onnx.ModelProto, onnx.ModelProto], factor: float, text: str | None
) -> None:
    """Another step is another rounding, no fault; a range that clips a fifth of the values is one."""
    faults = pair(graphs[0], changed(graphs[1], scaled("s0", factor)), FEEDS).faults
    assert ([text in fault.text for fault in faults] == [True]) if text else not faults


def test_unequal_scales_of_a_pair_are_found(graphs: tuple[onnx.ModelProto, onnx.ModelProto]) -> None:
    def unequal(model: onnx.ModelProto) -> None:
        add(model, other=np.float32(4 / 127 * 1.02))
        (node,) = (node for node in model.graph.node if node.output[0] == "x0")
        node.input[1] = "other"

    faults = pair(graphs[0], changed(graphs[1], unequal), FEEDS).faults
    assert "steps" in faults[0].text


def test_seeded_wrong_conversions_are_found(graphs: tuple[onnx.ModelProto, onnx.ModelProto]) -> None:
    kinds, missed = set(), []
    for mutation in mutations.mutations(graphs[1], 3, "seed"):
        kinds.add(mutation.kind)
        if not pair(graphs[0], mutation.model, FEEDS).faults:
            missed.append((mutation.kind, mutation.place))
    assert kinds == set(mutations.KINDS)
    assert missed == []
