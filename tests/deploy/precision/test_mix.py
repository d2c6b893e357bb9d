"""Mixes of int8 and float: between the two graphs that they consist of, and the same function if all is in float."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from mixed_graphs import network, network_in_int8

from effbench.deploy.artifact import feeding, fidelity
from effbench.deploy.graph import onnx_file, signature
from effbench.deploy.graph.run_ort import count_unfused
from effbench.deploy.interpreter import Interpreter
from effbench.deploy.precision.int8_noise import signal_to_noise_db
from effbench.deploy.precision.mix import blocks, in_half, mixed, quantized
from effbench.deploy.precision.quantize import check_form
from effbench.errors import ConversionError
from effbench.schema import Preprocessing


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return network()


@pytest.fixture(scope="module")
def int8() -> onnx.ModelProto:
    return network_in_int8()


def outputs(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    inputs = signature.guessed(model)
    feeds = feeding.feeds(feeding.synthetic(inputs, 6), 1, inputs, Preprocessing())
    interpreter = Interpreter(model)
    return fidelity.run_all(interpreter.run, feeds)


def test_blocks_hold_every_quantized_node_once(model: onnx.ModelProto, int8: onnx.ModelProto):
    names = quantized(int8)
    assert ("a", "c", "d", "output") == names
    # Inside a residual no single tensor joins the halves: its convolutions stay together.
    assert [("a",), ("c", "d"), ("output",)] == [block.nodes for block in blocks(model, names, limit=100)]
    divided = blocks(model, names)
    assert list(names) == [name for block in divided for name in block.nodes]
    assert onnx_file.count_macs(model) == sum(block.macs for block in divided)


def test_all_in_float_is_the_graph_and_none_is_int8(model: onnx.ModelProto, int8: onnx.ModelProto):
    names = quantized(int8)
    expected = outputs(model)
    assert all(np.array_equal(expected[k], v) for k, v in outputs(mixed(model, int8, names)).items())
    expected = outputs(int8)
    assert all(np.allclose(expected[k], v, atol=1e-5) for k, v in outputs(mixed(model, int8, ())).items())


def test_less_int8_is_less_noise(model: onnx.ModelProto, int8: onnx.ModelProto):
    expected, names = outputs(model), quantized(int8)
    mix = mixed(model, int8, names[:3])
    check_form(mix)
    assert set(names[3:]) == set(quantized(mix))
    assert signal_to_noise_db(expected, outputs(int8)) < signal_to_noise_db(expected, outputs(mix))


def test_a_quantized_graph_of_another_model_is_refused(model: onnx.ModelProto, int8: onnx.ModelProto):
    other = onnx.ModelProto()
    other.CopyFrom(model)
    for node in other.graph.node:
        node.input[:] = ["z" if name == "d" else name for name in node.input]
        node.output[:] = ["z" if name == "d" else name for name in node.output]
    with pytest.raises(ConversionError, match="other nodes"):
        mixed(other, int8, ())


def test_the_float_part_in_half_keeps_the_pattern_of_int8(model: onnx.ModelProto, int8: onnx.ModelProto):
    mix = mixed(model, int8, ("a",))
    half = in_half(mix)
    # Half precision moves values over the edges of quantization levels, so only the power of the noise is compared.
    expected = outputs(model)
    assert signal_to_noise_db(expected, outputs(half)) > signal_to_noise_db(expected, outputs(mix)) - 1
    kinds = {t.name: t.data_type for t in half.graph.initializer}
    scales = [kinds[n.input[1]] for n in half.graph.node if n.op_type == "DequantizeLinear"]
    assert {onnx.TensorProto.FLOAT} == set(scales)
    assert onnx.TensorProto.FLOAT16 == kinds[next(n for n in half.graph.node if n.op_type == "Conv").input[1]]


@pytest.mark.target("ort")
def test_what_onnx_runtime_does_not_fuse_is_counted(int8: onnx.ModelProto, model: onnx.ModelProto, tmp_path: Path):
    onnx.save(int8, tmp_path / "int8.onnx")
    onnx.save(model, tmp_path / "fp32.onnx")
    assert {"int8": 0, "qdq": 0} == count_unfused(tmp_path / "fp32.onnx")
    assert count_unfused(tmp_path / "int8.onnx")["qdq"] > 0
