"""Exact rewritings of a graph that avoid crashes of a compiler; none changes an output."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from effbench.deploy.graph import onnx_file

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto


def unsqueeze_sums_by_reshape(model: ModelProto) -> int:
    """Replace each Unsqueeze of a ReduceSum by a Reshape, in place; returns how many.

    The compiler of TensorRT for RTX 1.7.1 crashes (a segmentation fault, or "Arguments to operator* cannot be
    undefined") on a ReduceSum without keepdims whose axis an Unsqueeze inserts elsewhere, if two attention blocks of
    different sizes follow each other: the normalizer of linear attention. With a Reshape the same graph builds.
    """
    from onnx import numpy_helper

    shapes = onnx_file.shapes(model)
    sums = {node.output[0] for node in model.graph.node if node.op_type == "ReduceSum"}
    changed = 0
    for node in model.graph.node:
        shape = shapes.get(node.output[0])
        if node.op_type != "Unsqueeze" or node.input[0] not in sums or shape is None or shape.count(None) > 1:
            continue
        name = f"{node.output[0]}__shape"
        sizes = np.array([-1 if size is None else size for size in shape], np.int64)
        model.graph.initializer.append(numpy_helper.from_array(sizes, name))
        _replace_by_reshape(node, name)
        changed += 1
    return changed


def _replace_by_reshape(node: NodeProto, shape: str) -> None:
    source = node.input[0]
    node.op_type = "Reshape"
    del node.input[:], node.attribute[:]
    node.input.extend([source, shape])
