"""fp16 written into the graph: float32 inputs and outputs, half precision inside, islands in float32.

int8 is in `effbench.deploy.precision.quantize`, a16w8 in `a16w8` beside it. Targets only translate this graph.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from effbench.deploy.graph import onnx_file
from effbench.deploy.graph.half_types import HALF_MAX, half_slots
from effbench.deploy.precision.shape_arithmetic import shape_arithmetic
from effbench.errors import UsageError, unknown_name

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

LONG_MEAN = 256
"""A mean over more positions is computed over columns first, then over rows. One running sum of 112 x 112 positions in
half precision passes 6,000, where neighboring numbers are 4 apart, and overflows if the mean is 5."""

LONG_SOFTMAX = 2048
"""A softmax over more positions stays in float32, with the product that reads it: its mean is less than 8 times the
smallest normal number of half precision, and devices flush smaller numbers to zero."""
_PASS_THROUGH = ("Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Expand", "Identity", "Mul")

_TYPE_ATTRIBUTES = {"Cast": "to", "EyeLike": "dtype"}


def node_names(model: ModelProto, names: Collection[str]) -> frozenset[str]:
    """Return the first outputs of nodes that are named by their own names or by any of their outputs.

    Raises:
        UsageError: A name belongs to no node.
    """
    first_outputs: dict[str, str] = {}
    for node in model.graph.node:
        for name in (node.name, *node.output):
            if name:
                first_outputs[name] = node.output[0]
    for name in names:
        if name not in first_outputs:
            few = len(first_outputs) < 50
            raise unknown_name(name, first_outputs, "node") if few else UsageError(f"The graph has no node '{name}'.")
    return frozenset(first_outputs[name] for name in names)


def to_fp16(model: ModelProto, islands: Collection[str] = ()) -> ModelProto:
    """Return the model in half precision.

    Inputs and outputs stay float32, with a Cast at the border. Finite constants beyond the range of half precision
    are saturated. A tensor is cast at most once to each type, and never from a cast. `long_softmaxes` are islands as
    well.

    Args:
        model: An fp32 graph; the bodies of its control flow keep computing in float32.
        islands: Nodes (by name or output) that keep computing in float32.

    Raises:
        UsageError: An island is no node of the graph.
    """
    return _Rewriter(model, node_names(model, islands)).run()


class _Rewriter:
    """Rewrites the nodes in order; for every tensor it knows the types it exists in, and casts it on demand.

    ``names`` maps a tensor and a type to the tensor's name in that type; ``aliases`` replace casts that are left out.
    """

    def __init__(self, model: ModelProto, islands: frozenset[str]) -> None:
        import onnx

        self.onnx = onnx
        self.model = shorten_means(model, islands)
        self.islands = islands | long_softmaxes(self.model) | shape_arithmetic(self.model)
        self.opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 1)
        self.half, self.single = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
        graph = self.model.graph
        values = [*graph.input, *graph.value_info, *graph.output]
        self.types: dict[str, int] = {v.name: v.type.tensor_type.elem_type for v in values}
        self.constants: dict[str, TensorProto] = {t.name: t for t in graph.initializer}
        self.types.update((t.name, t.data_type) for t in graph.initializer)
        self.names: dict[tuple[str, int], str] = {}
        self.aliases: dict[str, str] = {}
        self.nodes: list[NodeProto] = []
        self.initializers: dict[str, TensorProto] = {}
        self.reserved = set(self.types) | {name for node in graph.node for name in node.output}

    def run(self) -> ModelProto:
        """Rewrite the graph and return it."""
        graph = self.model.graph
        for node in graph.node:
            self._add(node)
        for output in graph.output:
            self._deliver(output.name, self.types[output.name])
        del graph.node[:], graph.initializer[:], graph.value_info[:]
        graph.node.extend(self.nodes)
        read = onnx_file.names_read(graph)
        unread = [node for node in graph.node if node.op_type == "Cast" and node.output[0] not in read]
        for node in unread:
            graph.node.remove(node)
        graph.initializer.extend(t for t in self.initializers.values() if t.name in read)
        result = onnx_file.infer_shapes(self.model, "the fp16 graph")
        onnx_file.check(result, "the fp16 graph")
        return result

    def _add(self, node: NodeProto) -> None:
        bodies = onnx_file.bodies(node)
        for name in sorted(set().union(*map(onnx_file.names_read, bodies))):
            self._capture(name)
        if node.op_type == "Constant" and any(a.name == "value" for a in node.attribute):
            tensor = next(a.t for a in node.attribute if a.name == "value")
            self.constants[node.output[0]] = tensor
            self.types[node.output[0]] = tensor.data_type
            return
        island = bool(bodies) or node.output[0] in self.islands
        ins, outs = half_slots(node, self.opset)
        if island or node.op_type == "Constant":
            ins, outs = (False,) * len(ins), (False,) * len(outs)
        if self._is_redundant_cast(node):
            self.aliases[node.output[0]] = self.aliases.get(node.input[0], node.input[0])
            return
        inputs = [self._read(name, half) if name else "" for name, half in zip(node.input, ins, strict=True)]
        outputs = [self._write(name, half) if name else "" for name, half in zip(node.output, outs, strict=True)]
        node.input[:], node.output[:] = inputs, outputs
        if outs[0]:
            self._retype_attributes(node)
        self.nodes.append(node)

    def _is_redundant_cast(self, node: NodeProto) -> bool:
        floats = (self.half, self.single)
        to = next((a.i for a in node.attribute if a.name == "to"), None)
        return node.op_type == "Cast" and to in floats and self.types.get(node.input[0]) in floats

    def _read(self, name: str, half: bool) -> str:
        name = self.aliases.get(name, name)
        if self.types.get(name) not in (self.single, self.half):
            self._keep_constant(name)
            return name
        return self._as(name, self.half if half else self.single)

    def _write(self, name: str, half: bool) -> str:
        if self.types.get(name) != self.single or not half:
            self.names[name, self.types.get(name, 0)] = name
            return name
        new = self._fresh(f"{name}_half")
        self.names[name, self.half] = new
        return new

    def _as(self, name: str, kind: int) -> str:
        """Return the name of a float tensor in a type; add a Cast if it does not exist in that type yet."""
        key = (name, kind)
        if key in self.names:
            return self.names[key]
        if name in self.constants:
            self.names[key] = self._constant(name, kind)
            return self.names[key]
        other = self.names.get((name, self.half if kind == self.single else self.single), name)
        producer = self._producer(other)
        # An integer that was cast to the other type is cast again from the integer, not twice in a row.
        source = producer.input[0] if producer is not None and producer.op_type == "Cast" else other
        target = self._fresh(f"{name}_{'half' if kind == self.half else 'single'}")
        self.nodes.append(self.onnx.helper.make_node("Cast", [source], [target], name=f"Cast/{target}", to=kind))
        self.names[key] = target
        return target

    def _producer(self, name: str) -> NodeProto | None:
        return next((node for node in reversed(self.nodes) if name in node.output), None)

    def _constant(self, name: str, kind: int) -> str:
        tensor = self.constants[name]
        if tensor.data_type == kind:
            self._keep_constant(name)
            return name
        values = self.onnx.numpy_helper.to_array(tensor)
        new = self._fresh(f"{name}_{'half' if kind == self.half else 'single'}")
        finite = np.where(np.isinf(values), values, np.clip(values, -HALF_MAX, HALF_MAX))
        array = finite.astype(np.float16) if kind == self.half else values.astype(np.float32)
        self.initializers[new] = self.onnx.numpy_helper.from_array(array, new)
        return new

    def _keep_constant(self, name: str) -> None:
        if name in self.constants:
            tensor = self.onnx.TensorProto()
            tensor.CopyFrom(self.constants[name])
            tensor.name = name
            self.initializers[name] = tensor

    def _capture(self, name: str) -> None:
        """Let a tensor exist under its own name in its own type, for a body that reads it, which stays as it is."""
        if name in self.constants:
            self._keep_constant(name)
        elif name in self.types and not self._exists(name):
            self._deliver(name, self.types[name])
            self.names[name, self.types[name]] = name

    def _exists(self, name: str) -> bool:
        return any(value.name == name for value in self.model.graph.input) or self._producer(name) is not None

    def _deliver(self, output: str, kind: int) -> None:
        """Add a Cast or an Identity, so that an output exists under its own name in its own type."""
        source = self.aliases.get(output, output)
        if kind not in (self.single, self.half) or (source == output and self.names.get((output, kind)) == output):
            return
        name = self.names.get((source, self.half)) or self._as(source, kind)
        cast = (source, self.half) in self.names and kind == self.single
        make = self.onnx.helper.make_node
        if cast:
            self.nodes.append(make("Cast", [name], [output], name=f"Cast/{output}", to=kind))
        elif name != output:
            self.nodes.append(make("Identity", [name], [output], name=f"Identity/{output}"))

    def _retype_attributes(self, node: NodeProto) -> None:
        for attribute in node.attribute:
            if attribute.name == _TYPE_ATTRIBUTES.get(node.op_type) and attribute.i == self.single:
                attribute.i = self.half
            if attribute.HasField("t") and attribute.t.data_type == self.single:
                array = self.onnx.numpy_helper.to_array(attribute.t).astype(np.float16)
                attribute.t.CopyFrom(self.onnx.numpy_helper.from_array(array, attribute.t.name))

    def _fresh(self, name: str) -> str:
        while name in self.reserved:
            name += "_"
        self.reserved.add(name)
        return name


COLUMNS = "__columns"
"""Suffix that names a mean over columns after the mean that reads it."""


def shorten_means(model: ModelProto, islands: Collection[str] = ()) -> ModelProto:
    """Return a copy, shapes inferred, with a mean over columns in front of each mean over more than `LONG_MEAN`.

    Args:
        model: An fp32 graph.
        islands: First outputs of nodes that compute in float32 and stay as they are.
    """
    from onnx import helper, numpy_helper

    model = onnx_file.infer_shapes(model, "the graph")
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 1)
    known = onnx_file.shapes(model)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    axis, nodes = f"axis{COLUMNS}", []
    for node in model.graph.node:
        shape = known.get(node.input[0], ()) if node.input else ()
        rows, columns = shape[2:] if len(shape) == 4 else (None, None)
        if _is_pooling(node, constants) and node.output[0] not in islands and (rows or 0) * (columns or 0) > LONG_MEAN:
            shorter = helper.make_node(
                "ReduceMean",
                [node.input[0]] if opset < 18 else [node.input[0], axis],  # where the standard moved it
                [f"{node.output[0]}{COLUMNS}"],
                name=f"{node.name or node.output[0]}/columns",
                axes=[3] if opset < 18 else None,
                keepdims=1,
            )
            node.input[0] = shorter.output[0]
            nodes.append(shorter)
        nodes.append(node)
    if len(nodes) == len(model.graph.node):
        return model
    if opset >= 18:
        model.graph.initializer.append(numpy_helper.from_array(np.array([3], np.int64), axis))
    del model.graph.node[:], model.graph.value_info[:]
    model.graph.node.extend(nodes)
    return onnx_file.infer_shapes(model, "the graph")


def _is_pooling(node: NodeProto, constants: Mapping[str, Any]) -> bool:
    """Tell whether a node computes the mean over all rows and columns of a map."""
    if node.op_type != "ReduceMean":
        return node.op_type == "GlobalAveragePool"
    axes = next((list(a.ints) for a in node.attribute if a.name == "axes"), [])
    reduced = constants.get(node.input[1]) if len(node.input) > 1 else axes
    return reduced is not None and sorted(int(axis) % 4 for axis in reduced) == [2, 3]


def long_softmaxes(model: ModelProto) -> frozenset[str]:
    """Return the first outputs of softmaxes over more than `LONG_SOFTMAX` positions and of the nodes that sum them up.

    Args:
        model: An fp32 graph, shapes known.
    """
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 1)
    known = onnx_file.shapes(model)
    names: set[str] = set()
    probabilities: set[str] = set()
    for node in model.graph.node:
        if node.op_type == "Softmax":
            axis = next((a.i for a in node.attribute if a.name == "axis"), -1 if opset >= 13 else 1)
            shape = known.get(node.input[0], ())[axis:]
            sizes = [size or 0 for size in (shape[:1] if opset >= 13 else shape)]
            single = int(np.prod(sizes)) > LONG_SOFTMAX if sizes else False
        else:
            single = bool(probabilities & set(node.input))
        if single:
            names.add(node.output[0])
            if node.op_type in (*_PASS_THROUGH, "Softmax"):
                probabilities.update(node.output)
    return frozenset(names)
