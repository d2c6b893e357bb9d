"""Types of ONNX tensors as torch and numpy have them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from onnx import TensorProto, numpy_helper
from torch import Tensor

from effbench.errors import ConversionError

TYPES: dict[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.INT8: torch.int8,
    TensorProto.INT16: torch.int16,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.UINT8: torch.uint8,
    TensorProto.UINT16: torch.uint16,
    TensorProto.BOOL: torch.bool,
}
"""What the interpreter computes with; the others (strings, 4-bit, 8-bit floats, bfloat16, ...) are refused by name."""


def torch_type(kind: int) -> torch.dtype:
    """Return the torch type of an ONNX type.

    Raises:
        ConversionError: The interpreter has no such type.
    """
    if kind not in TYPES:
        raise ConversionError("interpret", f"tensors of type {TensorProto.DataType.Name(kind)} are not supported")
    return TYPES[kind]


def from_proto(proto: TensorProto) -> Tensor:
    """Return the torch tensor of an initializer or a tensor attribute."""
    torch_type(proto.data_type)
    return from_numpy(numpy_helper.to_array(proto))


def from_numpy(array: Any) -> Tensor:
    """Return a torch tensor of a numpy array, copied so that no read-only buffer is shared."""
    own = np.array(array, order="C", copy=True)
    # NumPy has no bfloat16; packages add one that torch does not know.
    if own.dtype.name == "bfloat16":
        return torch.from_numpy(own.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(own)
