"""The noise of single operators at the outputs, from derivatives, against runs with that operator alone changed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper, parser

from effbench.deploy.graph import onnx_file
from effbench.deploy.interpreter import Interpreter
from effbench.deploy.precision.noise import quantization_noise, rounding_noise
from effbench.errors import ConversionError

SIDE = 12
BODY = """
    a = Conv <pads = [1, 1, 1, 1]> (x, w1)
    b = Relu (a)
    c = Conv <pads = [1, 1, 1, 1], group = 8> (b, w2)
    s = Sigmoid (c)
    d = Mul (c, s)
    e = Add (d, a)
    f = Conv (e, w3)
    p = ReduceMean <keepdims = 0> (f, axes)
    y = Gemm (p, w4)
"""
SHAPES = {"w1": (8, 3, 3, 3), "w2": (8, 1, 3, 3), "w3": (16, 8, 1, 1), "w4": (16, 10)}
READERS = {"w1": "a", "w2": "c", "w3": "f", "w4": "y"}


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    head = f'<ir_version: 9, opset_import: ["" : 20]> g (float[1, 3, {SIDE}, {SIDE}] x) => (float[1, 10] y)'
    graph = parser.parse_model(f"{head} <int64[2] axes = {{2, 3}}> {{ {BODY} }}")
    random = np.random.default_rng(0)
    for name, shape in SHAPES.items():
        values = random.normal(0, np.prod(shape[1:]) ** -0.5, shape).astype(np.float32)
        graph.graph.initializer.append(numpy_helper.from_array(values, name))
    return onnx_file.infer_shapes(graph, "model")


def changed(model: onnx.ModelProto, by: dict[str, float]) -> onnx.ModelProto:
    graph = onnx.ModelProto()
    graph.CopyFrom(model)
    for tensor in graph.graph.initializer:
        if tensor.name in by:
            values = numpy_helper.to_array(tensor)
            moved = values + by[tensor.name] * np.random.default_rng(1).normal(size=values.shape).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(moved, tensor.name))
    return graph


def images(count: int) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(2)
    return [{"x": random.normal(size=(1, 3, SIDE, SIDE)).astype(np.float32)} for _ in range(count)]


def test_it_equals_the_noise_of_a_run_with_that_operator_alone_changed(model: onnx.ModelProto) -> None:
    by = {"w1": 3e-4, "w2": 1e-3, "w3": 3e-3, "w4": 1e-4}
    feeds = images(8)
    powers = quantization_noise(model, changed(model, by), feeds)
    exact = [Interpreter(model).run(feed)["y"] for feed in feeds]
    for name, size in by.items():
        other = Interpreter(changed(model, {name: size}))
        alone = [other.run(feed)["y"] for feed in feeds]
        power = np.mean([np.mean((a - y) ** 2) / np.mean(y**2) for a, y in zip(alone, exact, strict=True)])
        assert powers[READERS[name]] == pytest.approx(power, rel=0.35)
    assert set(powers) == set(READERS.values())


def test_the_same_graph_makes_no_noise(model: onnx.ModelProto) -> None:
    assert quantization_noise(model, model, images(1)) == {}


def test_the_noise_of_a_result_that_is_not_finite_is_infinite(model: onnx.ModelProto) -> None:
    powers = quantization_noise(model, changed(model, {"w2": math.nan, "w4": 1e-4}), images(2))
    assert powers["c"] == math.inf
    assert 0 < powers["y"] < 1


def test_torch_keeps_its_threads(model: onnx.ModelProto) -> None:
    before = torch.get_num_threads()
    quantization_noise(model, changed(model, {"w1": 1e-3}), images(1))
    assert torch.get_num_threads() == before


def test_an_operator_without_a_derivative_is_a_conversion_error(
    model: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NoWayBack(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x.clamp_min(0)

    monkeypatch.setattr(torch, "relu", NoWayBack.apply)
    with pytest.raises(ConversionError, match="backward"):
        quantization_noise(model, changed(model, {"w1": 1e-3}), images(1))


def test_a_long_sum_in_half_precision_makes_the_most_noise() -> None:
    head = '<ir_version: 9, opset_import: ["" : 20]> g (float[1, 4096] x) => (float[1, 16] y)'
    model = parser.parse_model(f"{head} <float two = {{2.0}}> {{ a = Relu (x) b = Mul (a, two) y = MatMul (b, w) }}")
    weights = np.random.default_rng(4).uniform(0, 1, (4096, 16)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weights, "w"))
    interpreter = Interpreter(onnx_file.infer_shapes(model, "sum"))
    feeds = [{"x": np.random.default_rng(3).uniform(0, 1, (1, 4096)).astype(np.float32)}]
    powers = rounding_noise(interpreter, feeds, "half-acc16")
    assert max(powers, key=lambda name: sum(powers[name])) == "y"
    computing, storing = powers["y"]
    assert 4 * storing < computing
    wide, stored = rounding_noise(interpreter, feeds, "half-acc32")["y"]
    assert wide < computing
    assert stored == pytest.approx(storing)
