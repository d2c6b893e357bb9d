"""Exported graphs have few layout operators per attention block, static shapes and no leftover operators."""

from collections import Counter

import onnx
import pytest
import torch

from effbench import models
from effbench.models.build import build
from effbench.models.iformer import SHMA
from effbench.models.layers import Residual, fuse
from effbench.models.regla import RGMA, ReGLAOptions
from effbench.schema import Weights

LAYOUT = ("Transpose", "Reshape", "Slice", "Gather", "Flatten", "Squeeze", "Unsqueeze", "Expand")
LEFTOVER = (
    "Identity",
    "Cast",
    "Shape",
    "Constant",
    "ConstantOfShape",
    "BatchNormalization",
    "Einsum",
    "ScatterND",
    "Dropout",
)
BLOCKS = {"t": 5, "s": 5, "m": 6, "l": 10}

pytestmark = pytest.mark.filterwarnings("ignore")


def exported(model: torch.nn.Module, *shape: int) -> onnx.ModelProto:
    program = torch.onnx.export(model.eval(), (torch.zeros(*shape),), dynamo=True, opset_version=20, verbose=False)
    assert program is not None
    return program.model_proto


def operators(graph: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in graph.graph.node)


def ranks(graph: onnx.ModelProto) -> set[int]:
    computed = {name for node in graph.graph.node for name in node.output}
    values = [value for value in graph.graph.value_info if value.name in computed]
    assert values
    return {len(value.type.tensor_type.shape.dim) for value in values}


def layout(graph: onnx.ModelProto) -> int:
    return sum(operators(graph)[operator] for operator in LAYOUT)


def test_an_rgma_unit_has_three_layout_operators_and_only_rank_four() -> None:
    graph = exported(fuse(Residual(RGMA(48, 24, ReGLAOptions()))), 1, 48, 14, 14)
    assert operators(graph) == {
        "Conv": 6, "Relu": 2, "Mul": 2, "Sigmoid": 2, "Concat": 1, "Reshape": 2, "Split": 1, "Transpose": 1,
        "ReduceSum": 1, "MatMul": 3, "Add": 3, "Div": 1,
    }  # fmt: skip
    assert layout(graph) == 3
    assert ranks(graph) == {4}


def test_a_shma_unit_has_exactly_its_operators() -> None:
    graph = exported(fuse(Residual(SHMA(48, 24))), 1, 48, 14, 14)
    assert operators(graph) == {
        "Conv": 5, "Mul": 2, "Sigmoid": 2, "Reshape": 4, "Transpose": 2, "MatMul": 2, "Softmax": 1, "Add": 1,
    }  # fmt: skip
    assert layout(graph) == 6


def assert_clean(name: str, per_block: int) -> None:
    graph = exported(build(models.get(name), Weights()), 1, 3, 64, 64)
    assert not [operator for operator in LEFTOVER if operators(graph)[operator]]
    # One more reshape is between the pooled map and the linear layer.
    assert layout(graph) <= per_block * BLOCKS[name[-1]] + 1


def test_regla_m_has_at_most_three_layout_operators_per_block() -> None:
    assert_clean("regla_m", 3)


@pytest.mark.slow
@pytest.mark.parametrize("name", [f"{family}_{size}" for family in ("regla", "iformer") for size in BLOCKS])
def test_every_graph_is_clean(name: str) -> None:
    assert_clean(name, 3 if name.startswith("regla") else 6)


def test_batch_can_be_dynamic_without_shape_arithmetic() -> None:
    batch = torch.export.Dim("batch")
    program = torch.onnx.export(
        fuse(RGMA(48, 24, ReGLAOptions())).eval(),
        (torch.zeros(2, 48, 8, 8),),
        dynamo=True,
        opset_version=20,
        verbose=False,
        dynamic_shapes=({0: batch},),
    )
    assert program is not None
    assert not [op for op in ("Shape", "Gather", "Cast", "Identity") if operators(program.model_proto)[op]]
