"""Defects of half precision, injected by mechanism into real graphs.

Each defect is a small subgraph that is accurate in float32 and not in half precision. It reads a tensor of a backbone,
whose range is known, and its result replaces the tensor.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, helper, numpy_helper

from effbench.deploy import Array


@dataclass
class Patch:
    """A tensor of a graph, with its shape and range, and the nodes that replace it."""

    model: ModelProto
    tensor: str
    shape: tuple[int, ...]
    largest: float
    rms: float
    nodes: list[onnx.NodeProto] = field(default_factory=list)

    @property
    def channel(self) -> int:
        """Axis of the channels: 1 of (B, C, H, W), 2 of (B, N, C)."""
        return 1 if len(self.shape) == 4 else 2

    @property
    def pixels(self) -> list[int]:
        """Axes of the pixels or tokens."""
        return [2, 3] if len(self.shape) == 4 else [1]

    def op(self, kind: str, *inputs: str | float | list[int] | Array, **attributes: Any) -> str:
        """Add a node and return its output; numbers become float constants, integer lists int64, arrays their type."""
        names = [value if isinstance(value, str) else self._constant(value) for value in inputs]
        name = f"defect/{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, names, [name], name=name, **attributes))
        return name

    def _constant(self, value: float | list[int] | Array) -> str:
        kind = np.int64 if isinstance(value, list) else np.float32
        array = value if isinstance(value, np.ndarray) else np.array(value, kind)
        name = f"defect_constant_{len(self.model.graph.initializer)}"
        self.model.graph.initializer.append(numpy_helper.from_array(array, name))
        return name

    def apply(self, result: str) -> ModelProto:
        """Insert the nodes; every reader of the tensor reads the result instead."""
        graph = self.model.graph
        for node in graph.node:
            node.input[:] = [result if name == self.tensor else name for name in node.input]
        position = 1 + next(i for i, node in enumerate(graph.node) if self.tensor in node.output)
        nodes = [*graph.node[:position], *self.nodes, *graph.node[position:]]
        del graph.node[:]
        graph.node.extend(nodes)
        return self.model


def scale_up(p: Patch) -> str:
    """Multiply far beyond the range, then divide again."""
    large = p.op("Mul", p.op("Mul", p.tensor, 1e3 / p.largest), 1e3)
    return p.op("Div", p.op("Div", large, 1e3), 1e3 / p.largest)


def sum_of_squares(p: Patch) -> str:
    """Divide by a norm whose sum of squares exceeds the range."""
    x = p.op("Mul", p.tensor, 600 / p.rms)
    total = p.op("ReduceSum", p.op("Mul", x, x), [p.channel])
    norm = p.op("Sqrt", p.op("Add", total, 1.0))
    return p.op("Div", x, norm)


def raw_softmax(p: Patch) -> str:
    """Take a softmax over channels without subtracting the maximum: exp(14) is beyond the range."""
    powers = p.op("Exp", p.op("Mul", p.op("Abs", p.tensor), 14 / p.largest))
    return p.op("Add", p.tensor, p.op("Div", powers, p.op("ReduceSum", powers, [p.channel])))


def naive_softplus(p: Patch) -> str:
    """Compute log(1 + exp(x)) as it is written."""
    x = p.op("Mul", p.op("Abs", p.tensor), 15 / p.largest)
    return p.op("Log", p.op("Add", p.op("Exp", x), 1.0))


def cube(p: Patch) -> str:
    """Raise to the third power as focused linear attention does, then scale back."""
    x = p.op("Mul", p.tensor, 90 / p.largest)
    return p.op("Mul", p.op("Mul", p.op("Mul", x, x), x), p.largest / 90**3)


def tokens_by_channels(p: Patch, x: str) -> str:
    """Return a tensor as (B, N, C)."""
    batch, channels = p.shape[0], p.shape[p.channel]
    if len(p.shape) == 3:
        return x
    return p.op("Transpose", p.op("Reshape", x, [batch, channels, -1]), perm=[0, 2, 1])


def padded_attention(p: Patch) -> str:
    """Linear attention whose denominator is a column of ones appended to the values, with large features."""
    value = tokens_by_channels(p, p.tensor)
    count = math.prod(p.shape[a] for a in p.pixels)
    key = p.op("Relu", p.op("Mul", value, math.sqrt(4e5 / count / p.shape[p.channel]) / p.rms))
    ones = p.op("Expand", 1.0, [p.shape[0], count, 1])
    padded = p.op("Concat", value, ones, axis=2)
    state = p.op("MatMul", p.op("Transpose", key, perm=[0, 2, 1]), padded)
    mixed = p.op("MatMul", key, state)
    channels = p.shape[p.channel]
    numerator = p.op("Slice", mixed, [0], [channels], [2])
    denominator = p.op("Slice", mixed, [channels], [channels + 1], [2])
    out = p.op("Div", numerator, p.op("Add", denominator, 0.1))
    if len(p.shape) == 4:
        out = p.op("Reshape", p.op("Transpose", out, perm=[0, 2, 1]), list(p.shape))
    return p.op("Add", p.tensor, out)


def mean_by_sum(p: Patch) -> str:
    """Take a mean as a sum divided by the count; the sum is beyond the range."""
    count = math.prod(p.shape[a] for a in (p.channel, *p.pixels))
    lifted = p.op("Add", p.op("Mul", p.tensor, 1e6 / count / p.rms), 2e5 / count)
    total = p.op("ReduceSum", p.op("Abs", lifted), [p.channel, *p.pixels])
    return p.op("Div", lifted, p.op("Div", total, float(count)))


def huge_reciprocal(p: Patch) -> str:
    """Multiply by the reciprocal of a small number."""
    tiny = p.op("Add", p.op("Abs", p.op("Mul", p.tensor, 1e-6 / p.rms)), 5e-6)
    return p.op("Mul", p.op("Mul", p.op("Reciprocal", tiny), 5e-6), p.tensor)


def dead_epsilon(p: Patch) -> str:
    """Divide zeros by the root of zero plus an epsilon that half precision loses."""
    zeros = p.op("Relu", p.op("Sub", p.tensor, 2 * p.largest))
    square = p.op("ReduceSum", p.op("Mul", zeros, zeros), [p.channel])
    unit = p.op("Div", zeros, p.op("Sqrt", p.op("Add", square, 1e-10)))
    return p.op("Add", p.tensor, unit)


def clipped_norm(p: Patch) -> str:
    """Normalize as F.normalize does, zero / max(norm, 1e-12)."""
    zeros = p.op("Relu", p.op("Sub", p.tensor, 2 * p.largest))
    norm = p.op("ReduceL2", zeros, [p.channel])
    return p.op("Add", p.tensor, p.op("Div", zeros, p.op("Max", norm, 1e-12)))


def log_of_zero(p: Patch) -> str:
    """Take the logarithm of zero plus an epsilon."""
    zeros = p.op("Relu", p.op("Sub", p.tensor, 2 * p.largest))
    return p.op("Add", p.tensor, p.op("Mul", p.op("Log", p.op("Add", zeros, 1e-8)), 0.01 * p.rms))


def tiny_product(p: Patch) -> str:
    """Multiply small numbers, then scale up."""
    small = p.op("Mul", p.tensor, 1e-3 / p.rms)
    return p.op("Mul", p.op("Mul", small, 1e-5), 1e8 * p.rms)


def tiny_variance(p: Patch) -> str:
    """Standardize what is small: its variance is far below the range."""
    x = p.op("Mul", p.tensor, 1e-3 / p.rms)
    centered = p.op("Sub", x, p.op("ReduceMean", x, [p.channel]))
    variance = p.op("ReduceMean", p.op("Mul", centered, centered), [p.channel])
    return p.op("Div", centered, p.op("Sqrt", p.op("Add", variance, 1e-12)))


def tiny_layer_norm(p: Patch) -> str:
    """Give a normalization operator inputs below the range."""
    x = tokens_by_channels(p, p.op("Mul", p.tensor, 1e-5 / p.rms))
    channels = p.shape[p.channel]
    ones = p.op("Expand", 1.0, [channels])
    out = p.op("LayerNormalization", x, ones, axis=-1, epsilon=1e-12)
    return p.op("Reshape", p.op("Transpose", out, perm=[0, 2, 1]), list(p.shape)) if len(p.shape) == 4 else out


def variance_of_large_mean(p: Patch) -> str:
    """Compute a variance as E[x^2] - E[x]^2 far from zero."""
    x = p.op("Add", p.op("Div", p.tensor, p.rms), 100.0)
    mean = p.op("ReduceMean", x, [p.channel])
    square = p.op("ReduceMean", p.op("Mul", x, x), [p.channel])
    variance = p.op("Sub", square, p.op("Mul", mean, mean))
    return p.op("Div", p.tensor, p.op("Sqrt", p.op("Add", p.op("Abs", variance), 0.01)))


def swamped(p: Patch) -> str:
    """Add a large number and subtract it again."""
    return p.op("Sub", p.op("Add", p.tensor, 2000 * p.rms), 2000 * p.rms)


def difference_of_squares(p: Patch) -> str:
    """Compute 4ax as (x + a)^2 - (x - a)^2."""
    x = p.op("Div", p.tensor, p.rms)
    plus, minus = p.op("Add", x, 200.0), p.op("Sub", x, 200.0)
    return p.op("Div", p.op("Sub", p.op("Mul", plus, plus), p.op("Mul", minus, minus)), 800 / p.rms)


def position_offset(p: Patch) -> str:
    """Add large coordinates to the values and subtract them again."""
    axis = p.pixels[0]
    shape = [1] * len(p.shape)
    shape[axis] = p.shape[axis]
    index = p.op("Reshape", p.op("Cast", p.op("Range", *(np.array(n) for n in (0, p.shape[axis], 1))), to=1), shape)
    grid = p.op("Add", p.op("Mul", index, 100.0), 1000.0)
    x = p.op("Add", p.op("Div", p.tensor, p.rms), grid)
    return p.op("Mul", p.op("Sub", x, grid), p.rms)


@dataclass(frozen=True)
class Defect:
    """A function that injects the defect, and the mechanisms that describe it correctly."""

    inject: Callable[[Patch], str]
    mechanisms: tuple[str, ...]

    @property
    def name(self) -> str:
        """The defect's name."""
        return self.inject.__name__.replace("_", " ")


DEFECTS = {
    "tuning": (
        Defect(scale_up, ("overflow",)),
        Defect(raw_softmax, ("overflow",)),
        Defect(cube, ("overflow",)),
        Defect(mean_by_sum, ("overflow",)),
        Defect(dead_epsilon, ("underflow",)),
        Defect(log_of_zero, ("underflow",)),
        Defect(tiny_variance, ("underflow",)),
        Defect(variance_of_large_mean, ("cancellation", "overflow")),  # the half sum of the squares overflows too
        Defect(swamped, ("cancellation",)),
    ),
    "held out": (
        Defect(sum_of_squares, ("overflow",)),
        Defect(naive_softplus, ("overflow",)),
        Defect(padded_attention, ("overflow",)),
        Defect(huge_reciprocal, ("overflow", "underflow")),
        Defect(clipped_norm, ("underflow",)),
        Defect(tiny_product, ("underflow", "overflow")),  # its factor of 1e8 is beyond the range
        Defect(tiny_layer_norm, ("underflow",)),
        Defect(difference_of_squares, ("cancellation", "overflow")),
        Defect(position_offset, ("cancellation",)),
    ),
}
"""Thresholds were chosen on the tuning half alone; the held-out half has other mechanisms and other families."""
