"""How much of the noise at a graph's outputs each of its operators makes, where another graph computes it differently.

What an operator adds is seen at its own output: it is given the exact tensors. What becomes of that at the graph's
outputs follows from their derivatives, which one backward pass per random sum of outputs gives for all operators at
once. So it takes seconds where running a graph for each operator takes minutes; the noise has to be small, as a
derivative sees it.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from effbench.deploy import Array
from effbench.deploy.interpreter import Interpreter

if TYPE_CHECKING:
    from onnx import ModelProto

SUMS = 16
"""Random sums of the outputs, per batch."""
TINY = 1e-30


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
        ConversionError: The interpreter lacks an operator of the graphs.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # many small products: beside other work, threads would wait for each other
    try:
        return _noise(Interpreter(model), Interpreter(other), batches)
    finally:
        torch.set_num_threads(threads)


def _noise(exact: Interpreter, changed: Interpreter, batches: Sequence[Mapping[str, Array]]) -> dict[str, float]:
    import torch

    signs = torch.Generator().manual_seed(0)
    found: defaultdict[str, float] = defaultdict(float)
    for feed in batches:
        made = {
            name: value
            for done in exact.trace(feed, grad=True)
            for name, value in zip(done.step.outputs, done.outputs, strict=False)
            if name and value.requires_grad
        }
        known = {name: value.detach() for name, value in made.items()}
        errors = {}
        for done in changed.trace(feed, replaced=known):
            name = done.step.outputs[0]
            if name in known and (error := done.outputs[0] - known[name]).any():
                errors[name] = error
        if not errors:
            continue
        outputs = [
            made[name] / known[name].square().mean().sqrt().clamp_min(TINY) for name in exact.outputs if name in made
        ]
        for _ in range(SUMS):
            flips = [torch.randint(0, 2, value.shape, generator=signs) * 2 - 1 for value in outputs]
            total = sum((value * flip).sum() / value.numel() ** 0.5 for value, flip in zip(outputs, flips, strict=True))
            slopes = torch.autograd.grad(total, [made[name] for name in errors], retain_graph=True, allow_unused=True)
            for (name, error), slope in zip(errors.items(), slopes, strict=True):
                if slope is not None:
                    power = float((slope * error).sum()) ** 2 / (SUMS * len(batches))
                    found[name] += power if math.isfinite(power) else math.inf
    return dict(found)
