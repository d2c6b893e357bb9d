"""Does a runtime compute a quantized graph? Each part of the graph runs on the runtime's own levels.

The outputs of two right runtimes differ: a value near the border between two levels falls on either, and what follows
amplifies that. So the runtime is asked for the levels of every quantized activation. The interpreter runs the operators
between two of them on the runtime's own levels, and computes the value that is rounded next. That value may lie on the
other side of a border only by what rounding in fp32 explains, or the rounding of a bias to a 32-bit integer, which
kernels of int8 do. Each element is judged, so that no noise covers a fault.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from effbench.deploy import Array, Traced
from effbench.deploy.interpreter import Executed, Interpreter
from effbench.deploy.interpreter.types import from_numpy
from effbench.schema import OperatorFault
from effbench.threads import one_thread

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

ROUNDED = 5e-5
"""The error of sums in fp32 over all operators between two quantized activations, relative to the largest value."""
HALF_LEVEL = 0.5
SQUASHED = 1e-6
"""The absolute error of a sigmoid or softmax: runtimes approximate them between 0 and 1."""
SELECTING = {"TopK": 1, "ArgMax": 0, "ArgMin": 0, "NonMaxSuppression": 0}
"""Operators whose result is places, and which of their outputs these are."""
TIES, TIED = 2, 1e-3
"""Integers of an output, and the share of them, that may differ because values tie."""

_SQUASHING = ("Sigmoid", "Softmax", "HardSigmoid")


@dataclass(frozen=True)
class RuntimePairing:
    """How many quantized activations and outputs of a runtime were compared, and the faults."""

    compared: int
    faults: tuple[OperatorFault, ...]


def inner_tensors(model: ModelProto) -> tuple[str, ...]:
    """Return the tensors that a runtime is asked for: levels of activations, and places that an operator selects."""
    constants = {tensor.name for tensor in model.graph.initializer}
    names = []
    for node in model.graph.node:
        if node.op_type in SELECTING:
            names.append(node.output[SELECTING[node.op_type]])
        elif node.op_type == "QuantizeLinear" and node.input[0] not in constants:
            names.append(node.output[0])
    return tuple(names)


def pair_runtime(model: ModelProto, traced: Traced, feeds: Sequence[Mapping[str, Array]]) -> RuntimePairing:
    """Compare a runtime with the quantized graph that it was given, part by part.

    Args:
        model: The quantized graph.
        traced: The runtime. Activations that it does not return are not compared, nor replaced.
        feeds: Inputs, one batch each.

    Raises:
        ConversionError: The interpreter lacks an operator of the graph.
    """
    interpreter, biases = Interpreter(model), _IntegerBiases(model)
    outputs, inner = {value.name for value in model.graph.output}, set(inner_tensors(model))
    places = {step.outputs[SELECTING[step.op]] for step in interpreter.steps if step.op in SELECTING}
    compared: set[str] = set()
    faults: dict[str, OperatorFault] = {}
    with one_thread():
        for feed in feeds:
            observed = traced(feed)
            replaced = {name: from_numpy(value) for name, value in observed.items() if name in inner}
            for executed in interpreter.trace(feed, replaced=replaced):
                name = executed.step.outputs[0]
                if set(executed.step.outputs) & set(replaced) and executed.step.op in SELECTING:
                    fault = _selection_fault(executed, observed) or _output_fault(executed, observed, ties=False)
                elif name in replaced:
                    fault = _level_fault(executed, np.asarray(observed[name]), biases.steps_of(executed.step.inputs[0]))
                elif outputs & set(executed.step.outputs):
                    fault = _output_fault(executed, observed, ties=not places <= set(observed))
                else:
                    continue
                compared.add(name)
                if fault is not None and name not in faults:
                    faults[name] = fault
    return RuntimePairing(len(compared), tuple(faults.values()))


def _level_fault(executed: Executed, observed: Array, bias: float) -> OperatorFault | None:
    """Return the fault of levels that are further from the exact value than a rounding explains."""
    x, scale, zero = (
        np.zeros(1) if value is None else value.numpy().astype(np.float64) for value in (*executed.inputs, None)[:3]
    )
    axis = int(executed.step.attributes.get("axis", 1))
    shape = [-1 if i == axis % max(x.ndim, 1) else 1 for i in range(x.ndim)]
    scale, zero = (value.reshape(shape if value.size > 1 else [1] * x.ndim) for value in (scale, zero))
    bounds = np.iinfo(observed.dtype)
    exact = np.clip(x / scale + zero, bounds.min, bounds.max)
    moved = ROUNDED * float(np.abs(x).max(initial=0)) + bias
    error = np.abs(observed - exact) - moved / scale
    wrong = error > HALF_LEVEL
    if not wrong.any():
        return None
    place = int(error.argmax())
    index = [int(i) for i in np.unravel_index(place, error.shape)]
    return OperatorFault(
        executed.step.inputs[0],
        "QuantizeLinear",
        f"{int(wrong.sum())} of {wrong.size} levels are not those of the graph on the same inputs",
        element=f"{index}",
        expected=float(exact.reshape(-1)[place]),
        observed=float(observed.reshape(-1)[place]),
    )


def _selection_fault(executed: Executed, observed: Mapping[str, Array]) -> OperatorFault | None:
    """Return the fault of selected places: where values tie, any of them is right, and what follows reads the same."""
    step = executed.step
    name = step.outputs[SELECTING[step.op]]
    x = executed.inputs[0]
    if step.op == "NonMaxSuppression" or x is None:
        return None  # which boxes stay is judged at the outputs
    places = np.asarray(observed[name])
    axis = int(step.attributes.get("axis", -1 if step.op == "TopK" else 0))
    values = x.double().numpy()
    if step.op != "TopK":
        places = places.reshape([1 if i == axis % values.ndim else n for i, n in enumerate(values.shape)])
    have = np.take_along_axis(values, places, axis)
    best = executed.outputs[0].double().numpy() if step.op == "TopK" else None
    if best is None:
        best = values.max(axis, keepdims=True) if step.op == "ArgMax" else values.min(axis, keepdims=True)
    error = np.abs(have - best)
    if not error.size or error.max() <= ROUNDED * float(np.abs(values).max()):
        return None
    place = int(error.argmax())
    index = [int(i) for i in np.unravel_index(place, error.shape)]
    return OperatorFault(
        name,
        step.op,
        "it selects other values than the graph on the same levels",
        element=f"{index}",
        expected=float(best.reshape(-1)[place]),
        observed=float(have.reshape(-1)[place]),
    )


def _output_fault(executed: Executed, observed: Mapping[str, Array], ties: bool) -> OperatorFault | None:
    """Return the fault of a graph's output; ``ties`` tells whether a selection in front of it was not returned."""
    places = SELECTING.get(executed.step.op)
    selected = None if ties or places is None else executed.step.outputs[places]
    for name, value in zip(executed.step.outputs, executed.outputs, strict=False):
        if name not in observed or name == selected:
            continue
        want, have = value.double().numpy(), np.asarray(observed[name], np.float64)
        if want.shape != have.shape:
            text = f"the output has shape {list(have.shape)}, and the graph's {list(want.shape)} on the same levels"
            return OperatorFault(name, executed.step.op, text)
        error = np.abs(have - want)
        if not error.size:
            continue
        if value.is_floating_point():
            right = error.max() <= ROUNDED * float(np.abs(want).max()) + SQUASHED * (executed.step.op in _SQUASHING)
        else:  # ranks and labels fall either way where values tie
            right = np.count_nonzero(error) <= ties * max(TIES, TIED * error.size)
        if right:
            continue
        place = int(error.argmax())
        index = [int(i) for i in np.unravel_index(place, error.shape)]
        return OperatorFault(
            name,
            executed.step.op,
            "the output differs from the graph's on the same levels",
            element=f"{index}",
            expected=float(want.reshape(-1)[place]),
            observed=float(have.reshape(-1)[place]),
        )
    return None


class _IntegerBiases:
    """How far the rounding of a bias to a 32-bit integer may move a tensor."""

    def __init__(self, model: ModelProto) -> None:
        from onnx import numpy_helper

        self._constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        self._producers = {name: node for node in model.graph.node for name in node.output}

    def steps_of(self, name: str) -> float:
        """Return half a step of the bias of the product that a tensor comes from; 0 if it comes from none."""
        node = self._producers.get(name)
        while node is not None and node.op_type in ("Relu", "Clip", "Add"):
            node = self._producers.get(node.input[0])
        if node is None or len(node.input) < 3 or node.op_type not in ("Conv", "Gemm"):
            return 0.0
        scales = [self._scale(name) for name in node.input[:2]]
        return 0.0 if None in scales else float(scales[0] * scales[1]) / 2  # type: ignore[operator]

    def _scale(self, name: str) -> float | None:
        node: NodeProto | None = self._producers.get(name)
        if node is None or node.op_type != "DequantizeLinear":
            return None
        return float(np.max(self._constants[node.input[1]]))
