"""Run an ONNX graph node by node in torch, in a chosen number system."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.inliner
import torch
from onnx import GraphProto, ModelProto, NodeProto, TensorProto
from torch import Tensor

from effbench.deploy.graph import onnx_file
from effbench.deploy.graph.half_types import HALF_MAX, half_slots
from effbench.deploy.interpreter import registry
from effbench.deploy.interpreter.arithmetic import MODES, Arithmetic, Mode, to_half
from effbench.deploy.interpreter.types import from_numpy, from_proto
from effbench.errors import ConversionError, UsageError

Array = npt.NDArray[Any]

_NARROW = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Step:
    """A node prepared to run.

    ``half_inputs`` and ``half_outputs`` tell which of them the standard allows in half precision (the scales of a
    Resize, for example, are always float32). ``captures`` are the tensors that its subgraphs read from outside.
    """

    name: str
    op: str
    operator: registry.Operator
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    half_inputs: tuple[bool, ...]
    half_outputs: tuple[bool, ...]
    captures: tuple[str, ...] = ()


@dataclass(frozen=True)
class Executed:
    """A step, its inputs after the cast to the node's precision, and its outputs."""

    step: Step
    inputs: list[Tensor | None]
    outputs: list[Tensor]


class Interpreter:
    """An ONNX model ready to run; islands are named by a node's first output, which is unique, unlike its name."""

    def __init__(self, model: ModelProto) -> None:
        if model.functions:
            model = onnx.inliner.inline_local_functions(model)
        opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 1)
        self._prepare(model.graph, opset)

    @classmethod
    def nested(cls, graph: GraphProto, opset: int) -> Interpreter:
        """Return the body of an If, Loop or Scan; it reads its ``captures`` from the graph around it."""
        body = cls.__new__(cls)
        body._prepare(graph, opset)
        return body

    def _prepare(self, graph: GraphProto, opset: int) -> None:
        self.opset = opset
        self.constants = {t.name: from_proto(t) for t in graph.initializer}
        self.inputs = tuple(i.name for i in graph.input if i.name not in self.constants)
        self.outputs = tuple(o.name for o in graph.output)
        self.steps = tuple(_step(node, opset) for node in graph.node)
        self._frees = self._last_uses()
        known = {*self.constants, *self.inputs, *(name for step in self.steps for name in step.outputs), ""}
        read = [*(name for step in self.steps for name in (*step.inputs, *step.captures)), *self.outputs]
        self.captures = tuple(dict.fromkeys(name for name in read if name not in known))

    def _last_uses(self) -> list[list[str]]:
        """Return for each step the tensors that nothing reads after it."""
        later, frees = set(self.outputs), []
        for step in reversed(self.steps):
            names = {name for name in (*step.inputs, *step.captures, *step.outputs) if name} - later
            frees.append([name for name in names if name not in self.constants])
            later |= names
        return frees[::-1]

    def trace(
        self,
        feeds: Mapping[str, Array],
        mode: str | Mode = "float32",
        islands: Collection[str] = (),
        replaced: Mapping[str, Tensor] | None = None,
        grad: bool = False,
    ) -> Iterator[Executed]:
        """Run once, and yield each step as soon as it is computed; two traces can be followed side by side.

        Args:
            feeds: An array for each input.
            mode: A name of `MODES`, or another mode.
            islands: First outputs of the nodes that compute in float32 in a half mode.
            replaced: Tensors that later nodes read instead of the computed ones, by name.
            grad: Whether torch can differentiate the steps' outputs.

        Raises:
            UsageError: An input is missing, or the mode is unknown.
            ConversionError: A node cannot be computed.
        """
        mode = _mode(mode)
        missing = [name for name in self.inputs if name not in feeds]
        if missing:
            raise UsageError(f"No value for the input {', '.join(missing)}.")
        values: dict[str, Tensor] = dict(self.constants)
        values.update((name, from_numpy(feeds[name])) for name in self.inputs)
        for name in self.inputs:
            values[name].requires_grad_(grad and values[name].is_floating_point())
        yield from self._follow(values, mode, islands, replaced, grad)

    def _follow(
        self,
        values: dict[str, Tensor],
        mode: Mode,
        islands: Collection[str],
        replaced: Mapping[str, Tensor] | None = None,
        grad: bool = False,
    ) -> Iterator[Executed]:
        for step, frees in zip(self.steps, self._frees, strict=True):
            with torch.set_grad_enabled(grad):
                inputs, outputs = _execute(step, values, mode, islands, self)
            yield Executed(step, inputs, outputs)
            named = zip(step.outputs, outputs, strict=False)
            values.update((name, (replaced or {}).get(name, y)) for name, y in named if name)
            for name in frees:
                values.pop(name, None)

    def call(
        self, arguments: Sequence[Tensor], outer: Mapping[str, Tensor], mode: Mode, islands: Collection[str]
    ) -> list[Tensor]:
        """Run the body of a control-flow node once; ``outer`` holds the values of the graph around it."""
        start = {**self.constants, **{name: outer[name] for name in self.captures}}
        start |= dict(zip(self.inputs, arguments, strict=False))
        results = dict(start)
        for executed in self._follow(start, mode, islands):
            results.update(zip(executed.step.outputs, executed.outputs, strict=False))
        return [results[name] for name in self.outputs]

    def run(
        self, feeds: Mapping[str, Array], mode: str | Mode = "float32", islands: Collection[str] = ()
    ) -> dict[str, Array]:
        """Run once and return the outputs by name; arguments and errors as in `trace`.

        Floating-point outputs are float64, or float32 carriers of half values, unless the mode keeps the graph's types.
        """
        mode = _mode(mode)
        values = {name: from_numpy(feeds[name]) for name in self.inputs if name in feeds} | self.constants
        for executed in self.trace(feeds, mode, islands):
            named = zip(executed.step.outputs, executed.outputs, strict=False)
            values.update((name, y) for name, y in named if name in self.outputs)
        return {name: _export(values[name], mode) for name in self.outputs}


def run_model(
    model: ModelProto | str | os.PathLike[str], feeds: Mapping[str, Array], mode: str = "float32"
) -> dict[str, Array]:
    """Run a model, or the model of a file, once and return its outputs by name.

    Raises:
        DataError: The file cannot be read, or its external data leaves its folder.
        ConversionError: An operator is missing or a node cannot be computed.
    """
    return Interpreter(model if isinstance(model, ModelProto) else onnx_file.load(Path(model))).run(feeds, mode)


def _mode(mode: str | Mode) -> Mode:
    if isinstance(mode, Mode):
        return mode
    if mode not in MODES:
        raise UsageError(f"Unknown mode '{mode}'.", hint=f"Valid: {', '.join(MODES)}.")
    return MODES[mode]


def _step(node: NodeProto, opset: int) -> Step:
    label = node.name or (node.output[0] if node.output else "")
    # onnxruntime's quantizer writes 16-bit Q/DQ of older opsets in another domain; they are the same operators.
    standard = node.domain in ("", "ai.onnx") or node.op_type in ("QuantizeLinear", "DequantizeLinear")
    operator = registry.find(node.op_type if standard else f"{node.domain}::{node.op_type}", opset)
    if operator is None:
        name = f"{node.domain}::{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type
        raise ConversionError(
            "interpret",
            "the interpreter has no such operator",
            node=label,
            op=name,
            hint=_near(node.op_type),
        )
    attributes = {a.name: _attribute(a, opset) for a in node.attribute if not registry.ignored(a.name)}
    unknown = sorted(set(attributes) - operator.attributes)
    if unknown and "attributes" not in operator.function.__code__.co_varnames:
        raise ConversionError("interpret", f"attribute '{unknown[0]}' is unknown", node=label, op=node.op_type)
    halves = half_slots(node, opset)
    bodies = [value for value in attributes.values() if isinstance(value, Interpreter)]
    captures = tuple(dict.fromkeys(name for body in bodies for name in body.captures))
    return Step(label, node.op_type, operator, tuple(node.input), tuple(node.output), attributes, *halves, captures)


def _near(op_type: str) -> str:
    """Return a hint with the operators whose names are like an unknown one."""
    names = registry.operators()
    near = difflib.get_close_matches(op_type, names, n=3)
    listed = f" The nearest of its {len(names)} operators: {', '.join(near)}." if near else ""
    return f"Export the model with standard ONNX operators.{listed}"


def _attribute(attribute: onnx.AttributeProto, opset: int) -> Any:
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, GraphProto):
        return Interpreter.nested(value, opset)
    if isinstance(value, TensorProto):
        return from_proto(value)
    return value.decode() if isinstance(value, bytes) else value


def _execute(
    step: Step, values: Mapping[str, Tensor], mode: Mode, islands: Collection[str], model: Interpreter
) -> tuple[list[Tensor | None], list[Tensor]]:
    island = step.outputs[0] in islands
    floats = torch.float32 if island and mode.floats is torch.float16 else mode.floats
    inputs: list[Tensor | None] = []
    for name, half in zip(step.inputs, step.half_inputs, strict=True):
        kind = torch.float32 if floats is torch.float16 and not half else floats
        inputs.append(_convert(values[name], kind, mode, name in model.constants) if name else None)
    input_type = next((x.dtype for x in inputs if x is not None and x.is_floating_point()), None)
    result_type = floats or input_type
    rounds = mode.half_accumulation and result_type is torch.float16
    narrow = any(half for half in step.half_outputs)
    math = Arithmetic(rounds and narrow, mode.flush, mode.chunk)
    call = registry.OpCall(math, model.opset, len(step.outputs), floats)
    arguments = inputs if step.operator.moves else [_widen(x) for x in inputs]
    try:
        results = step.operator.function(call, *arguments, **_bound(step, values, mode, islands))
    except (RuntimeError, ValueError, IndexError, TypeError, KeyError, NotImplementedError) as error:
        raise ConversionError("interpret", str(error).split("\n")[0], node=step.name, op=step.op) from error
    outputs = list(results) if isinstance(results, tuple | list) else [results]
    if floats is None and step.operator.moves:
        return inputs, outputs
    kinds = [torch.float32 if floats is torch.float16 and not half else result_type for half in step.half_outputs]
    return inputs, [_convert(y, kind, mode, False) for y, kind in zip(outputs, kinds, strict=False)]


def _bound(step: Step, values: Mapping[str, Tensor], mode: Mode, islands: Collection[str]) -> Mapping[str, Any]:
    """Return the attributes of a step, its subgraphs as functions of their inputs."""
    if not any(isinstance(value, Interpreter) for value in step.attributes.values()):
        return step.attributes

    def function(body: Interpreter) -> Callable[..., list[Tensor]]:
        return lambda *arguments: body.call(arguments, values, mode, islands)

    return {k: function(v) if isinstance(v, Interpreter) else v for k, v in step.attributes.items()}


def _convert(x: Tensor, kind: torch.dtype | None, mode: Mode, constant: bool) -> Tensor:
    if kind is None or not x.is_floating_point() or x.dtype == kind:
        return x
    if kind is torch.float16:
        # A converter saturates finite constants; a computed value overflows.
        x = torch.where(x.isinf(), x, x.clamp(-HALF_MAX, HALF_MAX)) if constant else x
        return to_half(x, mode.flush)
    return x.to(kind)


def _widen(x: Tensor | None) -> Tensor | None:
    return x.float() if x is not None and x.dtype in _NARROW else x


def _export(x: Tensor, mode: Mode) -> Array:
    if x.dtype is torch.bfloat16 or (mode.floats is torch.float16 and x.dtype is torch.float16):
        x = x.float()
    return np.asarray(x.numpy())
