"""Weights rounded to minimize the output error: the sampled windows are the operator's, and its error falls."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper, parser

from effbench.deploy.graph.run_ort import runner
from effbench.deploy.interpreter import run_model
from effbench.deploy.precision import rounding
from effbench.deploy.precision.int8_operators import Int8Reader
from effbench.deploy.precision.quantize import check_form
from effbench.deploy.precision.rounding import round_weights

STEP = 0.04
"""Between the levels of an input."""
LIMIT = 12
"""The largest level of a weight: small, so that the weights make most of the noise."""

# The text of an operator, and the shapes of its input, its weight and its bias.
OPERATORS = {
    "plain": ("Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]>", (2, 16, 9, 7), (6, 16, 3, 3), (6,)),
    "strides and dilations": (
        "Conv <kernel_shape = [3, 2], strides = [2, 3], dilations = [2, 1], pads = [0, 1, 2, 3]>",
        (1, 16, 9, 11),
        (6, 16, 3, 2),
        (6,),
    ),
    "groups": ("Conv <kernel_shape = [3, 3], group = 2, pads = [1, 0, 1, 0]>", (1, 16, 8, 8), (6, 8, 3, 3), (6,)),
    "depthwise": ("Conv <kernel_shape = [7, 7], group = 4, pads = [3, 3, 3, 3]>", (1, 4, 8, 8), (8, 1, 7, 7), (8,)),
    "padded to the same size": (
        'Conv <kernel_shape = [4, 4], strides = [2, 2], auto_pad = "SAME_UPPER">',
        (1, 16, 9, 9),
        (6, 16, 4, 4),
        (6,),
    ),
    "one dimension": ("Conv <kernel_shape = [3], pads = [1, 1]>", (1, 16, 20), (6, 16, 3), (6,)),
    "three dimensions": ("Conv <kernel_shape = [2, 2, 2]>", (1, 16, 5, 4, 6), (6, 16, 2, 2, 2), (6,)),
    "no bias": ("Conv <kernel_shape = [1, 1]>", (1, 16, 8, 8), (6, 16, 1, 1), None),
    "Gemm": ("Gemm", (9, 16), (16, 6), (6,)),
    "Gemm, transposed": ("Gemm <transB = 1>", (9, 16), (6, 16), (6,)),
    "Gemm, scaled": ("Gemm <transB = 1, alpha = 0.5>", (9, 16), (6, 16), (6,)),
    "MatMul": ("MatMul", (2, 9, 16), (16, 6), None),
}


def graphs(kind: str, clip: int = 1) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """Return one operator in float, and in int8 with its weights rounded to the nearest level.

    The quantization range of the input is ``clip`` times too small.
    """
    text, shape, weight_shape, bias_shape = OPERATORS[kind]
    rng = np.random.default_rng(0)
    weight = rng.normal(size=weight_shape).astype(np.float32)
    transposed = text == "Gemm" or text.startswith("MatMul")
    axis = weight.ndim - 1 if transposed else 0
    others = tuple(i for i in range(weight.ndim) if i != axis)
    scale = np.abs(weight).max(axis=others) / LIMIT
    spread = scale.reshape([-1 if i == axis else 1 for i in range(weight.ndim)])
    tensors = {"w": weight, "levels": np.rint(weight / spread).astype(np.int8), "steps": scale.astype(np.float32)}
    bias = ", b" if bias_shape else ""
    if bias_shape:
        tensors["b"] = rng.normal(size=bias_shape).astype(np.float32)
    head = f'<ir_version: 10, opset_import: ["" : 20]> g (float[{",".join(map(str, shape))}] x) => (float y)'
    exact = parser.parse_model(f"{head} {{ y = {text} (x, w{bias}) }}")
    int8 = parser.parse_model(f"""{head} <float step = {{{STEP / clip}}}, int8 zero = {{0}}> {{
        q = QuantizeLinear (x, step, zero)
        d = DequantizeLinear (q, step, zero)
        v = DequantizeLinear <axis = {axis}> (levels, steps)
        y = {text} (d, v{bias}) }}""")
    for model, names in ((exact, ("w", "b")), (int8, ("levels", "steps", "b"))):
        model.graph.initializer.extend(numpy_helper.from_array(tensors[n], n) for n in names if n in tensors)
    return exact, int8


def inputs(kind: str, count: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    """Return inputs with correlated channels, as in networks, and a mean that is not zero."""
    shape = OPERATORS[kind][1]
    rng = np.random.default_rng(seed)
    axis = 1 if OPERATORS[kind][0].startswith("Conv") else len(shape) - 1
    common = rng.normal(size=(count, *(1 if i == axis else n for i, n in enumerate(shape))))
    everywhere = rng.normal(size=(count, *(1 for _ in shape)))
    own = rng.normal(size=(count, *shape))
    return [{"x": x.astype(np.float32)} for x in 0.5 + everywhere + 0.7 * common + 0.3 * own]


def errors(exact: onnx.ModelProto, int8: onnx.ModelProto, feeds: list[dict[str, np.ndarray]]) -> np.ndarray:
    return np.stack([runner(exact)(feed)["y"] - runner(int8)(feed)["y"] for feed in feeds])


@pytest.mark.parametrize("kind", OPERATORS)
def test_columns_times_weights_are_the_results_of_the_operator(kind: str) -> None:
    exact, int8 = graphs(kind)
    (operator,) = Int8Reader(exact, int8).operators()
    (feed,) = inputs(kind, 1)
    columns, quantized = operator.columns(torch.from_numpy(feed["x"]), torch.Generator().manual_seed(0))
    assert (columns - quantized).abs().max() <= STEP / 2 + 1e-6
    products = (operator.rows @ columns).reshape(len(operator.weight), -1)
    expected = run_model(exact, feed)["y"]
    if "b" in {tensor.name for tensor in exact.graph.initializer}:
        (bias,) = (numpy_helper.to_array(t) for t in exact.graph.initializer if t.name == "b")
        expected = expected - (bias.reshape(-1, *[1] * (expected.ndim - 2)) if kind[0].islower() else bias)
    expected = expected * (2 if "scaled" in kind else 1)
    results = np.moveaxis(expected, 1 if kind[0].islower() else -1, 0).reshape(len(products), -1)
    # All positions are drawn, in random order, so the sorted results are equal.
    assert np.allclose(np.sort(products.numpy(), axis=1), np.sort(results, axis=1), atol=1e-4)


@pytest.mark.parametrize("kind", OPERATORS)
def test_the_error_on_other_inputs_falls(kind: str) -> None:
    exact, int8 = graphs(kind)
    before = errors(exact, int8, inputs(kind, 20, seed=1))
    steps = [tensor for tensor in int8.graph.initializer if tensor.name == "steps"]
    old = {tensor.name: numpy_helper.to_array(tensor) for tensor in int8.graph.initializer}
    round_weights(exact, int8, inputs(kind, 24))
    check_form(int8)
    new = {tensor.name: numpy_helper.to_array(tensor) for tensor in int8.graph.initializer}
    assert all(np.array_equal(old[s.name], new[s.name]) for s in steps)
    assert new["levels"].dtype == np.int8
    assert old["levels"].shape == new["levels"].shape
    assert np.abs(new["levels"].astype(int)).max() <= LIMIT
    after = errors(exact, int8, inputs(kind, 20, seed=1))
    assert (after**2).mean() < 0.8 * (before**2).mean()


def test_weights_compensate_for_a_range_that_is_too_small() -> None:
    exact, int8 = graphs("plain", clip=8)
    before = errors(exact, int8, inputs("plain", 20, seed=1))
    round_weights(exact, int8, inputs("plain", 24))
    after = errors(exact, int8, inputs("plain", 20, seed=1))
    assert (after**2).mean() < 0.7 * (before**2).mean()
    axes = tuple(i for i in range(after.ndim) if i != 2)
    assert np.abs(after.mean(axis=axes)).max() < 0.3 * np.abs(before.mean(axis=axes)).max()


def with_short_bias(levels: str, steps: np.ndarray) -> onnx.ModelProto:
    """Return operator ``plain`` in a16w8, its bias dequantized from a constant of a type."""
    _, int8 = graphs("plain")
    old = {tensor.name: tensor for tensor in int8.graph.initializer}
    a16w8 = parser.parse_model(f"""
        <ir_version: 10, opset_import: ["" : 21]> g (float[2, 16, 9, 7] x) => (float y)
        <float step = {{0.0002}}, uint16 zero = {{32768}}> {{
            q = QuantizeLinear (x, step, zero)
            d = DequantizeLinear (q, step, zero)
            v = DequantizeLinear <axis = 0> (levels, steps)
            b = DequantizeLinear <axis = 0> (short, finer)
            y = {OPERATORS["plain"][0]} (d, v, b) }}""")
    finer = steps * np.float32(0.0002 if levels == "int32" else 100)
    short = np.rint(numpy_helper.to_array(old["b"]) / finer).astype(levels)
    a16w8.graph.initializer.extend((old["levels"], old["steps"]))
    a16w8.graph.initializer.extend((numpy_helper.from_array(short, "short"), numpy_helper.from_array(finer, "finer")))
    return a16w8


@pytest.mark.parametrize("levels", ["int32", "int8"])
def test_an_int32_bias_is_rounded_and_an_int8_bias_stays(levels: str) -> None:
    exact, int8 = graphs("plain")
    (steps,) = (numpy_helper.to_array(tensor) for tensor in int8.graph.initializer if tensor.name == "steps")
    a16w8 = with_short_bias(levels, steps)
    before = errors(exact, a16w8, inputs("plain", 20, seed=1))
    round_weights(exact, a16w8, inputs("plain", 24))
    onnx.checker.check_model(a16w8)
    (operator,) = (node for node in a16w8.graph.node if node.op_type == "Conv")
    (dequantizer,) = (node for node in a16w8.graph.node if node.output[0] == operator.input[2])
    assert (dequantizer.input[0] == "short") == (levels == "int8")
    after = errors(exact, a16w8, inputs("plain", 20, seed=1))
    assert (after**2).mean() < 0.5 * (before**2).mean()


def test_for_few_columns_the_levels_are_nearly_the_best() -> None:
    rng = np.random.default_rng(0)
    excesses = []
    for _ in range(20):
        x = torch.from_numpy(rng.normal(size=(3, 50)) + 2 * rng.normal(size=(1, 50)))
        weight, scale = torch.from_numpy(rng.normal(size=(1, 1, 3))), torch.full((1, 1, 1), 0.3, dtype=torch.float64)
        products = (x @ x.T)[None]
        levels = rounding._levels(weight, torch.zeros_like(weight), products, scale, 64)
        assert levels is not None

        def cost(levels: torch.Tensor, weight: torch.Tensor = weight, products: torch.Tensor = products) -> float:
            errors = weight - 0.3 * levels
            return float((errors @ products @ errors.transpose(1, 2)).sum())

        below = (weight / scale).floor()
        choices = (
            below + torch.tensor(offsets, dtype=torch.float64) for offsets in itertools.product((-1, 0, 1, 2), repeat=3)
        )
        best = min(cost(choice) for choice in choices)
        excesses.append((cost(levels) - best, cost((weight / scale).round()) - best))
    excess, nearest_excess = np.mean(excesses, axis=0)
    assert excess < 0.2 * nearest_excess


def test_shared_weights_and_products_of_activations_stay() -> None:
    exact = parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 20]> g (float[1, 4] x) => (float[1, 4] y, float[4, 4] z)
        <float[4, 4] w = {0.1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3, 4, 5, 6}, int64[2] turn = {4, 1}>
        { a = MatMul (x, w)  y = MatMul (a, w)  r = Reshape (x, turn)  z = MatMul (r, y) }""")
    int8 = parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 20]> g (float[1, 4] x) => (float[1, 4] y, float[4, 4] z)
        <int8[4, 4] l = {1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3, 4, 5, 6}, float s = {1.0}, int64[2] turn = {4, 1}>
        { w = DequantizeLinear (l, s)
          a = MatMul (x, w)  y = MatMul (a, w)  r = Reshape (x, turn)  z = MatMul (r, y) }""")
    before = int8.SerializeToString()
    round_weights(exact, int8, [{"x": np.ones((1, 4), np.float32)}])
    assert before == int8.SerializeToString()


def test_inputs_that_are_not_finite_change_nothing() -> None:
    exact, int8 = graphs("plain")
    before = int8.SerializeToString()
    feed = inputs("plain", 1)[0]
    feed["x"][0, 0, 0, 0] = np.inf
    round_weights(exact, int8, [feed])
    assert before == int8.SerializeToString()


def test_a_channel_of_zeros_stays_zero() -> None:
    exact, int8 = graphs("plain")
    for model, name, value in (
        (exact, "w", np.float32(0)),
        (int8, "levels", np.int8(0)),
        (int8, "steps", np.float32(0)),
    ):
        (tensor,) = (item for item in model.graph.initializer if item.name == name)
        array = np.array(numpy_helper.to_array(tensor))
        array[2] = value
        tensor.CopyFrom(numpy_helper.from_array(array, name))
    round_weights(exact, int8, inputs("plain", 24))
    (levels,) = (numpy_helper.to_array(item) for item in int8.graph.initializer if item.name == "levels")
    assert not levels[2].any()
    assert levels[3].any()


def test_inputs_of_zeros_keep_the_nearest_levels() -> None:
    exact, int8 = graphs("plain")
    before = {tensor.name: numpy_helper.to_array(tensor) for tensor in int8.graph.initializer}
    round_weights(exact, int8, [{"x": np.zeros(OPERATORS["plain"][1], np.float32)}])
    after = {tensor.name: numpy_helper.to_array(tensor) for tensor in int8.graph.initializer}
    assert all(np.array_equal(before[name], after[name]) for name in ("levels", "b"))
