"""How much of the noise at a graph's outputs each of its operators makes: in another form of it, or in half precision.

What an operator adds is seen at its own output: it is given the exact tensors. What becomes of that at the graph's
outputs follows from their derivatives, which one backward pass per random sum of outputs gives for all operators at
once. So it takes seconds where running a graph for each operator takes minutes; the noise has to be small, as a
derivative sees it.
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
"""Random sums of the outputs, per batch: an order is wanted and no figure."""
TINY = 1e-30

Errors = Iterator[tuple[str, tuple["Tensor", ...]]]
"""Operators by their first output, and what is wrong with it: one error for each kind."""


def noise(model: ModelProto, other: ModelProto, batches: Sequence[Mapping[str, Array]]) -> dict[str, float]:
    """Return the power of the noise that each operator of another graph makes at the outputs, by its first output.

    Args:
        model: The exact graph.
        other: Nearly the same one, such as its quantized form; tensors of one name stand for each other.
        batches: Preprocessed inputs.

    Returns:
        Power per operator, in units of the outputs' own mean square; infinite of one whose result is not finite. What
        differs in nothing is left out.

    Raises:
        ConversionError: The interpreter lacks an operator of the graphs, or torch its derivative.
    """
    changed = Interpreter(other)

    def errors(feed: Mapping[str, Array], known: Mapping[str, Tensor]) -> Errors:
        for done in changed.trace(feed, replaced=known):
            name = done.step.outputs[0]
            if name in known:
                yield name, (done.outputs[0] - known[name],)

    return {name: power for name, (power,) in _at_outputs(Interpreter(model), batches, errors).items()}


def rounding(exact: Interpreter, batches: Sequence[Mapping[str, Array]], mode: str) -> dict[str, tuple[float, float]]:
    """Return the power of the noise that each operator makes at the outputs in half precision, by its first output.

    Args:
        exact: The graph.
        batches: Preprocessed inputs.
        mode: A half mode of the interpreter.

    Returns:
        Two powers per operator, in units as in `noise`: of computing in half precision, which an operator that
        computes in float32 does not make, and of storing its result so, which goes only if its readers take float32.

    Raises:
        ConversionError: The interpreter lacks an operator of the graph, or torch its derivative.
    """

    def errors(feed: Mapping[str, Array], known: Mapping[str, Tensor]) -> Errors:
        given = {name: to_half(value, True).to(value.dtype) for name, value in known.items()}
        runs = (exact.trace(feed, how, replaced=given) for how in (mode, "float32"))
        for half, full in zip(*runs, strict=True):
            name = full.step.outputs[0]
            if name in known:
                stored = to_half(full.outputs[0], True).float()
                yield name, (half.outputs[0].float() - stored, stored - full.outputs[0])

    found = _at_outputs(exact, batches, errors)
    return {name: (computing, storing) for name, (computing, storing) in found.items()}


def _at_outputs(
    exact: Interpreter,
    batches: Sequence[Mapping[str, Array]],
    errors: Callable[[Mapping[str, Array], Mapping[str, Tensor]], Errors],
) -> dict[str, list[float]]:
    """Return what errors at the operators' own results, of inputs and exact tensors, become at the outputs."""
    signs = torch.Generator().manual_seed(0)
    found: dict[str, list[float]] = {}
    with one_thread():
        for feed in batches:
            made = {
                name: value
                for done in exact.trace(feed, grad=True)
                for name, value in zip(done.step.outputs, done.outputs, strict=False)
                if name and value.requires_grad
            }
            known = {name: value.detach() for name, value in made.items()}
            wrong = {name: kinds for name, kinds in errors(feed, known) if any(kind.any() for kind in kinds)}
            if not wrong:
                continue
            outputs = [made[name] for name in exact.outputs if name in made]
            for _ in range(SUMS):
                slopes = _slopes(_random_sum(outputs, signs), [made[name] for name in wrong])
                for (name, kinds), slope in zip(wrong.items(), slopes, strict=True):
                    if slope is not None:
                        powers = [float((slope * kind).sum()) ** 2 / (SUMS * len(batches)) for kind in kinds]
                        finite = [power if math.isfinite(power) else math.inf for power in powers]
                        before = found.get(name, [0.0] * len(kinds))
                        found[name] = [a + b for a, b in zip(before, finite, strict=True)]
    return found


def _random_sum(outputs: Sequence[Tensor], signs: torch.Generator) -> Tensor:
    """Return the sum of all elements with random signs, each output in units of its own size: several count alike."""
    total = torch.zeros(())
    for output in outputs:
        scale = output.detach().square().mean().sqrt().clamp_min(TINY)
        flips = torch.randint(0, 2, output.shape, generator=signs) * 2 - 1
        total = total + (output * flips).sum() / (scale * flips.numel() ** 0.5)
    return total


def _slopes(total: Tensor, tensors: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
    try:
        return torch.autograd.grad(total, tensors, retain_graph=True, allow_unused=True)
    except RuntimeError as error:  # an operator of torch that has no derivative
        raise ConversionError("derivatives", str(error).splitlines()[0]) from error
