"""Prepare a graph for Snapdragon's HTP: decompose operators that it rounds badly, and avoid a crash of its compiler.

On the simulator of QNN 2.51, the errors of Gelu, Sigmoid, HardSwish and Softmax are 2 to 6 times those of correct
rounding. If a Tanh, Sigmoid or Gelu is the only reader of a Conv, the HTP fuses it, and its error is 10 to 30 times
that; so none of them reads its input directly here (docs/explanation/snapdragon.md). Over a network these errors add
up. Of a product of two 16-bit activations, ONNX Runtime's provider passes the second one to the HTP in 8 bits.
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
"""erf(x / sqrt 2) is tanh(x (a + b x^2 + c x^4)) for 0 <= x <= `GELU_END`, fitted; GELU's error is below 2.6e-5."""
GELU_TANH = (0.7978845608, 0.0356774081, 0.0)
"""The same for GELU's tanh approximation: sqrt(2 / pi) and 0.044715 times that (arXiv:1606.08415)."""
GELU_END = 5.0
FLAT = 20.0
"""Beyond it Tanh and Sigmoid are constant in half precision; a Clip there is exact and prevents fusion with a Conv."""


@dataclass(frozen=True)
class _Quantization:
    """Quantization of a tensor to 16 unsigned bits: scale, zero point, and the domain of its Q/DQ operators."""

    scale: float
    zero: int
    domain: str

    @property
    def largest(self) -> float:
        """The largest absolute value that it represents."""
        return max(self.zero, 65535 - self.zero) * self.scale


class _Writer:
    """Writes the nodes and constants that replace one node; the last of them has its output."""

    def __init__(self, node: NodeProto, constants: dict[str, TensorProto]) -> None:
        self._node, self._constants = node, constants
        self.nodes: list[NodeProto] = []

    def constant(self, value: float | list[int] | np.generic) -> str:
        """Return the name of a constant: a scalar (half precision if it is a float), axes, or a shape."""
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
        """Add a Q/DQ pair, of 16 bits or of the type of the zero point."""
        parameters = np.float32(scale), zero if isinstance(zero, np.generic) else np.uint16(zero)
        quantized = self("QuantizeLinear", x, *parameters, domain=domain)
        return self("DequantizeLinear", quantized, *parameters, domain=domain)

    def finish(self) -> list[NodeProto]:
        """Give the last node the output of the replaced node; returns the nodes, none if nothing was written."""
        if self.nodes:
            self.nodes[-1].output[0] = self._node.output[0]
        return self.nodes


def _gelu(node: NodeProto, add: _Writer) -> None:
    """Relu(x) - |x| / 2 (1 - tanh): for a large x the subtracted term is small, and so is its rounding error."""
    a, b, c = GELU_TANH if any(attribute.s == b"tanh" for attribute in node.attribute) else GELU
    (x,) = node.input
    magnitude = add("Abs", x)
    clipped = add("Clip", magnitude, 0.0, GELU_END)
    square = add("Mul", clipped, clipped)
    slope = add("Add", add("Mul", square, add("Add", add("Mul", square, c), b)), a)
    complement = add("Sub", 1.0, add("Tanh", add("Mul", clipped, slope)))
    add("Sub", add("Relu", x), add("Mul", add("Mul", magnitude, 0.5), complement))


def _sigmoid(node: NodeProto, add: _Writer) -> None:
    tanh = add("Tanh", add("Mul", add("Clip", node.input[0], -FLAT, FLAT), 0.5))
    add("Add", add("Mul", tanh, 0.5), 0.5)


def _silu(node: NodeProto, add: _Writer) -> None:
    """Relu(x) - |x| / 2 (1 - tanh(|x| / 2)), as for Gelu."""
    (x,) = node.input
    clipped = add("Clip", add("Abs", x), 0.0, FLAT)
    half = add("Mul", clipped, 0.5)
    complement = add("Sub", 1.0, add("Tanh", half))
    add("Sub", add("Relu", x), add("Mul", half, complement))


def _tanh(node: NodeProto, add: _Writer) -> None:
    add("Tanh", add("Clip", node.input[0], -FLAT, FLAT))


def _softmax(node: NodeProto, add: _Writer) -> None:
    (x,) = node.input
    (axis,) = [attribute.i for attribute in node.attribute if attribute.name == "axis"] or [-1]
    exponential = add("Exp", add("Sub", x, add("ReduceMax", x, [axis])))
    add("Div", exponential, add("ReduceSum", exponential, [axis]))


def _hard_swish(node: NodeProto, add: _Writer) -> None:
    (x,) = node.input
    gate = add("Clip", add("Add", add("Mul", x, 1 / 6), 0.5), 0.0, 1.0)
    add("Mul", x, gate)


def _product(node: NodeProto, add: _Writer, second: _Quantization, result: _Quantization) -> None:
    """Write a b as a h + a (b - h), where h is b in 8 bits.

    The range of both terms is twice that of their sum: if b is half a level of h, h is either zero or twice b.
    """
    a, b = node.input
    coarse_scale, domain = second.scale * 258, second.domain  # the 65,535 levels fit into 255, for any zero point
    zero = round(second.zero / 258)
    coarse = add.quantized(b, coarse_scale, np.uint8(zero), domain)
    # The same values in 16 bits, because the HTP does not subtract tensors of different types.
    remainder = add("Sub", b, add.quantized(coarse, coarse_scale / 256, zero * 256, domain))
    fine = add.quantized(remainder, coarse_scale * 1.02 / 65535, 32768, domain)
    term = result.largest * 2 / 32767
    terms = [add.quantized(add("MatMul", a, part), term, 32768, domain) for part in (coarse, fine)]
    add("Add", *terms)


SILU = "Silu"
"""What `_join_silu` writes for x Sigmoid(x); it is no operator of ONNX and is always decomposed."""
PRODUCT = "MatMul"
"""A product of two 16-bit activations is decomposed into products."""
SINCE = {"Softmax": 18}
"""The opset from which an operator is decomposed: from then on ReduceMax takes its axes as an input."""
DECOMPOSITIONS: Mapping[str, Callable[[NodeProto, _Writer], None]] = {
    "Gelu": _gelu,
    "Sigmoid": _sigmoid,
    "HardSwish": _hard_swish,
    SILU: _silu,
    "Softmax": _softmax,
    "Tanh": _tanh,
}


def prepare(model: ModelProto, exact: bool = True) -> ModelProto:
    """Return a graph that the HTP's compiler accepts.

    Args:
        model: A graph of static shape.
        exact: Whether to decompose the operators of `DECOMPOSITIONS` in half precision, and products of two 16-bit
            activations, so that these keep their 16 bits.
    """
    import onnx

    prepared = onnx_file.infer_shapes(model, "the graph")
    graph = prepared.graph
    values = {value.name: value.type.tensor_type for value in (*graph.input, *graph.value_info, *graph.output)}
    initializers = {tensor.name: tensor for tensor in graph.initializer}
    quantizations = _quantizations(graph, initializers)
    constants: dict[str, TensorProto] = {}
    nodes: list[NodeProto] = []
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 1)
    for node in _join_silu(graph) if exact else graph.node:
        if node.op_type in BORDER and node.input[0] in values:  # quantization keeps the shape
            values.setdefault(node.output[0], values[node.input[0]])
        add = _Writer(node, constants)
        half = node.output[0] in values and values[node.output[0]].elem_type == onnx.TensorProto.FLOAT16
        if exact and half and node.op_type in DECOMPOSITIONS and opset >= SINCE.get(node.op_type, 1):
            DECOMPOSITIONS[node.op_type](node, add)
        elif exact and node.op_type == PRODUCT and quantizations.keys() >= {*node.input, *node.output}:
            _product(node, add, quantizations[node.input[1]], quantizations[node.output[0]])
        elif shape := _shape_of_identity_gather(node, values, initializers):
            add("Reshape", node.input[0], shape)
        nodes += add.finish() or [node]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    graph.initializer.extend(constants.values())
    return onnx_file.infer_shapes(prepared, "the graph for the HTP")


def _quantizations(graph: GraphProto, initializers: Mapping[str, TensorProto]) -> dict[str, _Quantization]:
    """Return the 16-bit quantization of each activation by tensor name."""
    import onnx
    from onnx import numpy_helper

    quantizations = {}
    for node in graph.node:
        if node.op_type not in BORDER or len(node.input) < 3 or node.input[0] in initializers:
            continue
        scale, zero = (initializers.get(name) for name in node.input[1:])
        if scale is None or zero is None or zero.data_type != onnx.TensorProto.UINT16:
            continue
        steps, offset = numpy_helper.to_array(scale), numpy_helper.to_array(zero)
        if steps.size == 1:
            name = node.input[0] if node.op_type == "QuantizeLinear" else node.output[0]
            quantizations[name] = _Quantization(float(steps.item()), int(offset.item()), node.domain)
    return quantizations


def _join_silu(graph: GraphProto) -> list[NodeProto]:
    """Return the nodes of a graph; x Sigmoid(x) in half precision is one `SILU` if nothing else reads Sigmoid(x)."""
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
    nodes, removed = [], set()
    for node in graph.node:
        gate = next((name for name in node.input if name in gates), None)
        if node.op_type == "Mul" and gate is not None and set(node.input) == {gate, gates[gate]}:
            removed.add(gate)
            node = helper.make_node(SILU, [gates[gate]], [*node.output], name=node.name)
        nodes.append(node)
    return [node for node in nodes if node.output[0] not in removed]


def _shape_of_identity_gather(
    node: NodeProto, values: Mapping[str, Any], initializers: Mapping[str, TensorProto]
) -> list[int]:
    """Return the output shape of a Gather that copies a vector in order, else []; a strided view is exported as one.

    Such a Gather to four dimensions, followed by a Transpose, aborts the compiler of QNN 2.51.
    """
    from onnx import numpy_helper

    if node.op_type != "Gather" or node.input[0] not in values or node.input[1] not in initializers:
        return []
    (length, *more) = [dim.dim_value for dim in values[node.input[0]].shape.dim] or [0]
    indices = numpy_helper.to_array(initializers[node.input[1]])
    identity = not more and np.array_equal(indices.ravel(), np.arange(length))
    return list(indices.shape) if identity else []
