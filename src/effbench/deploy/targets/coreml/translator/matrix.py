"""ONNX operators that contract: matrix products and einsum."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from effbench.deploy.targets.coreml.lazy import mb
from effbench.deploy.targets.coreml.translator.registry import Node, dtype_of, like, operator, rank_of, shape_of


@operator("MatMul")
def matmul(node: Node) -> Any:
    """Use ``linear`` for a constant matrix on the right, else ``matmul``."""
    x, y = node.tensor(0), node.tensor(1)
    if isinstance(y, np.ndarray) and y.ndim == 2 and rank_of(x) >= 2 and dtype_of(y).kind == "f":
        return mb.linear(x=x, weight=np.ascontiguousarray(y.T))
    return product(x, y)


def product(x: Any, y: Any) -> Any:
    """Multiply matrices; a vector is a row on the left, a column on the right."""
    row, column = rank_of(x) == 1, rank_of(y) == 1
    x = mb.expand_dims(x=x, axes=[0]) if row else x
    y = mb.expand_dims(x=y, axes=[1]) if column else y
    result = mb.matmul(x=x, y=y)
    axes = [axis for axis, single in ((-2, row), (-1, column)) if single]
    if not axes:
        return result
    return mb.reshape(x=result, shape=[1]) if rank_of(result) == len(axes) else mb.squeeze(x=result, axes=axes)


@operator("Gemm")
def gemm(node: Node) -> Any:
    """Use ``linear`` if the weight is constant, with alpha and beta folded into constants."""
    a, b = node.tensor(0), node.tensor(1)
    alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)
    a = mb.transpose(x=a, perm=[1, 0]) if node.get("transA", 0) else a
    bias = node.tensor(2) if 2 in node else None
    if isinstance(bias, np.ndarray) and beta != 1.0:
        bias, beta = (bias * beta).astype(bias.dtype), 1.0
    if isinstance(b, np.ndarray):
        weight = np.ascontiguousarray(b if node.get("transB", 0) else b.T)
        weight = weight if alpha == 1.0 else (weight * alpha).astype(weight.dtype)
        size = weight.shape[0]
        return _add_bias(mb.linear(x=a, weight=weight, bias=_vector(bias, size)), bias, beta, size)
    if node.get("transB", 0) and alpha == 1.0 and is_fixed(b):
        return _add_bias(mb.linear(x=a, weight=b, bias=_vector(bias, b.shape[0])), bias, beta, int(b.shape[0]))
    result = mb.matmul(x=a, y=b, transpose_y=bool(node.get("transB", 0)))
    result = result if alpha == 1.0 else mb.mul(x=result, y=like(alpha, result))
    return _add_bias(result, bias, beta, None)


def is_fixed(value: Any) -> bool:
    """Return whether a variable is a constant of the package, compressed or not."""
    return bool(value.op is not None and (value.op.op_type == "const" or value.op.op_type.startswith("constexpr_")))


def _vector(bias: Any, size: int) -> Any:
    """Return the bias as an argument of ``linear``, or None if it is none."""
    return bias.reshape(-1) if isinstance(bias, np.ndarray) and bias.size == size and bias.shape[-1] == size else None


def _add_bias(result: Any, bias: Any, beta: float, size: int | None) -> Any:
    if bias is None or (size is not None and _vector(bias, size) is not None):
        return result
    bias = bias if beta == 1.0 else mb.mul(x=bias, y=like(beta, result))
    return mb.add(x=result, y=bias)


@operator("Einsum")
def einsum(node: Node) -> Any:
    """Contract one or two operands by transposes and one batched matrix product."""
    equation = node.attributes["equation"]
    equation = (equation.decode() if isinstance(equation, bytes) else equation).replace(" ", "")
    operands = [node.tensor(i) for i in range(len(node.inputs))]
    terms, out = _labels(equation, [rank_of(value) for value in operands])
    pairs = [_diagonal(value, term) for value, term in zip(operands, terms, strict=True)]
    while len(pairs) > 1:
        (x, left), (y, right), *rest = pairs
        needed = {*out, *(label for _, term in rest for label in term)}
        pairs = [_contract(x, left, y, right, needed), *rest]
    value, term = _sum_unneeded(*pairs[0], set(out))
    perm = [term.index(label) for label in out]
    return value if perm == sorted(perm) else mb.transpose(x=value, perm=perm)


def _labels(equation: str, ranks: Sequence[int]) -> tuple[list[list[str]], list[str]]:
    """Split an equation into labels per operand and for the output; an ellipsis becomes numbered labels."""
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    widths = [rank - len(term.replace("...", "")) for term, rank in zip(terms, ranks, strict=True)]
    width = max((size for term, size in zip(terms, widths, strict=True) if "..." in term), default=0)

    def expand(term: str, size: int) -> list[str]:
        head, dots, tail = term.partition("...")
        return [*head, *(str(i) for i in range(width - size, width) if dots), *tail]

    expanded = [expand(term, size) for term, size in zip(terms, widths, strict=True)]
    if arrow:
        return expanded, expand(right, width)
    labels = [label for term in expanded for label in term]
    once = sorted(label for label in set(labels) if labels.count(label) == 1 and not label.isdigit())
    return expanded, [*(str(i) for i in range(width)), *once]


def _diagonal(value: Any, term: list[str]) -> tuple[Any, list[str]]:
    """Take the diagonal of axes that share a label: multiply by the identity matrix, then sum one of the axes."""
    for label in [label for label in dict.fromkeys(term) if term.count(label) == 2]:
        first, second = (axis for axis, other in enumerate(term) if other == label)
        size = shape_of(value)[first]
        shape = [size if axis in (first, second) else 1 for axis in range(len(term))]
        eye = np.eye(size, dtype=dtype_of(value)).reshape(shape)
        value = mb.reduce_sum(x=mb.mul(x=value, y=eye), axes=[second], keep_dims=False)
        term = [other for axis, other in enumerate(term) if axis != second]
    return value, term


def _sum_unneeded(value: Any, term: list[str], needed: set[str]) -> tuple[Any, list[str]]:
    axes = [axis for axis, label in enumerate(term) if label not in needed]
    if not axes:
        return value, term
    return mb.reduce_sum(x=value, axes=axes, keep_dims=False), [label for label in term if label in needed]


def _contract(x: Any, left: list[str], y: Any, right: list[str], needed: set[str]) -> tuple[Any, list[str]]:
    x, left = _sum_unneeded(x, left, needed | set(right))
    y, right = _sum_unneeded(y, right, needed | set(left))
    batch = [label for label in left if label in right and label in needed]
    inner = [label for label in left if label in right and label not in needed]
    rows = [label for label in left if label not in right]
    columns = [label for label in right if label not in left]
    sizes = {**dict(zip(right, shape_of(y), strict=True)), **dict(zip(left, shape_of(x), strict=True))}
    for label in batch:
        sizes[label] = max(shape_of(x)[left.index(label)], shape_of(y)[right.index(label)])
    x = _arrange(x, left, [batch, rows, inner], sizes)
    y = _arrange(y, right, [batch, inner, columns], sizes)
    labels = [*batch, *rows, *columns]
    result = mb.matmul(x=x, y=y)
    return mb.reshape(x=result, shape=[sizes[label] for label in labels] or [1]), labels


def _arrange(value: Any, term: list[str], groups: list[list[str]], sizes: dict[str, int]) -> Any:
    perm = [term.index(label) for group in groups for label in group]
    value = value if perm == sorted(perm) else mb.transpose(x=value, perm=perm)
    shape = [math.prod(sizes[label] for label in group) for group in groups]
    return value if list(shape_of(value)) == shape else mb.reshape(x=value, shape=shape)
