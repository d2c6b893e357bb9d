"""A graph as Snapdragon's HTP takes it: what it rounds badly in operators that it rounds well, and nothing that crashes
its compiler.

On the simulator of QNN 2.51, Gelu, Sigmoid, HardSwish and Softmax come out 2 to 6 times further from their values than
correct rounding leaves them. A Tanh, Sigmoid or Gelu that alone reads a Conv is merged into it and comes out 10 to 30
times further; so none of them reads its input directly here (docs/how-to/qnn.md). Over a network it adds up. Of a
product of two 16-bit activations, ONNX Runtime's provider hands the second to the HTP in 8 bits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from effbench.deploy.graph import onnx_file
from effbench.deploy.precision.mix import BORDER

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

GELU = (0.797497123, 0.0370154347, -0.000353106224)
"""erf(x / sqrt 2) is tanh(x (a + b x^2 + c x^4)) for 0 <= x <= `GELU_END`; GELU is then right within 2.6e-5. Fitted."""
GELU_TANH = (0.7978845608, 0.0356774081, 0.0)
"""Of the approximation that is tanh by definition: sqrt(2 / pi) and 0.044715 times that (arXiv:1606.08415)."""
GELU_END = 5.0
FLAT = 20.0
"""Beyond it Tanh and Sigmoid are flat in half precision; a Clip there changes nothing and keeps them out of a Conv."""


@dataclass(frozen=True)
class _Levels:
    """Of a tensor in 16 unsigned bits: the real value of a level, the level of zero, and whose operators say so."""

    scale: float
    zero: int
    domain: str

    @property
    def reach(self) -> float:
        """Return the largest absolute value."""
        return max(self.zero, 65535 - self.zero) * self.scale


class _Writer:
    """Adds nodes and constants in the place of one node, whose output the last of them takes."""

    def __init__(self, node: NodeProto, constants: dict[str, TensorProto]) -> None:
        self._node, self._constants = node, constants
        self.nodes: list[NodeProto] = []

    def constant(self, value: float | list[int] | np.generic) -> str:
        """Return the name of a scalar, in half precision if it is a plain number, or of axes or a shape."""
        from onnx import numpy_helper

        array = np.asarray(value, np.float16 if type(value) is float else np.int64 if isinstance(value, list) else None)
        name = f"htp/{array.dtype}/{value!s}"
        self._constants[name] = numpy_helper.from_array(array, name)
        return name

    def __call__(self, op: str, *inputs: str | float | list[int] | np.generic, domain: str = "") -> str:
        """Add a node and return its output."""
        from onnx import helper

        names = [value if isinstance(value, str) else self.constant(value) for value in inputs]
        name = f"{self._node.output[0]}/htp{len(self.nodes)}"
        label = f"{self._node.name or name}/{op}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, names, [name], name=label, domain=domain))
        return name

    def quantized(self, x: str, scale: float, zero: int | np.unsignedinteger[Any], domain: str) -> str:
        """Add a pair of a quantizer and its inverse, of 16 bits or of the type of the zero."""
        how = np.float32(scale), zero if isinstance(zero, np.generic) else np.uint16(zero)
        return self("DequantizeLinear", self("QuantizeLinear", x, *how, domain=domain), *how, domain=domain)

    def finished(self) -> list[NodeProto]:
        """Return the nodes, the last with the output of what they stand for; none where nothing was added."""
        if self.nodes:
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
    bent = add("Tanh", add("Mul", add("Clip", node.input[0], -FLAT, FLAT), 0.5))
    add("Add", add("Mul", bent, 0.5), 0.5)


def _silu(node: NodeProto, add: _Writer) -> None:
    """Relu(x) - |x| / 2 (1 - tanh(|x| / 2)), as of Gelu."""
    (x,) = node.input
    near = add("Clip", add("Abs", x), 0.0, FLAT)
    half = add("Mul", near, 0.5)
    lacking = add("Sub", 1.0, add("Tanh", half))
    add("Sub", add("Relu", x), add("Mul", half, lacking))


def _tanh(node: NodeProto, add: _Writer) -> None:
    add("Tanh", add("Clip", node.input[0], -FLAT, FLAT))


def _softmax(node: NodeProto, add: _Writer) -> None:
    (x,) = node.input
    (axis,) = [attribute.i for attribute in node.attribute if attribute.name == "axis"] or [-1]
    grown = add("Exp", add("Sub", x, add("ReduceMax", x, [axis])))
    add("Div", grown, add("ReduceSum", grown, [axis]))


def _hard_swish(node: NodeProto, add: _Writer) -> None:
    (x,) = node.input
    gate = add("Clip", add("Add", add("Mul", x, 1 / 6), 0.5), 0.0, 1.0)
    add("Mul", x, gate)


def _product(node: NodeProto, add: _Writer, second: _Levels, result: _Levels) -> None:
    """Write a b as a h + a (b - h), h being b in 8 bits.

    Both terms reach twice as far as their sum: where b is but half a level of h, it is either zero or twice b.
    """
    a, b = node.input
    wide, domain = second.scale * 258, second.domain  # 65,535 levels are 254.01 of these, wherever zero comes to lie
    zero = round(second.zero / 258)
    rough = add.quantized(b, wide, np.uint8(zero), domain)
    # The same values in 16 bits, as a difference of two types is not to be had.
    rest = add("Sub", b, add.quantized(rough, wide / 256, zero * 256, domain))
    fine = add.quantized(rest, wide * 1.02 / 65535, 32768, domain)
    term = result.reach * 2 / 32767
    terms = [add.quantized(add("MatMul", a, part), term, 32768, domain) for part in (rough, fine)]
    add("Add", *terms)


SILU = "Silu"
"""What `_joined` makes of a product with the Sigmoid of the same; no operator of ONNX, it is always written out."""
PRODUCT = "MatMul"
"""Of two activations of 16 bits; it is written out in operators of its own kind."""
SINCE = {"Softmax": 18}
"""The opset from which an operator is written out: ReduceMax takes its axes as an input from then on."""
WRITTEN_OUT: Mapping[str, Callable[[NodeProto, _Writer], None]] = {
    "Gelu": _gelu,
    "Sigmoid": _sigmoid,
    "HardSwish": _hard_swish,
    SILU: _silu,
    "Softmax": _softmax,
    "Tanh": _tanh,
}


def prepared(model: ModelProto, exact: bool = True) -> ModelProto:
    """Return a graph that the HTP's compiler takes.

    Args:
        model: A graph of static shape.
        exact: Whether what is in half precision has the operators of `WRITTEN_OUT` as smaller ones, and products of
            16-bit activations keep these.
    """
    import onnx

    made = onnx_file.infer_shapes(model, "the graph")
    graph = made.graph
    values = {value.name: value.type.tensor_type for value in (*graph.input, *graph.value_info, *graph.output)}
    stored = {tensor.name: tensor for tensor in graph.initializer}
    levels = _levels(graph, stored)
    constants: dict[str, TensorProto] = {}
    nodes: list[NodeProto] = []
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 1)
    for node in _joined(graph) if exact else graph.node:
        if node.op_type in BORDER and node.input[0] in values:  # what is quantized has the shape that it had
            values.setdefault(node.output[0], values[node.input[0]])
        add = _Writer(node, constants)
        half = node.output[0] in values and values[node.output[0]].elem_type == onnx.TensorProto.FLOAT16
        if exact and half and node.op_type in WRITTEN_OUT and opset >= SINCE.get(node.op_type, 1):
            WRITTEN_OUT[node.op_type](node, add)
        elif exact and node.op_type == PRODUCT and levels.keys() >= {*node.input, *node.output}:
            _product(node, add, levels[node.input[1]], levels[node.output[0]])
        elif shape := _reshaped(node, values, stored):
            add("Reshape", node.input[0], shape)
        nodes += add.finished() or [node]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    graph.initializer.extend(constants.values())
    return onnx_file.infer_shapes(made, "the graph for the HTP")


def _levels(graph: GraphProto, stored: Mapping[str, TensorProto]) -> dict[str, _Levels]:
    """Return the levels of what is read from 16 bits or stored in them, constants left out."""
    import onnx
    from onnx import numpy_helper

    found = {}
    for node in graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear") or len(node.input) < 3 or node.input[0] in stored:
            continue
        scale, zero = (stored.get(name) for name in node.input[1:])
        if scale is None or zero is None or zero.data_type != onnx.TensorProto.UINT16:
            continue
        steps, offset = numpy_helper.to_array(scale), numpy_helper.to_array(zero)
        if steps.size == 1:
            name = node.input[0] if node.op_type == "QuantizeLinear" else node.output[0]
            found[name] = _Levels(float(steps.item()), int(offset.item()), node.domain)
    return found


def _joined(graph: GraphProto) -> list[NodeProto]:
    """Return the nodes of a graph, x Sigmoid(x) in half precision as one `SILU` where nothing else reads Sigmoid(x)."""
    import onnx
    from onnx import helper

    halves = {v.name for v in graph.value_info if v.type.tensor_type.elem_type == onnx.TensorProto.FLOAT16}
    uses = Counter(name for node in graph.node for name in node.input)
    uses.update(output.name for output in graph.output)
    gates = {
        node.output[0]: node.input[0]
        for node in graph.node
        if node.op_type == "Sigmoid" and node.output[0] in halves and uses[node.output[0]] == 1
    }
    nodes, gone = [], set()
    for node in graph.node:
        gate = next((name for name in node.input if name in gates), None)
        if node.op_type == "Mul" and gate is not None and set(node.input) == {gate, gates[gate]}:
            gone.add(gate)
            node = helper.make_node(SILU, [gates[gate]], [*node.output], name=node.name)
        nodes.append(node)
    return [node for node in nodes if node.output[0] not in gone]


def _reshaped(node: NodeProto, values: Mapping[str, Any], stored: Mapping[str, TensorProto]) -> list[int]:
    """Return the shape of what gathers a whole vector in its order, as a strided view is exported; [] of all others.

    Such a Gather to four dimensions, with a Transpose behind it, aborts the compiler of QNN 2.51.
    """
    from onnx import numpy_helper

    if node.op_type != "Gather" or node.input[0] not in values or node.input[1] not in stored:
        return []
    (length, *more) = [dim.dim_value for dim in values[node.input[0]].shape.dim] or [0]
    places = numpy_helper.to_array(stored[node.input[1]])
    whole = not more and np.array_equal(places.ravel(), np.arange(length))
    return list(places.shape) if whole else []
