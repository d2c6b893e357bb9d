"""Arrays of bfloat16, a type that packages add to NumPy."""

import numpy as np
import pytest
import torch
from onnx import parser

from effbench.deploy.interpreter import Interpreter
from effbench.deploy.interpreter.types import from_numpy


@pytest.mark.parametrize("shape", [(), (2, 3)])
def test_a_bfloat16_array_becomes_a_tensor(shape: tuple[int, ...]):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    tensor = from_numpy(np.full(shape, -1.5, ml_dtypes.bfloat16))
    assert (torch.bfloat16, shape) == (tensor.dtype, tuple(tensor.shape))
    assert bool((tensor == -1.5).all())


def test_an_output_in_bfloat16_is_an_array():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    model = parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 20]> g (bfloat16[2] x) => (bfloat16[2] y) { y = Neg (x) }'
    )
    outputs = Interpreter(model).run({"x": np.array([1.5, -2], ml_dtypes.bfloat16)})
    assert [-1.5, 2] == outputs["y"].tolist()
