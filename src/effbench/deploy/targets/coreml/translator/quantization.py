"""ONNX operators of quantized graphs in Q/DQ form."""

from __future__ import annotations

from typing import Any

import numpy as np

from effbench.deploy.targets.coreml.lazy import mb
from effbench.deploy.targets.coreml.translator.registry import Node, dtype_of, operator, rank_of

EIGHT_BIT = ("int8", "uint8")


def _affine(node: Node, rank: int, dtype: Any) -> dict[str, Any]:
    """Return scale, zero point and axis for MIL, with an axis only for vectors.

    Raises:
        ConversionError: Scales are not constant, or are per block.
    """
    scale = np.asarray(node.constant(1, "the scale"))
    zero = node.constant(2, "the zero point")
    if scale.ndim > 1 or node.get("block_size", 0):
        raise node.error("is quantized per block; only per tensor and per channel are translated")
    per_tensor = scale.size == 1
    parts: dict[str, Any] = {"scale": scale.reshape(()) if per_tensor else scale}
    if zero is not None:
        parts["zero_point"] = zero.reshape(()).astype(dtype) if per_tensor else zero.astype(dtype)
    return parts if per_tensor else {**parts, "axis": int(node.get("axis", 1)) % rank}


def _eight_bit(node: Node, dtype: Any) -> str:
    name = str(np.dtype(dtype).name)
    if name not in EIGHT_BIT:
        raise node.error(f"quantizes to {name}; Core ML has int8 and uint8")
    return name


@operator("QuantizeLinear")
def quantize(node: Node) -> Any:
    """Use ``quantize`` (iOS 17)."""
    x = node.tensor(0)
    zero = node.constant(2, "the zero point")
    name = _eight_bit(node, np.uint8 if zero is None else zero.dtype)
    parts = _affine(node, rank_of(x), name)
    parts["scale"] = parts["scale"].astype(dtype_of(x))
    return mb.quantize(input=x, output_dtype=name, **parts)


@operator("DequantizeLinear")
def dequantize(node: Node) -> Any:
    """Use ``constexpr_affine_dequantize`` for weights, ``dequantize`` for activations, floats for an int32 bias."""
    x = node.inputs[0]
    if not isinstance(x, np.ndarray):
        return mb.dequantize(input=x, **_affine(node, rank_of(x), dtype_of(x)))
    if x.dtype.name not in EIGHT_BIT or x.ndim == 0:
        return _float(node, x)
    parts = _affine(node, x.ndim, x.dtype)
    zero = parts.get("zero_point", np.zeros_like(parts["scale"], dtype=x.dtype))
    return mb.constexpr_affine_dequantize(
        quantized_data=x, zero_point=zero, scale=parts["scale"], axis=int(parts.get("axis", 0))
    )


def _float(node: Node, x: Any) -> Any:
    scale, zero = node.constant(1, "the scale"), node.constant(2, "the zero point", np.asarray(0))
    if scale.size > 1:
        shape = [-1 if axis == int(node.get("axis", 1)) % x.ndim else 1 for axis in range(x.ndim)]
        scale, zero = scale.reshape(shape), zero if zero.size == 1 else zero.reshape(shape)
    values = (x.astype(np.float64) - zero.astype(np.float64)) * scale
    return np.asarray(values.astype(scale.dtype))
