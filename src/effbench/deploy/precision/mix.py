"""A mix of int8 and float in one graph: a fully quantized graph with chosen nodes in float.

All mixes come from one calibration. Nodes are named by their first output, which is unique in a graph.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from effbench.deploy.graph import onnx_file
from effbench.errors import ConversionError

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

BORDER = ("QuantizeLinear", "DequantizeLinear")


@dataclass(frozen=True)
class Mix:
    """Which nodes stay in float, their type, and a line that describes the mix."""

    float_nodes: tuple[str, ...]
    float_type: str
    note: str


@dataclass(frozen=True)
class Block:
    """Neighboring nodes between two cuts, where a single tensor joins the halves of a graph.

    ``nodes`` are those that can be in int8; ``macs`` their multiply-accumulates.
    """

    name: str
    nodes: tuple[str, ...]
    macs: int


def quantized(model: ModelProto) -> tuple[str, ...]:
    """Return the nodes of a quantized graph that read a dequantized weight."""
    constants = {tensor.name for tensor in model.graph.initializer}
    weights = {n.output[0] for n in model.graph.node if n.op_type == "DequantizeLinear" and n.input[0] in constants}
    return tuple(node.output[0] for node in model.graph.node if weights & set(node.input))


def blocks(model: ModelProto, nodes: Collection[str], limit: int = 12) -> tuple[Block, ...]:
    """Divide the nodes of an fp32 graph into blocks of about equal work.

    Args:
        model: The fp32 graph, shapes known.
        nodes: Those that can be in int8 (`quantized`).
        limit: The largest number of blocks.
    """
    macs = onnx_file.macs_by_node(model)
    total = sum(macs.get(name, 0) for name in nodes)
    result: list[Block] = []
    pending: list[NodeProto] = []
    for segment in _segments(model):
        pending += segment
        inside = tuple(node.output[0] for node in pending if node.output[0] in nodes)
        work = sum(macs.get(name, 0) for name in inside)
        if inside and work * limit >= total:
            result.append(Block(_name(pending, len(result)), inside, work))
            pending = []
    rest = tuple(node.output[0] for node in pending if node.output[0] in nodes)
    if rest:
        result.append(Block(_name(pending, len(result)), rest, sum(macs.get(name, 0) for name in rest)))
    return tuple(result)


def _name(nodes: Sequence[NodeProto], number: int) -> str:
    heavy = [node.name or node.output[0] for node in nodes if node.op_type in ("Conv", "Gemm", "MatMul")]
    ends = dict.fromkeys((heavy or [node.name or node.output[0] for node in nodes])[:: max(1, len(heavy) - 1)])
    return f"{number + 1}: {' to '.join(list(ends)[:2])}"


def _segments(model: ModelProto) -> Iterator[list[NodeProto]]:
    """Yield runs of nodes that end where only one activation is still needed."""
    constants = {tensor.name for tensor in model.graph.initializer}
    uses = Counter(name for node in model.graph.node for name in node.input)
    uses.update(output.name for output in model.graph.output)
    live = {value.name for value in model.graph.input if value.name not in constants}
    segment: list[NodeProto] = []
    for node in model.graph.node:
        segment.append(node)
        if node.op_type == "Constant" or set(node.input) <= constants:
            constants |= set(node.output)
            continue
        for name in node.input:
            uses[name] -= 1
            if not uses[name]:
                live.discard(name)
        live |= {name for name in node.output if uses[name]}
        if len(live) == 1:
            yield segment
            segment = []
    if segment:
        yield segment


class _Mixture:
    """A copy of the fp32 graph that takes over quantized nodes, with their constants and the Q/DQ in front of them."""

    def __init__(self, model: ModelProto, int8: ModelProto) -> None:
        import onnx

        self.graph = onnx.ModelProto()
        self.graph.CopyFrom(model)
        self.nodes: list[NodeProto] = []
        self._originals = {tensor.name: tensor for tensor in model.graph.initializer}
        self._constants = {tensor.name: tensor for tensor in int8.graph.initializer}
        self._producers = {name: node for node in int8.graph.node for name in node.output}
        self._copied: dict[str, str] = {}

    def add(self, node: NodeProto, quantized: NodeProto | None) -> None:
        """Append a node of the fp32 graph, with the inputs of its quantized form if there is one."""
        copy = type(node)()
        copy.CopyFrom(node)
        if quantized is not None:
            copy.input[:] = [self._input(name) if name else "" for name in quantized.input]
        self.nodes.append(copy)

    def _input(self, name: str) -> str:
        """Return the name of an input of a quantized node in the mix; copy the Q/DQ in front of it first."""
        if name in self._constants:
            return self._constant(name)
        producer = self._producers.get(name)
        if producer is None or producer.op_type not in BORDER:
            return name
        if name not in self._copied:
            border = type(producer)()
            border.CopyFrom(producer)
            border.input[:] = [self._input(part) for part in producer.input]
            self.nodes.append(border)
            self._copied[name] = name
        return name

    def _constant(self, name: str) -> str:
        """Copy a constant of the quantized graph, under a new name if the fp32 graph has another value of that name."""
        if name not in self._copied:
            value, original = self._constants[name], self._originals.get(name)
            self._copied[name] = name if original is None or original == value else f"{name}/int8"
            if original != value:
                tensor = self.graph.graph.initializer.add()
                tensor.CopyFrom(value)
                tensor.name = self._copied[name]
        return self._copied[name]

    def finished(self) -> ModelProto:
        """Return the graph without the constants that no node reads."""
        graph = self.graph.graph
        del graph.node[:], graph.value_info[:]
        graph.node.extend(self.nodes)
        read = {name for node in self.nodes for name in node.input} | {output.name for output in graph.output}
        for tensor in [tensor for tensor in graph.initializer if tensor.name not in read]:
            graph.initializer.remove(tensor)
        return onnx_file.infer_shapes(self.graph, "the mixed graph")


def mixed(model: ModelProto, int8: ModelProto, float_nodes: Collection[str]) -> ModelProto:
    """Return the fp32 graph with the quantized nodes of another graph in it, except for those that stay in float.

    Args:
        model: The fp32 graph.
        int8: The same graph, quantized.
        float_nodes: Nodes that keep computing in float.

    Raises:
        ConversionError: The two are not the same graph.
    """
    names = set(quantized(int8)) - set(float_nodes)
    chosen = {node.output[0]: node for node in int8.graph.node if node.output[0] in names}
    missing = set(chosen) - {node.output[0] for node in model.graph.node}
    if missing:
        raise ConversionError("int8 mix", "the quantized graph has other nodes", node=min(missing))
    mixture = _Mixture(model, int8)
    for node in model.graph.node:
        mixture.add(node, chosen.get(node.output[0]))
    return mixture.finished()


def in_half(model: ModelProto) -> ModelProto:
    """Return a mixed graph whose float part is in half precision.

    Quantized nodes and the Q/DQ around them stay in float32: runtimes fuse them into int8 operators only there, and the
    scales of weights would not survive half precision.
    """
    from effbench.deploy.precision.half import to_fp16

    inside = set(quantized(model))
    inside |= {node.output[0] for node in model.graph.node if node.op_type in BORDER}
    return to_fp16(model, inside)
