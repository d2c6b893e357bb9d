"""The noise that each operator of a graph makes at the outputs, in another form of the graph or in half precision.

The error of an operator is measured at its own output, with the exact tensors as inputs. Its effect on the graph's
outputs follows from their derivatives: one backward pass per random sum of outputs gives them for all operators at
once. That takes seconds where running a graph for each operator takes minutes. The noise has to be small, as
derivatives are linear.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from effbench.deploy import Array
from effbench.deploy.interpreter import Interpreter
from effbench.deploy.interpreter.arithmetic import to_half
from effbench.errors import ConversionError
from effbench.threads import one_thread

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch import Tensor

SUMS = 4
"""Random sums of the outputs, per batch: enough for an order of the operators."""
TINY = 1e-30

Errors = Iterator[tuple[str, tuple["Tensor", ...]]]
"""Operators by their first output, and the errors of that output, one for each kind of error."""


def quantization_noise(
    model: ModelProto, other: ModelProto, batches: Sequence[Mapping[str, Array]]
) -> dict[str, float]:
    """Return the power of the noise that each operator of another graph makes at the outputs, by its first output.

    Args:
        model: The exact graph.
        other: Nearly the same graph, such as its quantized form; tensors of the same name correspond.
        batches: Preprocessed inputs.

    Returns:
        Power per operator, relative to the mean square of the outputs; infinite if its result is not finite. Operators
        without any error are left out.

    Raises:
        ConversionError: The interpreter lacks an operator of the graphs, or torch its derivative.
    """
    changed = Interpreter(other)

    def errors(feed: Mapping[str, Array], exact: Mapping[str, Tensor]) -> Errors:
        for executed in changed.trace(feed, replaced=exact):
            name = executed.step.outputs[0]
            if name in exact:
                yield name, (executed.outputs[0] - exact[name],)

    return {name: power for name, (power,) in _at_outputs(Interpreter(model), batches, errors).items()}


def rounding_noise(
    interpreter: Interpreter, batches: Sequence[Mapping[str, Array]], mode: str
) -> dict[str, tuple[float, float]]:
    """Return the power of the noise that each operator makes at the outputs in half precision, by its first output.

    Args:
        interpreter: The graph.
        batches: Preprocessed inputs.
        mode: A half mode of the interpreter.

    Returns:
        Two powers per operator, in units as in `quantization_noise`. The first is that of computing in half precision,
        which vanishes if the operator computes in float32. The second is that of storing its result in half precision,
        which vanishes only if its readers take float32.

    Raises:
        ConversionError: The interpreter lacks an operator of the graph, or torch its derivative.
    """

    def errors(feed: Mapping[str, Array], exact: Mapping[str, Tensor]) -> Errors:
        inputs = {name: to_half(value, True).to(value.dtype) for name, value in exact.items()}
        runs = (interpreter.trace(feed, run_mode, replaced=inputs) for run_mode in (mode, "float32"))
        for half, single in zip(*runs, strict=True):
            name = single.step.outputs[0]
            if name in exact:
                stored = to_half(single.outputs[0], True).float()
                yield name, (half.outputs[0].float() - stored, stored - single.outputs[0])

    powers = _at_outputs(interpreter, batches, errors)
    return {name: (computing, storing) for name, (computing, storing) in powers.items()}


def _at_outputs(
    interpreter: Interpreter,
    batches: Sequence[Mapping[str, Array]],
    errors: Callable[[Mapping[str, Array], Mapping[str, Tensor]], Errors],
) -> dict[str, list[float]]:
    """Return the power at the graph's outputs of each kind of error at the operators' own outputs.

    ``errors`` takes the inputs and the exact tensors by name.
    """
    signs = torch.Generator().manual_seed(0)
    powers: dict[str, list[float]] = {}
    with one_thread():
        for feed in batches:
            tensors = {
                name: value
                for executed in interpreter.trace(feed, grad=True)
                for name, value in zip(executed.step.outputs, executed.outputs, strict=False)
                if name and value.requires_grad
            }
            exact = {name: value.detach() for name, value in tensors.items()}
            nonzero = {name: kinds for name, kinds in errors(feed, exact) if any(kind.any() for kind in kinds)}
            if not nonzero:
                continue
            outputs = [tensors[name] for name in interpreter.outputs if name in tensors]
            for _ in range(SUMS):
                gradients = _gradients(_random_sum(outputs, signs), [tensors[name] for name in nonzero])
                for (name, kinds), gradient in zip(nonzero.items(), gradients, strict=True):
                    if gradient is not None:
                        terms = [float((gradient * kind).sum()) ** 2 / (SUMS * len(batches)) for kind in kinds]
                        finite = [term if math.isfinite(term) else math.inf for term in terms]
                        before = powers.get(name, [0.0] * len(kinds))
                        powers[name] = [a + b for a, b in zip(before, finite, strict=True)]
    return powers


def _random_sum(outputs: Sequence[Tensor], signs: torch.Generator) -> Tensor:
    """Return the sum of all elements with random signs, each output scaled by its root mean square to count alike."""
    total = torch.zeros(())
    for output in outputs:
        scale = output.detach().square().mean().sqrt().clamp_min(TINY)
        flips = torch.randint(0, 2, output.shape, generator=signs) * 2 - 1
        total = total + (output * flips).sum() / (scale * flips.numel() ** 0.5)
    return total


def _gradients(total: Tensor, tensors: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
    try:
        return torch.autograd.grad(total, tensors, retain_graph=True, allow_unused=True)
    except RuntimeError as error:  # an operator of torch that has no derivative
        raise ConversionError("derivatives", str(error).splitlines()[0]) from error
