"""ONNX operators that reduce, accumulate or sort along axes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from effbench.deploy.targets.coreml.lazy import mb
from effbench.deploy.targets.coreml.translator.registry import (
    RULES,
    Node,
    cast,
    dtype_of,
    is_float,
    like,
    operator,
    rank_of,
    shape_of,
    through,
)

REDUCTIONS = {
    "ReduceL1": "reduce_l1_norm",
    "ReduceL2": "reduce_l2_norm",
    "ReduceLogSumExp": "reduce_log_sum_exp",
    "ReduceMax": "reduce_max",
    "ReduceMean": "reduce_mean",
    "ReduceMin": "reduce_min",
    "ReduceProd": "reduce_prod",
    "ReduceSum": "reduce_sum",
    "ReduceSumSquare": "reduce_sum_square",
}
FLOAT_ONLY = ("ReduceL2", "ReduceLogSumExp", "ReduceMean")


def _axes(node: Node, rank: int) -> list[int]:
    """Return the axes; if the node has none, all of them, or none if ``noop_with_empty_axes`` is set."""
    axes = node.integers(1, "axes")
    if not axes:
        return [] if node.get("noop_with_empty_axes", 0) else list(range(rank))
    return [axis % rank for axis in axes]


def _reduce(node: Node, name: str, x: Any) -> Any:
    axes = _axes(node, rank_of(x))
    if not axes:
        return x
    return getattr(mb, name)(x=x, axes=axes, keep_dims=bool(node.get("keepdims", 1)))


def _reduction(op: str) -> Callable[[Node], Any]:
    def rule(node: Node) -> Any:
        x = node.tensor(0)
        if not is_float(x) and (op in FLOAT_ONLY or dtype_of(x) == np.bool_):
            return through(x, "int32" if op not in FLOAT_ONLY else "float32", lambda y: _reduce_or_map(node, op, y))
        return _reduce_or_map(node, op, x)

    return rule


def _reduce_or_map(node: Node, op: str, x: Any) -> Any:
    if _axes(node, rank_of(x)):
        return _reduce(node, REDUCTIONS[op], x)
    # Without axes to reduce, the operator's function of each element still applies.
    elementwise = {
        "ReduceL1": lambda: mb.abs(x=x),
        "ReduceL2": lambda: mb.abs(x=x),
        "ReduceSumSquare": lambda: mb.mul(x=x, y=x),
    }
    return elementwise.get(op, lambda: mb.identity(x=x))()


RULES.update({op: _reduction(op) for op in REDUCTIONS})


@operator("ReduceLogSum")
def reduce_log_sum(node: Node) -> Any:
    """Take the log of the sum, without the epsilon of MIL's operation."""
    total = _reduce(node, "reduce_sum", node.tensor(0))
    return mb.log(x=total, epsilon=like(0, total))


@operator("ArgMax", "ArgMin")
def argument(node: Node) -> Any:
    """Use ``reduce_argmax``; for the last of equal elements, on the reversed axis."""
    x = node.tensor(0)
    axis, keep = node.get("axis", 0) % rank_of(x), bool(node.get("keepdims", 1))
    run = mb.reduce_argmax if node.op == "ArgMax" else mb.reduce_argmin
    if not node.get("select_last_index", 0):
        return run(x=x, axis=axis, keep_dims=keep)
    reversed_index = run(x=mb.reverse(x=x, axes=[axis]), axis=axis, keep_dims=keep)
    return mb.sub(x=np.int32(shape_of(x)[axis] - 1), y=reversed_index)


@operator("CumSum")
def cumsum(node: Node) -> Any:
    """Use ``cumsum``."""
    axis = int(node.constant(1, "the axis").reshape(()))
    x = node.tensor(0)
    return mb.cumsum(
        x=x,
        axis=axis % rank_of(x),
        exclusive=bool(node.get("exclusive", 0)),
        reverse=bool(node.get("reverse", 0)),
    )


@operator("TopK")
def topk(node: Node) -> Any:
    """Use ``topk``, which sorts."""
    x = node.tensor(0)
    count = int(node.constant(1, "k").reshape(())) if node.opset >= 10 else int(node.attributes["k"])
    axis = node.get("axis", -1) % rank_of(x)
    return list(mb.topk(x=x, k=count, axis=axis, ascending=not node.get("largest", 1)))


@operator("OneHot")
def one_hot(node: Node) -> Any:
    """Use ``one_hot``; negative indices count from the end."""
    depth = int(node.constant(1, "the depth").reshape(-1)[0])
    off, on = node.constant(2, "the pair of values")
    indices = cast(node.tensor(0), "int32")
    values = {"on_value": _scalar(on), "off_value": _scalar(off)}
    nonnegative = mb.select(cond=mb.less(x=indices, y=np.int32(0)), a=mb.add(x=indices, y=np.int32(depth)), b=indices)
    axis = node.get("axis", -1) % (rank_of(indices) + 1)
    return mb.one_hot(indices=nonnegative, one_hot_vector_size=depth, axis=axis, **values)


def _scalar(value: Any) -> Any:
    return np.int32(value) if np.asarray(value).dtype.kind in "iu" else np.asarray(value)[()]
