"""A small network in fp32 and in int8, its calibration inputs, and int8 forms of it with wrong or inexact weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from effbench.deploy.graph import onnx_file, signature
from effbench.deploy.precision.calibration import load_calibration
from effbench.deploy.precision.quantize import to_int8
from effbench.schema import Preprocessing

Feeds = list[dict[str, np.ndarray]]

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


@lru_cache(1)
def network() -> onnx.ModelProto:
    """Return the network in fp32; nodes are named a, c, d and output."""
    rng = np.random.default_rng(0)
    model = parser.parse_model(BODY)
    for name, shape in SHAPES.items():
        values = rng.normal(size=shape) / np.sqrt(max(1, np.prod(shape[1:])))
        model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
    return onnx_file.infer_shapes(model, "the example")


def calibration() -> Feeds:
    """Return the synthetic calibration images as inputs of the network, one image each."""
    images = load_calibration("synthetic", (32, 32), Preprocessing())
    return images.feeds(1, signature.guessed(network()), Preprocessing())


@lru_cache(1)
def network_in_int8() -> onnx.ModelProto:
    """Return the same network with every convolution and product in int8."""
    pytest.importorskip("nncf")
    return to_int8(network(), calibration())


def ruined(*nodes: str) -> onnx.ModelProto:
    """Return the int8 network with the weights of some nodes shifted by one output channel."""
    return _with_weights({node: lambda levels: np.roll(levels, 1, axis=0) for node in nodes})


def inexact(sizes: dict[str, int]) -> onnx.ModelProto:
    """Return the int8 network with the weights of some nodes off by up to so many levels."""
    rng = np.random.default_rng(0)

    def moved(size: int) -> Callable[[np.ndarray], np.ndarray]:
        return lambda levels: np.clip(levels + rng.integers(-size, size + 1, levels.shape), -127, 127).astype(np.int8)

    return _with_weights({node: moved(size) for node, size in sizes.items()})


def _with_weights(changes: dict[str, Callable[[np.ndarray], np.ndarray]]) -> onnx.ModelProto:
    graph = onnx.ModelProto()
    graph.CopyFrom(network_in_int8())
    producers = {node.output[0]: node for node in graph.graph.node}
    weights = {tensor.name: tensor for tensor in graph.graph.initializer}
    for name, change in changes.items():
        tensor = weights[producers[producers[name].input[1]].input[0]]
        tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor)), tensor.name))
    return graph
