"""ONNX operators that normalize."""

from __future__ import annotations

from typing import Any

import numpy as np

from effbench.deploy.targets.coreml.lazy import mb
from effbench.deploy.targets.coreml.translator.registry import Node, cast, dtype_of, like, operator, rank_of, shape_of


def per_channel(value: Any, rank: int) -> Any:
    """Reshape a vector of per-channel values (axis 1) so that it broadcasts."""
    shape = [1, -1] + [1] * (rank - 2)
    return value.reshape(shape) if isinstance(value, np.ndarray) else mb.reshape(x=value, shape=shape)


@operator("BatchNormalization")
def batch_norm(node: Node) -> Any:
    """Use ``batch_norm`` with constant statistics, else the formula.

    Raises:
        ConversionError: The node is in training mode.
    """
    if node.get("training_mode", 0):
        raise node.error("is in training mode; export the model in eval mode")
    x, (gamma, beta, mean, variance) = node.tensor(0), [node.tensor(i) for i in range(1, 5)]
    epsilon = like(node.get("epsilon", 1e-5), x)
    if all(node.known(i) for i in range(1, 5)) and 3 <= rank_of(x) <= 5:
        dtype = dtype_of(x)
        parts = {"gamma": gamma, "beta": beta, "mean": mean, "variance": variance}
        return mb.batch_norm(x=x, epsilon=epsilon, **{key: part.astype(dtype) for key, part in parts.items()})
    gamma, beta, mean, variance = (per_channel(part, rank_of(x)) for part in (gamma, beta, mean, variance))
    scaled = mb.real_div(x=mb.sub(x=x, y=mean), y=mb.sqrt(x=mb.add(x=variance, y=epsilon)))
    return mb.add(x=mb.mul(x=scaled, y=gamma), y=beta)


@operator("LayerNormalization")
def layer_norm(node: Node) -> Any:
    """Use ``layer_norm``, with scale and shift if they are constants of the normalized shape."""
    x = node.tensor(0)
    rank, eps = rank_of(x), node.get("epsilon", 1e-5)
    axes = list(range(node.get("axis", -1) % rank, rank))
    if dtype_of(x) == np.float16 and np.float16(eps) == 0:
        # Half precision cannot represent the epsilon; the node's stash type requires float32 inside.
        return _wide_layer_norm(node, axes)
    results = [_layer_norm(node, x, axes, [node.tensor(i) if i in node else None for i in (1, 2)])]
    if len(node.outputs) > 1:
        results += _statistics(x, axes, eps)
    return results[: len(node.outputs)]


def _layer_norm(node: Node, x: Any, axes: list[int], affine: list[Any]) -> Any:
    epsilon = like(node.get("epsilon", 1e-5), x)
    shape = tuple(shape_of(x)[axis] for axis in axes)
    gamma, beta = affine
    if all(part is None or (isinstance(part, np.ndarray) and shape_of(part) == shape) for part in affine):
        return mb.layer_norm(x=x, axes=axes, gamma=gamma, beta=beta, epsilon=epsilon)
    result = mb.layer_norm(x=x, axes=axes, epsilon=epsilon)
    result = result if gamma is None else mb.mul(x=result, y=gamma)
    return result if beta is None else mb.add(x=result, y=beta)


def _wide_layer_norm(node: Node, axes: list[int]) -> Any:
    affine = [cast(node.tensor(i), "float32") if i in node else None for i in (1, 2)]
    return cast(_layer_norm(node, cast(node.tensor(0), "float32"), axes, affine), "float16")


def _statistics(x: Any, axes: list[int], epsilon: float) -> list[Any]:
    mean = mb.reduce_mean(x=x, axes=axes, keep_dims=True)
    centered = mb.sub(x=x, y=mean)
    variance = mb.reduce_mean(x=mb.mul(x=centered, y=centered), axes=axes, keep_dims=True)
    return [mean, mb.rsqrt(x=mb.add(x=variance, y=like(epsilon, x)), epsilon=like(0, x))]


@operator("InstanceNormalization")
def instance_norm(node: Node) -> Any:
    """Use ``instance_norm`` with constants on images, else normalize over space and scale."""
    x, gamma, beta = (node.tensor(i) for i in range(3))
    epsilon = like(node.get("epsilon", 1e-5), x)
    if node.known(1) and node.known(2) and rank_of(x) in (3, 4):
        return mb.instance_norm(x=x, gamma=gamma, beta=beta, epsilon=epsilon)
    result = mb.layer_norm(x=x, axes=list(range(2, rank_of(x))), epsilon=epsilon)
    result = mb.mul(x=result, y=per_channel(gamma, rank_of(x)))
    return mb.add(x=result, y=per_channel(beta, rank_of(x)))


@operator("GroupNormalization")
def group_norm(node: Node) -> Any:
    """Normalize each group as one row, then scale per channel (per group before opset 21)."""
    x, gamma, beta = (node.tensor(i) for i in range(3))
    shape, groups = shape_of(x), int(node.attributes["num_groups"])
    rows = mb.reshape(x=x, shape=[shape[0], groups, int(np.prod(shape[1:])) // groups])
    rows = mb.layer_norm(x=rows, axes=[2], epsilon=like(node.get("epsilon", 1e-5), x))
    if shape_of(gamma) == (groups,) and node.opset < 21:
        rows = mb.add(x=mb.mul(x=rows, y=per_channel(gamma, 3)), y=per_channel(beta, 3))
        return mb.reshape(x=rows, shape=list(shape))
    result = mb.reshape(x=rows, shape=list(shape))
    return mb.add(x=mb.mul(x=result, y=per_channel(gamma, len(shape))), y=per_channel(beta, len(shape)))


@operator("LpNormalization")
def lp_norm(node: Node) -> Any:
    """Divide by the L1 or L2 norm along an axis; a row of zeros stays zero."""
    x, axis, p = node.tensor(0), node.get("axis", -1), node.get("p", 2)
    norm = mb.reduce_l1_norm if p == 1 else mb.reduce_l2_norm
    size = norm(x=x, axes=[axis], keep_dims=True)
    empty = cast(mb.equal(x=size, y=like(0, x)), dtype_of(x).name)
    return mb.real_div(x=x, y=mb.add(x=size, y=empty))


@operator("LRN")
def local_response_norm(node: Node) -> Any:
    """Use ``local_response_norm``, whose formula is the same."""
    x = node.tensor(0)
    return mb.local_response_norm(
        x=x,
        size=int(node.attributes["size"]),
        alpha=like(node.get("alpha", 1e-4), x),
        beta=like(node.get("beta", 0.75), x),
        k=like(node.get("bias", 1.0), x),
    )
