"""Operators that Snapdragon's HTP rounds with a larger error than half precision asks for, in ones that it rounds well.

On the simulator of QNN 2.51, Gelu, Sigmoid and HardSwish come out 2 to 4 times further from their values than correct
rounding leaves them; Add, Mul and Tanh do not (docs/qnn.md). Over a network it adds up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from effbench.deploy import onnx_file

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

GELU = (0.797497123, 0.0370154347, -0.000353106224)
"""erf(x / sqrt 2) is tanh(x (a + b x^2 + c x^4)) for 0 <= x <= `GELU_END`; GELU is then right within 2.6e-5. Fitted."""
GELU_TANH = (0.7978845608, 0.0356774081, 0.0)
"""Of the approximation that is tanh by definition: sqrt(2 / pi) and 0.044715 times that (arXiv:1606.08415)."""
GELU_END = 5.0


class _Writer:
    """Adds nodes and constants in half precision in the place of one node, whose output the last of them takes."""

    def __init__(self, node: NodeProto, constants: dict[str, TensorProto]) -> None:
        self._node, self._constants = node, constants
        self.nodes: list[NodeProto] = []

    def constant(self, value: float) -> str:
        """Return the name of a scalar."""
        from onnx import numpy_helper

        name = f"htp/{value!r}"
        self._constants[name] = numpy_helper.from_array(np.array(value, np.float16), name)
        return name

    def __call__(self, op: str, *inputs: str | float) -> str:
        """Add a node and return its output."""
        from onnx import helper

        names = [self.constant(value) if isinstance(value, float) else value for value in inputs]
        name = f"{self._node.output[0]}/htp{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, names, [name], name=f"{self._node.name or name}/{op}{len(self.nodes)}"))
        return name

    def finished(self) -> list[NodeProto]:
        """Return the nodes, the last with the output of what they stand for."""
        self.nodes[-1].output[0] = self._node.output[0]
        return self.nodes


def _gelu(node: NodeProto, add: _Writer) -> None:
    """Relu(x) - |x| / 2 (1 - tanh): what is taken from a large x is small, and its rounding with it."""
    a, b, c = GELU_TANH if any(attribute.s == b"tanh" for attribute in node.attribute) else GELU
    (x,) = node.input
    size = add("Abs", x)
    near = add("Clip", size, 0.0, GELU_END)
    square = add("Mul", near, near)
    slope = add("Add", add("Mul", square, add("Add", add("Mul", square, c), b)), a)
    lacking = add("Sub", 1.0, add("Tanh", add("Mul", near, slope)))
    add("Sub", add("Relu", x), add("Mul", add("Mul", size, 0.5), lacking))


def _sigmoid(node: NodeProto, add: _Writer) -> None:
    bent = add("Tanh", add("Mul", node.input[0], 0.5))
    add("Add", add("Mul", bent, 0.5), 0.5)


def _hard_swish(node: NodeProto, add: _Writer) -> None:
    (x,) = node.input
    gate = add("Clip", add("Add", add("Mul", x, 1 / 6), 0.5), 0.0, 1.0)
    add("Mul", x, gate)


WRITTEN_OUT: Mapping[str, Callable[[NodeProto, _Writer], None]] = {
    "Gelu": _gelu,
    "Sigmoid": _sigmoid,
    "HardSwish": _hard_swish,
}


def write_out(model: ModelProto) -> ModelProto:
    """Return a graph in half precision with the operators of `WRITTEN_OUT` as smaller ones; others are as they were.

    Args:
        model: A graph of static shape.
    """
    import onnx

    made = onnx_file.infer_shapes(model, "the graph")
    graph = made.graph
    kinds = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.value_info, *graph.output)}
    constants: dict[str, TensorProto] = {}
    nodes: list[NodeProto] = []
    for node in graph.node:
        if node.op_type in WRITTEN_OUT and kinds.get(node.output[0]) == onnx.TensorProto.FLOAT16:
            add = _Writer(node, constants)
            WRITTEN_OUT[node.op_type](node, add)
            nodes += add.finished()
        else:
            nodes.append(node)
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    graph.initializer.extend(constants.values())
    return onnx_file.infer_shapes(made, "the graph for the HTP")
