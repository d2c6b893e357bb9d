"""From an ONNX model to a MIL program: inputs, nodes in order, outputs."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from effbench.deploy import abbreviate
from effbench.deploy.targets.coreml.lazy import ct, mb, mil
from effbench.deploy.targets.coreml.translator.functions import (
    FROM_SHAPE,
    attributes,
    body,
    definition,
    fold,
    foldable,
    missing,
)
from effbench.deploy.targets.coreml.translator.registry import (
    RULES,
    Array,
    Node,
    cast,
    dtype_of,
    mil_array,
    rank_of,
    shape_of,
)
from effbench.errors import ConversionError, EffbenchError, UnsupportedError

if TYPE_CHECKING:
    import onnx

STAGE = "Core ML translation"
LISTING = "python -c 'from effbench.deploy.targets.coreml import translator as t; print(t.supported())'"
MAX_RANK = 5
FEATURE_TYPES = {"float32": "float32", "float16": "float16", "int32": "int32", "int64": "int32", "bool": "int32"}
BYTES = ("uint8", "int8")
FEATURE_TYPES |= dict.fromkeys(BYTES, "int32")  # every value fits, and graphs cast them at once
"""Element type of an ONNX input or output -> the type that the package declares for it."""


@dataclass(frozen=True)
class Port:
    """One input or output: the tensor of the graph, and the feature of the package that represents it.

    Features of Core ML have neither 64-bit integers, Booleans nor rank 0, and allow fewer characters in names.
    """

    tensor: str
    feature: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Translation:
    """A MIL program, and the tensors that its inputs and outputs represent."""

    program: Any
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


def translate(model: onnx.ModelProto, target: Any, scale_input: tuple[Array, Array] | None = None) -> Translation:
    """Translate a model.

    Args:
        model: A checked model with static shapes; its precision is kept.
        target: The minimum deployment target, a ``coremltools.target``.
        scale_input: Factor and offset per channel that convert pixels of 0 ... 255 into the first input's values.

    Raises:
        ConversionError: An operator has no translation, a dimension is open, Core ML lacks a type, or the attributes of
            a node are not supported.
    """
    if model.functions:
        import onnx.inliner

        model = onnx.inliner.inline_local_functions(model)
    opset = next(item.version for item in model.opset_import if item.domain in ("", "ai.onnx"))
    _refuse_missing(model.graph, opset)
    known = {item.name for item in model.graph.initializer}
    inputs = [_port(info) for info in model.graph.input if info.name not in known]
    outputs = [_port(info, output=True) for info in model.graph.output]
    types = {"float32": mil.types.fp32, "float16": mil.types.fp16, "int32": mil.types.int32}
    placeholders = {
        port.feature: mb.placeholder(shape=port.shape or (1,), dtype=types[_feature_type(port, target)])
        for port in inputs
    }
    program = mil.Program()
    with mil.Function(placeholders, opset_version=target) as function:
        run = _Run(model, opset, target)
        for position, port in enumerate(inputs):
            run.feed(port, function.inputs[port.feature], scale_input if position == 0 else None)
        for node in model.graph.node:
            run.node(node)
        function.set_outputs([run.result(port) for port in outputs])
    program.add_function("main", function)
    return Translation(program, tuple(inputs), tuple(outputs))


def _refuse_missing(graph: onnx.GraphProto, opset: int) -> None:
    gaps = missing(graph, opset)
    if gaps:
        nodes = [f"{op} (node {name})" for name, op in gaps]
        # All of them go to the failure's log; sys.stderr is redirected while coremltools works.
        print(f"{STAGE}: no translation for {', '.join(nodes)}", file=sys.__stderr__)
        raise ConversionError(
            STAGE,
            f"no translation for {abbreviate(nodes)}.",
            node=gaps[0][0],
            op=gaps[0][1],
            hint=f"{len(RULES)} operators are supported; `{LISTING}` lists them.",
        )


def _port(info: onnx.ValueInfoProto, output: bool = False) -> Port:
    import onnx

    tensor = info.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
    if dtype not in FEATURE_TYPES:
        raise UnsupportedError(f"Core ML takes no {dtype} as '{info.name}'; it takes {', '.join(FEATURE_TYPES)}.")
    sizes = [dim.dim_value if dim.HasField("dim_value") else 0 for dim in tensor.shape.dim]
    if not output and (0 in sizes or len(sizes) > MAX_RANK):
        raise ConversionError(
            STAGE,
            f"input '{info.name}' has shape {sizes}; sizes must be fixed, above zero, and at most {MAX_RANK}.",
            hint="Export the graph at one resolution and batch size.",
        )
    return Port(info.name, feature_name(info.name), dtype, tuple(sizes))


def feature_name(name: str) -> str:
    """Return a tensor's name in the characters that Core ML allows: letters, digits and underscores, no digit first."""
    clean = re.sub(r"\W", "_", name, flags=re.ASCII)
    return f"_{clean}" if not clean or clean[0].isdigit() else clean


def _feature_type(port: Port, target: Any) -> str:
    kind = FEATURE_TYPES[port.dtype]
    return "float32" if kind == "float16" and target.value < ct.target.iOS16.value else kind


class _Run:
    """The values of one translation, by ONNX name."""

    def __init__(self, model: onnx.ModelProto, opset: int, target: Any) -> None:
        from onnx import numpy_helper

        self.values: dict[str, Any] = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
        self.opset = opset
        self.target = target
        self._named: set[str] = {feature_name(info.name) for info in (*model.graph.input, *model.graph.output)}

        self._results: set[int] = set()

    def feed(self, port: Port, variable: Any, scale: tuple[Array, Array] | None) -> None:
        """Convert an input from the package's type and shape to the graph's."""
        if scale is not None:
            factor, offset = (part.astype(dtype_of(variable)).reshape(1, -1, 1, 1) for part in scale)
            variable = mb.add(x=mb.mul(x=variable, y=factor), y=offset)
        variable = cast(variable, "int32" if port.dtype in BYTES else port.dtype)
        self.values[port.tensor] = variable if port.shape else mb.squeeze(x=variable)

    def node(self, proto: onnx.NodeProto) -> None:
        """Translate one node, fold it, or replace it by its definition."""
        try:
            self._node(proto)
        except EffbenchError:
            raise
        except (
            ValueError,
            TypeError,
            KeyError,
            IndexError,
            AttributeError,
            NotImplementedError,
            RuntimeError,
        ) as error:
            # The builder raises these for invalid operations; the message has to name the node.
            raise ConversionError(STAGE, str(error) or repr(error), node=proto.name, op=proto.op_type) from error

    def _node(self, proto: onnx.NodeProto) -> None:
        inputs = [self.values[name] if name else None for name in proto.input]
        if proto.op_type in FROM_SHAPE and not isinstance(inputs[0], np.ndarray):
            zeros = np.zeros(shape_of(inputs[0]), dtype_of(inputs[0]))
            self._set(proto, fold(proto, {proto.input[0]: zeros}, self.opset), inputs)
        elif foldable(proto) and all(value is None or isinstance(value, np.ndarray) for value in inputs):
            known: dict[str, Any] = {name: value for name, value in zip(proto.input, inputs, strict=True) if name}
            self._set(proto, fold(proto, known, self.opset), inputs)
        elif proto.op_type == "If":
            self._branch(proto, inputs[0])
        elif proto.op_type in RULES:
            self._set(proto, RULES[proto.op_type](self._resolve(proto, inputs)), inputs)
        else:
            self._expand(proto, inputs)

    def _resolve(self, proto: onnx.NodeProto, inputs: Sequence[Any]) -> Node:
        outputs = list(proto.output)
        while outputs and not outputs[-1]:
            outputs.pop()
        name = proto.name or outputs[0]
        target = int(self.target.value)
        return Node(proto.op_type, name, tuple(inputs), tuple(outputs), attributes(proto), self.opset, target)

    def _expand(self, proto: onnx.NodeProto, inputs: Sequence[Any]) -> None:
        function = definition(proto, self.opset, inputs)
        if function is None:
            raise ConversionError(
                STAGE, "no translation, and ONNX defines no function", node=proto.name, op=proto.op_type
            )
        for inner in body(function, proto, self.opset):
            self.node(inner)

    def _branch(self, proto: onnx.NodeProto, condition: Any) -> None:
        """Translate the branch that is taken; its condition must be known when translating."""
        if not isinstance(condition, np.ndarray):
            raise ConversionError(STAGE, "the condition is computed at run time", node=proto.name, op=proto.op_type)
        from onnx import numpy_helper

        graph = attributes(proto)["then_branch" if condition.reshape(-1)[0] else "else_branch"]
        self.values.update({item.name: numpy_helper.to_array(item) for item in graph.initializer})
        for inner in graph.node:
            self.node(inner)
        for name, info in zip(proto.output, graph.output, strict=True):
            self.values[name] = self.values[info.name]

    def _set(self, proto: onnx.NodeProto, result: Any, inputs: Sequence[Any]) -> None:
        values = result if isinstance(result, (list, tuple)) else [result]
        names = [name for name in proto.output if name]
        if isinstance(result, (list, tuple)) and len(values) == len(proto.output):
            names = list(proto.output)
        for name, value in zip(names, values, strict=True):
            if not name:
                continue
            self.values[name] = value
            if not isinstance(value, np.ndarray) and not any(value is item for item in inputs):
                self._label(value, name)

    def _label(self, variable: Any, name: str) -> None:
        """Name a variable after the ONNX tensor, so that Netron and a compute plan show the same names."""
        label = feature_name(name)
        if variable.op is None or label in self._named:
            return
        self._named.add(label)
        variable.op.name = label if len(variable.op.outputs) == 1 else f"{label}_op"
        variable.name = label

    def _output_node(self, port: Port) -> Node:
        return Node("output", port.tensor, (), (port.tensor,), {}, self.opset, int(self.target.value))

    def result(self, port: Port) -> Any:
        """Convert a value to the package's type and shape, as a separate variable."""
        value = self.values[port.tensor]
        value = mb.const(val=mil_array(self._output_node(port), value)) if isinstance(value, np.ndarray) else value
        value = cast(value, _feature_type(port, self.target))
        value = mb.expand_dims(x=value, axes=[0]) if rank_of(value) == 0 else value
        if value.op is None or value.op.op_type == "const" or id(value) in self._results:
            value = mb.identity(x=value)  # an input, a constant, or an output already
        self._results.add(id(value))
        value.op.name = value.name = port.feature
        return value


def ports(data: Sequence[Mapping[str, Any]]) -> tuple[Port, ...]:
    """Return ports from a package's metadata."""
    return tuple(Port(item["tensor"], item["feature"], item["dtype"], tuple(item["shape"])) for item in data)
