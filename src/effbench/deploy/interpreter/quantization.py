"""Quantization: float to small integers and back."""

from __future__ import annotations

import torch
from torch import Tensor

from effbench.deploy.interpreter.registry import OpCall, operator
from effbench.deploy.interpreter.types import torch_type


def _spread(values: Tensor, x: Tensor, axis: int, block_size: int) -> Tensor:
    """Return scales or zero points (per tensor, per channel or per block) in a shape that broadcasts to x."""
    if block_size:
        return values.repeat_interleave(block_size, axis).narrow(axis, 0, x.shape[axis])
    if values.numel() == 1:
        return values.reshape(())
    shape = [1] * x.dim()
    shape[axis] = -1
    return values.reshape(shape)


@operator("QuantizeLinear", moves=True)
def quantize_linear(
    call: OpCall,
    x: Tensor,
    scale: Tensor,
    zero: Tensor | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
    precision: int = 0,
    saturate: int = 1,
) -> Tensor:
    """Divide by the scale, round half to even, add the zero point, saturate."""
    kind = zero.dtype if zero is not None else (torch_type(output_dtype) if output_dtype else torch.uint8)
    work = torch.float64 if x.dtype == torch.float64 else torch.float32
    y = torch.round(x.to(work) / _spread(scale.to(work), x, axis, block_size))
    if zero is not None:
        y = y + _spread(zero.to(work), x, axis, block_size)
    limits = torch.iinfo(kind)
    return y.clamp(limits.min, limits.max).to(kind)


@operator("DequantizeLinear", moves=True)
def dequantize_linear(
    call: OpCall,
    x: Tensor,
    scale: Tensor,
    zero: Tensor | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
) -> Tensor:
    """Subtract the zero point and multiply by the scale; the result has the scale's type."""
    values = x.to(torch.int32)
    if zero is not None:
        values = values - _spread(zero.to(torch.int32), x, axis, block_size)
    wide = torch.float64 if scale.dtype == torch.float64 else torch.float32
    kind = call.float_type(torch_type(output_dtype)) if output_dtype else scale.dtype
    return (values.to(wide) * _spread(scale.to(wide), x, axis, block_size)).to(kind)


@operator("DynamicQuantizeLinear")
def dynamic_quantize_linear(call: OpCall, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Quantize to uint8 over the tensor's range, extended to zero."""
    low, high = x.min().clamp(max=0), x.max().clamp(min=0)
    scale = (high - low) / 255
    zero = torch.round((-low / scale).clamp(0, 255))
    return (torch.round(x / scale) + zero).clamp(0, 255).to(torch.uint8), scale, zero.to(torch.uint8)
