"""ONNX's own definitions of operators: the functions that define some of them, and their values on constants."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from effbench.deploy.targets.coreml.translator.registry import RULES, Array, dtype_of, shape_of

if TYPE_CHECKING:
    import onnx

RANDOM = ("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike")
NOT_FOLDED = ("DequantizeLinear", *RANDOM)
"""Operators that are not folded: the package stores a weight's dequantization, and random values are unknown."""
FROM_SHAPE = ("Shape", "Size", "EyeLike")
"""Operators whose result depends only on the shape of their input, which is known."""


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """Return a node's attributes as Python values."""
    import onnx

    return {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}


def foldable(node: onnx.NodeProto) -> bool:
    """Return whether a node can be folded once all its inputs are known."""
    import onnx

    nested = any(item.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for item in node.attribute)
    return node.op_type not in NOT_FOLDED and not nested


def fold(node: onnx.NodeProto, values: Mapping[str, Array], opset: int) -> list[Array]:
    """Compute a node for known values with the ONNX reference implementation."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    helper = onnx.helper
    names = [name for name in dict.fromkeys(node.input) if name]
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(values[name].dtype), values[name].shape)
        for name in names
    ]
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
    graph = helper.make_graph([node], "fold", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid(node.domain, opset)])
    results = ReferenceEvaluator(model).run(None, {name: values[name] for name in names})
    return [np.asarray(value) for value in results]


def definition(node: onnx.NodeProto, opset: int, inputs: Sequence[Any]) -> onnx.FunctionProto | None:
    """Return the function that ONNX defines an operator by, or None.

    Args:
        node: The node.
        opset: The opset it belongs to.
        inputs: Its inputs' values, None for an absent one.
    """
    import onnx

    try:
        schema: Any = onnx.defs.get_schema(node.op_type, opset, node.domain)
    except onnx.defs.SchemaError:
        return None
    if schema.has_function:
        versions = [version for version in schema.function_opset_versions if version <= opset]
        return _parse(schema.get_function_with_opset_version(max(versions)) if versions else schema.function_body)
    if not schema.has_context_dependent_function:
        return None
    versions = [v for v in schema.context_dependent_function_opset_versions if v <= opset] or [schema.since_version]
    types = [_type(value) for value in inputs]
    function = schema.get_context_dependent_function_with_opset_version(
        max(versions), node.SerializeToString(), [item.SerializeToString() for item in types]
    )
    return _parse(function) if function else None


def _parse(data: Any) -> onnx.FunctionProto:
    import onnx

    function = onnx.FunctionProto()
    function.ParseFromString(data if isinstance(data, bytes) else data.SerializeToString())
    return function


def _type(value: Any) -> onnx.TypeProto:
    import onnx

    if value is None:
        return onnx.TypeProto()
    kind = onnx.helper.np_dtype_to_tensor_dtype(dtype_of(value))
    return onnx.helper.make_tensor_type_proto(kind, shape_of(value))


def body(function: onnx.FunctionProto, node: onnx.NodeProto, opset: int) -> list[onnx.NodeProto]:
    """Return a function's nodes with the caller's attributes or the schema's defaults.

    Internal names are prefixed with the caller's first output, so that the names of two calls differ.
    """
    import onnx

    arguments = {item.name: item for item in node.attribute}
    defaults = {item.name: item for item in function.attribute_proto}
    schema = onnx.defs.get_schema(node.op_type, opset, node.domain)
    for name, attribute in schema.attributes.items():
        if attribute.default_value.name:
            defaults.setdefault(name, attribute.default_value)
    outer = dict(zip(function.input, list(node.input) + [""] * len(function.input), strict=False))
    outer.update(zip(function.output, node.output, strict=False))
    prefix = next(name for name in node.output if name)

    def rename(name: str) -> str:
        return outer.get(name, f"{prefix}/{name}") if name else ""

    nodes = []
    for inner in function.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(inner)
        copy.name = f"{node.name or node.op_type}/{inner.op_type}"
        copy.input[:] = [rename(name) for name in inner.input]
        copy.output[:] = [rename(name) for name in inner.output]
        del copy.attribute[:]
        for attribute in inner.attribute:
            source = {**defaults, **arguments}.get(attribute.ref_attr_name) if attribute.ref_attr_name else attribute
            if source is not None:
                copy.attribute.add().CopyFrom(source)
                copy.attribute[-1].name = attribute.name
                _rename_branch(copy.attribute[-1].g, rename)
        nodes.append(copy)
    return nodes


def _rename_branch(graph: onnx.GraphProto, rename: Callable[[str], str]) -> None:
    """Rename inside a branch too, because it reads names of the enclosing function."""
    for node in graph.node:
        node.input[:] = [rename(name) for name in node.input]
        node.output[:] = [rename(name) for name in node.output]
        for attribute in node.attribute:
            _rename_branch(attribute.g, rename)
    for item in (*graph.initializer, *graph.output):
        item.name = rename(item.name)


def missing(graph: onnx.GraphProto, opset: int) -> list[tuple[str, str]]:
    """Return (node, operator) of every node that can be neither translated, folded nor replaced by a function."""
    known = {item.name for item in graph.initializer} | {""}
    gaps = []
    for node in graph.node:
        if node.op_type in FROM_SHAPE or (foldable(node) and all(name in known for name in node.input)):
            known.update(node.output)
        elif not _translatable(node, opset):
            gaps.append((node.name or node.output[0], node.op_type))
    return gaps


def _translatable(node: onnx.NodeProto, opset: int) -> bool:
    import onnx

    if node.domain not in ("", "ai.onnx"):
        return False
    if node.op_type in RULES or node.op_type in FROM_SHAPE or node.op_type in ("Constant", "If"):
        return True
    try:
        schema: Any = onnx.defs.get_schema(node.op_type, opset, "")
    except onnx.defs.SchemaError:
        return False
    # The nodes of a context-dependent function are known only once the types of its inputs are.
    return bool(schema.has_function or schema.has_context_dependent_function)
