"""Exact rewritings of a graph that keep a compiler alive; each is an identity, and none touches a number."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from effbench.deploy.graph import onnx_file

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto


def settle_sums(model: ModelProto) -> int:
    """Turn an Unsqueeze that follows a sum into a Reshape, in place; returns how many.

    TensorRT for RTX 1.7.1 dies in its compiler (a segmentation fault, or "Arguments to operator* cannot be undefined")
    on a ReduceSum without keepdims whose axis an Unsqueeze puts back elsewhere, where two attention blocks of different
    sizes follow each other: the normalizer of linear attention. The same graph with a Reshape there builds.
    """
    from onnx import numpy_helper

    known = onnx_file.shapes(model)
    sums = {node.output[0] for node in model.graph.node if node.op_type == "ReduceSum"}
    changed = 0
    for node in model.graph.node:
        shape = known.get(node.output[0])
        if node.op_type != "Unsqueeze" or node.input[0] not in sums or shape is None or shape.count(None) > 1:
            continue
        name = f"{node.output[0]}__shape"
        sides = np.array([-1 if side is None else side for side in shape], np.int64)
        model.graph.initializer.append(numpy_helper.from_array(sides, name))
        _become_reshape(node, name)
        changed += 1
    return changed


def _become_reshape(node: NodeProto, shape: str) -> None:
    source = node.input[0]
    node.op_type = "Reshape"
    del node.input[:], node.attribute[:]
    node.input.extend([source, shape])
