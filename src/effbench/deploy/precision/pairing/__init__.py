"""Is a quantized graph its float graph, operator by operator, but for what quantization explains?

The two graphs are paired by the names of tensors. Three comparisons follow, none of which the noise of other operators
reaches:

- **Operators.** Each operator of the float graph runs on the quantized graph's own inputs and dequantized weights. What
  remains is rounding in fp32.
- **Activations.** A tensor before and after Q/DQ differs by half a step, except where it is clipped.
- **Constants.** A dequantized constant differs from the float one by about a step, at random: what all of its values
  have in common is no rounding. The bias of quantized weights may make up for their mean error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from effbench.deploy import Array
from effbench.deploy.interpreter import Interpreter
from effbench.deploy.interpreter.types import from_numpy
from effbench.deploy.precision.pairing.constants import bias_fault, constant_faults
from effbench.deploy.precision.pairing.graphs import BORDER, Border, PairedGraphs
from effbench.schema import OperatorFault
from effbench.threads import one_thread

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch import Tensor

SAME = 1e-6
"""The error of an operator on the same inputs, relative to its largest value; the same code computes both."""
REWRITTEN = 5e-5
"""The same where the quantizer replaced operators by one of another type, which rounds otherwise."""
CLIPPED = 0.05
"""The share of a tensor's values that Q/DQ may clip, over all images."""
FEW = 3
"""Values that it may clip in any tensor."""
HALF_STEP = 0.51
"""The error of Q/DQ in steps, with the rounding of the division."""


@dataclass(frozen=True)
class Pairing:
    """How many operators were compared, those without a pair, and the faults."""

    compared: int
    unpaired: tuple[str, ...]
    faults: tuple[OperatorFault, ...]


def pair(model: ModelProto, quantized: ModelProto, feeds: Sequence[Mapping[str, Array]]) -> Pairing:
    """Compare a quantized graph with its float graph, operator by operator.

    Args:
        model: The float graph.
        quantized: The same graph with Q/DQ.
        feeds: Inputs inside of the ranges that the scales were taken from.

    Raises:
        ConversionError: The interpreter lacks an operator of the graphs.
    """
    graphs = PairedGraphs(model, quantized)
    twin, after, exact = Interpreter(graphs.twin), Interpreter(quantized), Interpreter(model)
    means = _MeanErrors(graphs)
    operators: dict[str, OperatorFault] = {}
    borders = [_BorderCheck(border, graphs) for border in graphs.borders]
    values: dict[str, Any] = {}
    with one_thread():
        for feed in feeds:
            values = after.constants | {name: from_numpy(value) for name, value in feed.items()}
            for executed in after.trace(feed):
                values.update((name, y) for name, y in zip(executed.step.outputs, executed.outputs, strict=False))
            for border in borders:
                border.add(values[border.before].numpy(), values[border.after].numpy())
            fed = {name: values[other].numpy() for name, other in graphs.fed.items()}
            means.add(exact, feed, values)
            replaced = {name: values[other] for name, other in graphs.as_read.items()}
            for executed in twin.trace({**feed, **fed}, replaced=replaced):
                for name, y in zip(executed.step.outputs, executed.outputs, strict=False):
                    if name in graphs.computed and name not in operators:
                        want, have = y.numpy(), values[graphs.computed[name]].numpy()
                        limit = SAME if name in graphs.operators else REWRITTEN
                        fault = _operator_fault(graphs.operators.get(name, name), executed.step.op, want, have, limit)
                        if fault is not None:
                            operators[name] = fault
    faults = [*operators.values()]
    faults += [fault for border in borders if (fault := border.fault()) is not None]
    for constant in graphs.constants:
        step = None if constant.dequantizer is None else graphs.step(constant.dequantizer, constant.exact.ndim)
        stored = values[constant.source].numpy()
        faults += constant_faults(constant, stored, step)
        if constant.compensated and (mean := means.of(constant.operator)) is not None:
            fault = bias_fault(constant, stored, mean)
            faults += [] if fault is None else [fault]
    return Pairing(len(graphs.operators), tuple(graphs.unpaired), tuple(faults))


def _operator_fault(name: str, op: str, want: Array, have: Array, limit: float) -> OperatorFault | None:
    if want.shape != have.shape:
        return OperatorFault(name, op, f"its result has shape {list(have.shape)}, expected {list(want.shape)}")
    if not np.issubdtype(want.dtype, np.floating):
        error: Array = (want != have).astype(np.float64)
        allowed = 0.0
    else:
        error = np.abs(np.nan_to_num(have.astype(np.float64)) - np.nan_to_num(want.astype(np.float64)))
        allowed = limit * float(np.abs(np.nan_to_num(want)).max(initial=0))
    if not error.size or error.max() <= allowed:
        return None
    place = int(error.argmax())
    index = [int(i) for i in np.unravel_index(place, error.shape)]
    return OperatorFault(
        name,
        op,
        "its result differs from the float operator's on the same inputs",
        element=f"{index}",
        expected=float(want.reshape(-1)[place]),
        observed=float(have.reshape(-1)[place]),
    )


class _MeanErrors:
    """Collects the mean error by channel of operators with quantized weights, against float ones on exact inputs."""

    def __init__(self, graphs: PairedGraphs) -> None:
        names = {constant.operator for constant in graphs.constants if constant.compensated}
        self._graphs = graphs
        self._outputs = {output for output, name in graphs.operators.items() if name in names}
        self._sums: dict[str, list[Array]] = {}

    def add(self, exact: Interpreter, feed: Mapping[str, Array], values: Mapping[str, Tensor]) -> None:
        """Run the float operators on one image's tensors of the quantized graph, before Q/DQ."""
        if not self._outputs:
            return
        replaced = {name: values[other] for name, other in self._graphs.computed.items()}
        for executed in exact.trace(feed, replaced=replaced):
            name = executed.step.outputs[0]
            if name in self._outputs:
                error = (replaced[name] - executed.outputs[0]).double().numpy()
                channels = np.moveaxis(error, 1 if executed.step.op == "Conv" else -1, 0)
                mean = channels.reshape(len(channels), -1).mean(axis=1)
                self._sums.setdefault(self._graphs.operators[name], []).append(mean)

    def of(self, operator: str) -> Array | None:
        """Return the mean over all images."""
        return np.mean(self._sums[operator], axis=0) if operator in self._sums else None


class _BorderCheck:
    """Collects how far a tensor after Q/DQ is from the one before."""

    def __init__(self, border: Border, graphs: PairedGraphs) -> None:
        self.before, self.after, self._graphs, self._border = border.before, border.after, graphs, border
        self._clipped = self._count = 0
        self._fault: OperatorFault | None = None

    def add(self, before: Array, after: Array) -> None:
        """Compare one image's tensor."""
        step = self._graphs.step(self._border.quantizer, before.ndim)
        low, high = self._range(before.ndim, step)
        clipped = (before < low - step / 2) | (before > high + step / 2)
        self._clipped += int(clipped.sum())
        self._count += before.size
        error = np.where(clipped, 0, np.abs(after - before.astype(np.float64)) / step)
        worst = int(error.argmax()) if error.size else 0
        if error.size and error.reshape(-1)[worst] > HALF_STEP and self._fault is None:
            index = [int(i) for i in np.unravel_index(worst, error.shape)]
            self._fault = OperatorFault(
                self.before,
                "QuantizeLinear",
                f"Q/DQ changes a value by {error.reshape(-1)[worst]:.2f} steps",
                element=f"{index}",
                expected=float(before.reshape(-1)[worst]),
                observed=float(after.reshape(-1)[worst]),
            )

    def _range(self, rank: int, step: Array) -> tuple[Array, Array]:
        node, stored = self._border.quantizer, self._graphs.stored
        zero = stored[node.input[2]] if len(node.input) > 2 else np.zeros((), np.uint8)
        bounds = np.iinfo(zero.dtype)
        shaped = zero.astype(np.float64).reshape(step.shape if zero.size > 1 else [1] * rank)
        return (bounds.min - shaped) * step, (bounds.max - shaped) * step

    def fault(self) -> OperatorFault | None:
        """Return what half a step and rare clipping do not explain."""
        if self._fault is not None or self._border.may_clip or self._clipped <= CLIPPED * self._count + FEW:
            return self._fault
        share = self._clipped / self._count
        return OperatorFault(self.before, "QuantizeLinear", f"Q/DQ clips {100 * share:.1f} % of its values", poor=True)


__all__ = ["BORDER", "Pairing", "pair"]
