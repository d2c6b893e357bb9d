"""Operators written out for the HTP: the same functions, in half precision no further from them than half is."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import parser

from effbench.deploy import onnx_file
from effbench.deploy.htp import WRITTEN_OUT, write_out
from effbench.deploy.interpreter import Interpreter
from effbench.deploy.precision import to_fp16

BODIES = {
    "gelu": "y = Gelu (x)",
    "gelu by tanh": 'y = Gelu <approximate = "tanh"> (x)',
    "sigmoid": "y = Sigmoid (x)",
    "hard swish": "y = HardSwish (x)",
    "one after another": "a = Gelu (x) b = Sigmoid (a) c = Gelu (b) y = Mul (a, c)",
}


def graph(body: str) -> onnx.ModelProto:
    head = '<ir_version: 9, opset_import: ["" : 20]> g (float[1, 8, 64, 64] x) => (float[1, 8, 64, 64] y)'
    return onnx_file.infer_shapes(parser.parse_model(f"{head} {{ {body} }}"), "activations")


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_the_function_stays_and_its_operator_goes(body: str) -> None:
    model = graph(body)
    half = to_fp16(model)
    made = write_out(half)
    onnx.checker.check_model(made)
    assert not {node.op_type for node in made.graph.node} & set(WRITTEN_OUT)
    names = [node.name for node in made.graph.node]
    assert len(set(names)) == len(names)
    values = np.random.default_rng(0).normal(0, 2, (1, 8, 64, 64)).astype(np.float16).astype(np.float32)
    values[0, 0, 0, :8] = [0, 100, -100, 6, -6, 3, -3, 60000]
    want = Interpreter(model).run({"x": values}, "float64")["y"]
    # The formula itself, its constants in half precision, then all of it in half precision.
    assert np.allclose(Interpreter(made).run({"x": values}, "float64")["y"], want, rtol=6e-4, atol=6e-4)
    found = Interpreter(made).run({"x": values})["y"].astype(np.float64)
    assert np.linalg.norm((found - want)[want < 50]) < 5e-4 * np.linalg.norm(want[want < 50])


def test_what_computes_in_fp32_is_left_alone() -> None:
    model = graph(BODIES["gelu"])
    assert [node.op_type for node in write_out(model).graph.node] == ["Gelu"]
    island = to_fp16(model, ["y"])
    assert "Gelu" in {node.op_type for node in write_out(island).graph.node}
