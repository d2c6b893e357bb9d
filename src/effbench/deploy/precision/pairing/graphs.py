"""The tensors, constants and Q/DQ of a quantized graph, paired with those of its float graph by name and place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from effbench.deploy import Array

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

BORDER = ("QuantizeLinear", "DequantizeLinear")
CLIPPING = ("Relu", "Clip")


@dataclass(frozen=True)
class PairedConstant:
    """A constant of an operator in both graphs.

    Attributes:
        operator: The operator that reads it.
        op: Its type.
        slot: Which of the operator's inputs it is.
        exact: In the float graph.
        source: The tensor of the quantized graph that the operator reads.
        dequantizer: What writes that tensor; None if the constant is not quantized.
        compensated: Whether it is the bias of quantized weights, which makes up for their mean error.
    """

    operator: str
    op: str
    slot: int
    exact: Array
    source: str
    dequantizer: NodeProto | None
    compensated: bool


@dataclass(frozen=True)
class Border:
    """Q/DQ of an activation: the tensor before, the tensor after, and the two nodes.

    ``may_clip`` is set where only a ReLU or Clip reads it, whose range the quantizer may have taken over.
    """

    before: str
    after: str
    quantizer: NodeProto
    dequantizer: NodeProto
    may_clip: bool


class PairedGraphs:
    """A float graph, its quantized form, and the float graph rewired to read the quantized one's tensors (`twin`).

    Attributes:
        twin: The float graph; where an operator of the quantized graph reads a dequantized tensor or a constant, its
            pair reads an input of that name (`fed`).
        computed: By tensor of the float graph, the tensor of the quantized graph that its operator writes.
        as_read: The same, as the readers in the quantized graph see it: after Q/DQ.
        fed: The added inputs of the twin: their names, and the tensors of the quantized graph.
        operators: By first output the names of operators with a pair of the same type.
        unpaired: The other operators of the float graph: compared by their result, or with what reads it.
    """

    def __init__(self, model: ModelProto, quantized: ModelProto) -> None:
        import onnx
        from onnx import numpy_helper

        self._exact = {tensor.name: tensor for tensor in model.graph.initializer}
        self.stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in quantized.graph.initializer}
        self._producers = {name: node for node in quantized.graph.node for name in node.output}
        self._readers: dict[str, list[NodeProto]] = {}
        for node in quantized.graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)
        self.twin = onnx.ModelProto()
        self.twin.CopyFrom(model)
        self.computed: dict[str, str] = {}
        self.fed: dict[str, str] = {}
        self.operators: dict[str, str] = {}
        self.unpaired: list[str] = []
        self.constants: list[PairedConstant] = []
        for node in self.twin.graph.node:
            self._pair(node)
        self.twin.graph.input.extend(onnx.ValueInfoProto(name=name) for name in self.fed)
        self.as_read = {name: self._as_read(other) for name, other in self.computed.items()}
        self.borders = [
            Border(node.input[0], after.output[0], node, after, self._is_clipped(after.output[0]))
            for node in quantized.graph.node
            if node.op_type == "QuantizeLinear" and node.input[0] not in self.stored
            for after in self._readers.get(node.output[0], ())
            if after.op_type == "DequantizeLinear"
        ]

    def _pair(self, node: NodeProto) -> None:
        from onnx import numpy_helper

        label = node.name or node.output[0]
        for name in node.output:
            if name in self._producers:
                self.computed[name] = self._raw(name)
        pair = self._producers.get(self.computed.get(node.output[0], ""))
        if pair is None or pair.op_type != node.op_type or len(pair.input) != len(node.input):
            self.unpaired.append(label)
            return
        self.operators[node.output[0]] = label
        rounded = any(self._quantized_constant(name) for name in pair.input)
        for slot, (name, other) in enumerate(zip(list(node.input), pair.input, strict=True)):
            raw = self._raw(other)
            if name in self._exact and raw in self.stored:
                exact = numpy_helper.to_array(self._exact[name])
                dequantizer = self._producers.get(other)
                if dequantizer is None and np.array_equal(exact, self.stored[raw]):
                    continue
                compensated = rounded and slot == 2
                self.constants.append(PairedConstant(label, node.op_type, slot, exact, other, dequantizer, compensated))
                node.input[slot] = self._feed(other)
            elif name not in self._exact and raw != other and raw == self.computed.get(name, name):
                node.input[slot] = self._feed(other)

    def _feed(self, name: str) -> str:
        self.fed[f"quantized/{name}"] = name
        return f"quantized/{name}"

    def _raw(self, name: str) -> str:
        """Return the tensor that a Q/DQ chain starts from."""
        while (producer := self._producers.get(name)) is not None and producer.op_type in BORDER:
            name = producer.input[0]
        return name

    def _as_read(self, name: str) -> str:
        """Return the dequantized tensor if nothing reads the tensor before Q/DQ."""
        readers = self._readers.get(name, [])
        if len(readers) != 1 or readers[0].op_type != "QuantizeLinear":
            return name
        after = self._readers.get(readers[0].output[0], [])
        return after[0].output[0] if len(after) == 1 and after[0].op_type == "DequantizeLinear" else name

    def _is_clipped(self, name: str) -> bool:
        readers = self._readers.get(name, [])
        return bool(readers) and all(reader.op_type in CLIPPING for reader in readers)

    def _quantized_constant(self, name: str) -> bool:
        producer = self._producers.get(name)
        return producer is not None and producer.op_type == "DequantizeLinear" and producer.input[0] in self.stored

    def step(self, node: NodeProto, rank: int) -> Array:
        """Return the scale of a Q or DQ node in a shape that broadcasts to a tensor of a rank."""
        scale = np.asarray(self.stored[node.input[1]], np.float64)
        if scale.size == 1:
            return scale.reshape([1] * rank)
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
        shape = [1] * rank
        shape[axis] = -1
        return scale.reshape(shape)


Values = Mapping[str, Array]
"""Tensors of the quantized graph by name, for one input."""
