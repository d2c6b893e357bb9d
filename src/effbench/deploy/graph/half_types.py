"""The range of half precision, and where the ONNX standard allows it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnx import NodeProto

HALF_MAX = 65504.0
"""The largest finite half-precision number (IEEE 754 binary16)."""


def half_slots(node: NodeProto, opset: int) -> tuple[tuple[bool, ...], tuple[bool, ...]]:
    """Return for each input and output of a node whether the ONNX standard allows float16 there.

    The scales of a Resize, for example, are always float32. Operators outside the standard count as float32 only.
    """
    from onnx import defs

    if not defs.has(node.op_type, opset, node.domain):
        return (False,) * len(node.input), (False,) * len(node.output)
    schema = defs.get_schema(node.op_type, opset, node.domain)

    def allowed(parameters: Any, count: int) -> tuple[bool, ...]:
        last = len(parameters) - 1
        return tuple("tensor(float16)" in parameters[min(i, last)].types for i in range(count))

    return allowed(schema.inputs, len(node.input)), allowed(schema.outputs, len(node.output))
