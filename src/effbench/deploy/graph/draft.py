"""A copy of a graph to change."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from effbench.deploy.graph import onnx_file

if TYPE_CHECKING:
    from onnx import ModelProto, TensorProto

Array = npt.NDArray[Any]
BORDER = ("QuantizeLinear", "DequantizeLinear")


class NotPossibleError(ValueError):
    """The graph has nothing that this kind of mutation could change."""


class Draft:
    """A copy of a graph to change, with its constants, producers and shapes by name."""

    def __init__(self, model: ModelProto, rng: random.Random) -> None:
        import onnx

        self.model = onnx.ModelProto()
        self.model.CopyFrom(model)
        self.graph, self.random = self.model.graph, rng
        self.constants = {tensor.name: tensor for tensor in self.graph.initializer}
        self.producers = {name: node for node in self.graph.node for name in node.output}
        self.shapes = onnx_file.shapes(model)
        self.inputs = [value.name for value in self.graph.input if value.name not in self.constants]
        self.outputs = [value.name for value in self.graph.output]

    def pick(self, items: list[Any]) -> Any:
        """Return one of the items; there is nothing to change if there are none."""
        if not items:
            raise NotPossibleError
        return self.random.choice(items)

    def constant_behind(self, name: str) -> TensorProto | None:
        """Return the initializer behind an input, through DequantizeLinear and Cast."""
        while name in self.producers and self.producers[name].op_type in ("DequantizeLinear", "Cast", "Identity"):
            name = self.producers[name].input[0]
        return self.constants.get(name)

    def known(self, name: str) -> tuple[int, ...] | None:
        """Return the shape of a tensor if every dimension is known; Q/DQ keeps it."""
        while name not in self.shapes and (node := self.producers.get(name)) is not None and node.op_type in BORDER:
            name = node.input[0]
        shape = self.shapes.get(name)
        return None if shape is None or None in shape else tuple(size or 0 for size in shape)

    def reorder(self, name: str, axis: int, order: Array) -> None:
        """Let every reader of a tensor read it with one axis in another order."""
        from onnx import helper, numpy_helper

        changed, index = f"{name}/reordered", f"{name}/order"
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(order, np.int64), index))
        at = next((i + 1 for i, node in enumerate(self.graph.node) if name in node.output), 0)
        if name in self.outputs:  # the output keeps its name; what computes it gets another
            for node in self.graph.node:
                node.output[:] = [changed if output == name else output for output in node.output]
                node.input[:] = [changed if source == name else source for source in node.input]
            self.graph.node.insert(at, helper.make_node("Gather", [changed, index], [name], axis=axis))
            return
        for node in self.graph.node:
            node.input[:] = [changed if source == name else source for source in node.input]
        self.graph.node.insert(at, helper.make_node("Gather", [name, index], [changed], axis=axis))

    def activations(self, rank: int, axis: int) -> list[str]:
        """Return the inner tensors of a rank with more than one element along an axis."""
        names = [name for node in self.graph.node for name in node.output if node.op_type not in BORDER]
        shapes = ((name, self.known(name)) for name in names if name not in self.outputs)
        return [name for name, shape in shapes if shape and len(shape) == rank and shape[axis] > 1]
