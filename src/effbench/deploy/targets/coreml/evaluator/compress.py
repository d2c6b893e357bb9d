"""MIL operations that quantize, and those that decompress constants."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from effbench.deploy.targets.coreml.evaluator.registry import OperationCall, operation
from effbench.deploy.targets.coreml.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

LIMITS = {"int8": (-128, 127), "uint8": (0, 255)}


def _along(value: Tensor, rank: int, axis: int) -> Tensor:
    """Reshape a vector of per-channel constants so that it broadcasts along an axis."""
    return value if value.ndim == 0 else value.reshape([-1 if i == axis % rank else 1 for i in range(rank)])


def _affine(call: OperationCall, key: str, rank: int) -> Tensor | float:
    if key not in call:
        return 0.0
    return _along(call.tensor(key).float(), rank, call.integer("axis"))


@operation("quantize")
def quantize(call: OperationCall) -> Tensor:
    """Return clip(round(x / scale) + zero point), halves rounded to even."""
    x = call.tensor("input")
    scaled = torch.round(x / _affine(call, "scale", x.ndim)) + _affine(call, "zero_point", x.ndim)
    return scaled.clamp(*LIMITS[call.text("output_dtype")])


@operation("dequantize")
def dequantize(call: OperationCall) -> Tensor:
    """Return (x - zero point) * scale."""
    x = call.tensor("input").float()
    return (x - _affine(call, "zero_point", x.ndim)) * _affine(call, "scale", x.ndim)


@operation("constexpr_affine_dequantize")
def affine_dequantize(call: OperationCall) -> Tensor:
    """Return the constant (q - zero point) * scale."""
    data = call.tensor("quantized_data").float()
    return (data - _affine(call, "zero_point", data.ndim)) * _affine(call, "scale", data.ndim)


@operation("constexpr_cast")
def constant_cast(call: OperationCall) -> Tensor:
    """Return a half-precision constant as float32."""
    return call.tensor("source_val")


def _blocks(value: Tensor, shape: torch.Size) -> Tensor:
    for axis, size in enumerate(shape):
        value = value.repeat_interleave(size // value.shape[axis], axis)
    return value


@operation("constexpr_blockwise_shift_scale")
def blockwise_shift_scale(call: OperationCall) -> Tensor:
    """Return the constant (data - offset) * scale, each per block."""
    data = call.tensor("data").float()
    shifted = data - _blocks(call.tensor("offset").float(), data.shape) if "offset" in call else data
    return shifted * _blocks(call.tensor("scale"), data.shape)


def _bits(packed: Tensor, bits: int, count: int) -> Tensor:
    stream = np.unpackbits(packed.numpy().astype(np.uint8), bitorder="little")[: count * bits]
    return torch.from_numpy(stream.reshape(count, bits).astype(np.int64) @ (1 << np.arange(bits)))


@operation("constexpr_lut_to_dense")
def lut_to_dense(call: OperationCall) -> Tensor:
    """Return a palettized constant, from packed indices (iOS 16) or from a table per block (iOS 18)."""
    table, indices = call.tensor("lut"), call.raw("indices")
    if "shape" in call:
        shape = call.numbers("shape")
        bits = int(table.numel()).bit_length() - 1
        return table[_bits(indices, bits, int(np.prod(shape)))].reshape(shape)
    rank, palettes, vector = indices.ndim, table.shape[-2], table.shape[-1]
    tables = table
    for axis, size in enumerate(indices.shape):
        tables = tables.repeat_interleave(size // table.shape[axis], axis)
    rows = tables.reshape(-1, palettes, vector)
    values = rows[torch.arange(len(rows)), indices.reshape(-1).long()].reshape(*indices.shape, vector)
    if vector == 1:
        return values.squeeze(-1)
    axis = call.integer("vector_axis") % rank
    return values.movedim(-1, axis + 1).flatten(axis, axis + 1)


@operation("constexpr_sparse_to_dense")
def sparse_to_dense(call: OperationCall) -> Tensor:
    """Return a constant with zeros where the bit mask is not set."""
    values, mask = call.tensor("nonzero_data"), call.raw("mask")
    if "shape" in call:
        shape = call.numbers("shape")
        mask = _bits(mask, 1, int(np.prod(shape))).reshape(shape)
    dense = torch.zeros(mask.shape, dtype=values.dtype)
    dense[mask.bool()] = values
    return dense


@operation("classify")
def classify(call: OperationCall) -> list[object]:
    """Return the label of the largest score, and the scores in the order of the labels."""
    scores = call.tensor("probabilities").reshape(-1)
    labels = call.arguments["classes"][0]
    return [labels[int(scores.argmax())], scores]
