"""Quantization: float to small integers and back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from effbench.deploy.interpreter.arithmetic import Arithmetic
from effbench.deploy.interpreter.linear import conv
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


def integers(x: Tensor, zero: Tensor | None, axis: int) -> Tensor:
    """Return integers less their zero point, in float64, in which their products and sums are exact."""
    values = x.double()
    return values if zero is None else values - _spread(zero.double(), x, axis, 0)


def requantize(total: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """Return real values as integers of the zero point's type: rounded half to even, saturated."""
    limits = torch.iinfo(zero.dtype)
    return (torch.round(total / scale.double()) + zero.double()).clamp(limits.min, limits.max).to(zero.dtype)


@operator("QLinearMatMul", moves=True)
def qlinear_matmul(
    call: OpCall,
    a: Tensor,
    a_scale: Tensor,
    a_zero: Tensor,
    b: Tensor,
    b_scale: Tensor,
    b_zero: Tensor,
    y_scale: Tensor,
    y_zero: Tensor,
) -> Tensor:
    """Multiply matrices of integers and quantize the product; scales of a belong to rows, those of b to columns."""
    rows, columns = (_spread(s.double(), m, axis, 0) for s, m, axis in ((a_scale, a, a.dim() - 2), (b_scale, b, -1)))
    product = torch.matmul(integers(a, a_zero, a.dim() - 2), integers(b, b_zero, b.dim() - 1))
    return requantize(product * rows * columns, y_scale, y_zero)


@operator("QLinearConv", moves=True)
def qlinear_conv(
    call: OpCall,
    x: Tensor,
    x_scale: Tensor,
    x_zero: Tensor,
    weight: Tensor,
    w_scale: Tensor,
    w_zero: Tensor,
    y_scale: Tensor,
    y_zero: Tensor,
    bias: Tensor | None = None,
    **attributes: Any,
) -> Tensor:
    """Convolve integers and quantize the result; the bias has the scale of x times that of the weight."""
    exact = OpCall(Arithmetic(), call.opset, 1)
    total = conv(exact, integers(x, x_zero, 1), integers(weight, w_zero, 0), **attributes)
    across = [-1] + [1] * (total.dim() - 2)
    if bias is not None:
        total = total + bias.double().reshape(across)
    scale = x_scale.double() * (w_scale.double().reshape(across) if w_scale.numel() > 1 else w_scale.double())
    return requantize(total * scale, y_scale, y_zero)
