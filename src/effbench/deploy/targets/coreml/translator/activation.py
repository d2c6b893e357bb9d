"""ONNX operators that are activation functions."""

from __future__ import annotations

from typing import Any

import numpy as np

from effbench.deploy.targets.coreml.lazy import mb
from effbench.deploy.targets.coreml.translator.registry import Node, cast, dtype_of, like, operator, rank_of, shape_of


@operator("Elu")
def elu(node: Node) -> Any:
    """Use ``elu``."""
    x = node.tensor(0)
    return mb.elu(x=x, alpha=like(node.get("alpha", 1.0), x))


@operator("Celu")
def celu(node: Node) -> Any:
    """Scale ``elu``: alpha * elu(x / alpha)."""
    x, alpha = node.tensor(0), node.get("alpha", 1.0)
    return mb.mul(x=mb.elu(x=mb.mul(x=x, y=like(1 / alpha, x)), alpha=like(1, x)), y=like(alpha, x))


@operator("Selu")
def selu(node: Node) -> Any:
    """Scale ``elu`` with the published constants.

    Source: Klambauer et al. 2017, the values as ONNX rounds them to float32.
    """
    x = node.tensor(0)
    alpha, gamma = node.get("alpha", 1.6732631921768188), node.get("gamma", 1.0507010221481323)
    return mb.mul(x=mb.elu(x=x, alpha=like(alpha, x)), y=like(gamma, x))


@operator("LeakyRelu")
def leaky_relu(node: Node) -> Any:
    """Use ``leaky_relu``."""
    x = node.tensor(0)
    return mb.leaky_relu(x=x, alpha=like(node.get("alpha", 0.01), x))


@operator("PRelu")
def prelu(node: Node) -> Any:
    """Use ``prelu`` for a constant per channel, else scale the negative part."""
    x, slope = node.tensor(0), node.tensor(1)
    per_channel = isinstance(slope, np.ndarray) and rank_of(x) >= 3
    if per_channel and shape_of(slope) == (shape_of(x)[1],) + (1,) * (rank_of(x) - 2):
        return mb.prelu(x=x, alpha=slope.reshape(-1))
    negative = mb.mul(x=mb.minimum(x=x, y=like(0, x)), y=slope)
    return mb.add(x=mb.maximum(x=x, y=like(0, x)), y=negative)


@operator("HardSigmoid")
def hard_sigmoid(node: Node) -> Any:
    """Use ``sigmoid_hard``."""
    x = node.tensor(0)
    return mb.sigmoid_hard(x=x, alpha=like(node.get("alpha", 0.2), x), beta=like(node.get("beta", 0.5), x))


@operator("HardSwish")
def hard_swish(node: Node) -> Any:
    """Multiply by ``sigmoid_hard`` with a slope of 1/6."""
    x = node.tensor(0)
    return mb.mul(x=x, y=mb.sigmoid_hard(x=x, alpha=like(1 / 6, x), beta=like(0.5, x)))


@operator("Gelu")
def gelu(node: Node) -> Any:
    """Use ``gelu``, exact or by tanh."""
    approximate = _text(node.get("approximate", "none"))
    return mb.gelu(x=node.tensor(0), mode="TANH_APPROXIMATION" if approximate == "tanh" else "EXACT")


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


@operator("Mish")
def mish(node: Node) -> Any:
    """Return x * tanh(softplus(x))."""
    x = node.tensor(0)
    return mb.mul(x=x, y=mb.tanh(x=mb.softplus(x=x)))


@operator("Swish")
def swish(node: Node) -> Any:
    """Use ``silu``, or a sigmoid of a scaled argument if alpha is not 1."""
    x, alpha = node.tensor(0), node.get("alpha", 1.0)
    if alpha == 1.0:
        return mb.silu(x=x)
    return mb.mul(x=x, y=mb.sigmoid(x=mb.mul(x=x, y=like(alpha, x))))


@operator("ThresholdedRelu")
def thresholded_relu(node: Node) -> Any:
    """Keep values above alpha; MIL's operation also keeps alpha itself."""
    x = node.tensor(0)
    above = mb.greater(x=x, y=like(node.get("alpha", 1.0), x))
    return mb.mul(x=x, y=cast(above, dtype_of(x).name))


@operator("Shrink")
def shrink(node: Node) -> Any:
    """Move values outside -lambd ... lambd toward zero by the bias; the others become zero."""
    x, limit, bias = node.tensor(0), node.get("lambd", 0.5), node.get("bias", 0.0)
    above = cast(mb.greater(x=x, y=like(limit, x)), dtype_of(x).name)
    below = cast(mb.less(x=x, y=like(-limit, x)), dtype_of(x).name)
    upper = mb.mul(x=mb.sub(x=x, y=like(bias, x)), y=above)
    return mb.add(x=upper, y=mb.mul(x=mb.add(x=x, y=like(bias, x)), y=below))


def _rows(node: Node) -> tuple[Any, int, list[int] | None]:
    """Return the input, the axis, and the shape to restore: before opset 13 all axes from the stated one are joined."""
    x = node.tensor(0)
    if node.opset >= 13:
        return x, node.get("axis", -1), None
    axis = node.get("axis", 1) % rank_of(x)
    if axis == rank_of(x) - 1:
        return x, axis, None
    shape = list(shape_of(x))
    return mb.reshape(x=x, shape=[int(np.prod(shape[:axis])), -1]), 1, shape


def _restore(value: Any, shape: list[int] | None) -> Any:
    return value if shape is None else mb.reshape(x=value, shape=shape)


@operator("Softmax")
def softmax(node: Node) -> Any:
    """Use ``softmax``."""
    x, axis, shape = _rows(node)
    return _restore(mb.softmax(x=x, axis=axis), shape)


@operator("LogSoftmax")
def log_softmax(node: Node) -> Any:
    """Subtract the maximum, then the log of the sum of exponentials."""
    x, axis, shape = _rows(node)
    shifted = mb.sub(x=x, y=mb.reduce_max(x=x, axes=[axis], keep_dims=True))
    total = mb.reduce_sum(x=mb.exp(x=shifted), axes=[axis], keep_dims=True)
    return _restore(mb.sub(x=shifted, y=mb.log(x=total, epsilon=like(0, x))), shape)


@operator("Hardmax")
def hardmax(node: Node) -> Any:
    """Write 1 at the first maximum, 0 elsewhere."""
    x, axis, shape = _rows(node)
    indices = mb.reduce_argmax(x=x, axis=axis, keep_dims=False)
    size = shape_of(x)[axis]
    hot = mb.one_hot(indices=indices, one_hot_vector_size=size, axis=axis, on_value=like(1, x), off_value=like(0, x))
    return _restore(hot, shape)
