"""Floating-point arithmetic that decides a shape: 1369 ** 0.5 is 37 in fp32, and 36.97, which is cut to 36, in half."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_OF_SHAPES = ("Shape", "Size", "Constant")


def shape_arithmetic(model: ModelProto) -> frozenset[str]:
    """Return the first outputs of nodes that compute integers from constants and shapes by way of floats."""
    known = {tensor.name for tensor in model.graph.initializer} | {""}
    for node in model.graph.node:
        if node.op_type in _OF_SHAPES or known.issuperset(node.input):
            known.update(node.output)
    needed: set[str] = set()
    nodes = set()
    for node in reversed(model.graph.node):
        if node.op_type in _OF_SHAPES or not known.issuperset(node.output):
            continue
        if _rounds(node):
            needed.update(node.input)
        elif needed.intersection(node.output):
            nodes.add(node.output[0])
            needed.update(node.input)
    return frozenset(nodes)


def _rounds(node: NodeProto) -> bool:
    """Return whether a node makes integers of its input."""
    integers = (2, 3, 4, 5, 6, 7, 12, 13)
    return node.op_type == "Cast" and any(a.name == "to" and a.i in integers for a in node.attribute)
