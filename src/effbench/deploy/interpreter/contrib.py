"""Operators of ONNX Runtime's own domain, which its quantizer and its optimizer write into graphs.

A quantized operator is its float operator between a dequantization and a quantization. It is computed in float64:
ONNX Runtime rounds some of them in float32 or by tables, so that single values may be one level apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from effbench.deploy.interpreter.activation import stable_softmax
from effbench.deploy.interpreter.arithmetic import Arithmetic
from effbench.deploy.interpreter.linear import conv, gemm
from effbench.deploy.interpreter.normalization import layer_normalization
from effbench.deploy.interpreter.pooling import average_pool
from effbench.deploy.interpreter.quantization import integers, requantize
from effbench.deploy.interpreter.registry import OpCall, operator


def _real(x: Tensor, scale: Tensor, zero: Tensor | None) -> Tensor:
    return integers(x, zero, 0) * scale.double()


def _exact(call: OpCall) -> OpCall:
    return OpCall(Arithmetic(), call.opset, 1)


@operator("com.microsoft::QLinearAdd", moves=True)
def qlinear_add(
    call: OpCall, a: Tensor, a_scale: Tensor, a_zero: Tensor, b: Tensor, b_scale: Tensor, b_zero: Tensor,
    y_scale: Tensor, y_zero: Tensor,
) -> Tensor:  # fmt: skip
    """Add quantized tensors."""
    return requantize(_real(a, a_scale, a_zero) + _real(b, b_scale, b_zero), y_scale, y_zero)


@operator("com.microsoft::QLinearMul", moves=True)
def qlinear_mul(
    call: OpCall, a: Tensor, a_scale: Tensor, a_zero: Tensor, b: Tensor, b_scale: Tensor, b_zero: Tensor,
    y_scale: Tensor, y_zero: Tensor,
) -> Tensor:  # fmt: skip
    """Multiply quantized tensors."""
    return requantize(_real(a, a_scale, a_zero) * _real(b, b_scale, b_zero), y_scale, y_zero)


@operator("com.microsoft::QLinearSigmoid", moves=True)
def qlinear_sigmoid(
    call: OpCall, x: Tensor, x_scale: Tensor, x_zero: Tensor, y_scale: Tensor, y_zero: Tensor
) -> Tensor:
    """Return the sigmoid of a quantized tensor."""
    return requantize(torch.sigmoid(_real(x, x_scale, x_zero)), y_scale, y_zero)


@operator("com.microsoft::QLinearLeakyRelu", moves=True)
def qlinear_leaky_relu(
    call: OpCall, x: Tensor, x_scale: Tensor, x_zero: Tensor, y_scale: Tensor, y_zero: Tensor, *, alpha: float = 0.01
) -> Tensor:
    """Return the leaky ReLU of a quantized tensor."""
    return requantize(F.leaky_relu(_real(x, x_scale, x_zero), alpha), y_scale, y_zero)


@operator("com.microsoft::QLinearSoftmax", moves=True)
def qlinear_softmax(
    call: OpCall, x: Tensor, x_scale: Tensor, x_zero: Tensor, y_scale: Tensor, y_zero: Tensor, *, axis: int = -1,
    opset: int = 13,
) -> Tensor:  # fmt: skip
    """Return the softmax of a quantized tensor, over all dimensions from the axis on before opset 13."""
    real = _real(x, x_scale, x_zero)
    flat = real if opset >= 13 else real.flatten(axis % x.dim())
    return requantize(stable_softmax(_exact(call), flat, axis).reshape(x.shape), y_scale, y_zero)


@operator("com.microsoft::QLinearGlobalAveragePool", moves=True)
def qlinear_global_average_pool(
    call: OpCall, x: Tensor, x_scale: Tensor, x_zero: Tensor, y_scale: Tensor, y_zero: Tensor, *, channels_last: int = 0
) -> Tensor:
    """Return the mean of each channel of a quantized image."""
    dims = range(1, x.dim() - 1) if channels_last else range(2, x.dim())
    return requantize(_real(x, x_scale, x_zero).mean(tuple(dims), keepdim=True), y_scale, y_zero)


@operator("com.microsoft::QLinearAveragePool", moves=True)
def qlinear_average_pool(
    call: OpCall, x: Tensor, x_scale: Tensor, x_zero: Tensor, y_scale: Tensor, y_zero: Tensor, *,
    channels_last: int = 0, **attributes: Any,
) -> Tensor:  # fmt: skip
    """Return the means of windows of a quantized image."""
    real = _real(x, x_scale, x_zero)
    real = real.movedim(-1, 1) if channels_last else real
    means = average_pool(_exact(call), real, **attributes)
    return requantize(means.movedim(1, -1) if channels_last else means, y_scale, y_zero)


@operator("com.microsoft::QLinearConcat", moves=True)
def qlinear_concat(call: OpCall, y_scale: Tensor, y_zero: Tensor, *inputs: Tensor, axis: int) -> Tensor:
    """Join quantized tensors; they arrive with their scale and zero point, three inputs each."""
    parts = [_real(*inputs[i : i + 3]) for i in range(0, len(inputs), 3)]
    return requantize(torch.cat(parts, axis), y_scale, y_zero)


@operator("com.microsoft::QLinearWhere", moves=True)
def qlinear_where(
    call: OpCall, condition: Tensor, a: Tensor, a_scale: Tensor, a_zero: Tensor, b: Tensor, b_scale: Tensor,
    b_zero: Tensor, y_scale: Tensor, y_zero: Tensor,
) -> Tensor:  # fmt: skip
    """Choose between quantized tensors."""
    return requantize(torch.where(condition, _real(a, a_scale, a_zero), _real(b, b_scale, b_zero)), y_scale, y_zero)


@operator("com.microsoft::QGemm", moves=True)
def qgemm(
    call: OpCall, a: Tensor, a_scale: Tensor, a_zero: Tensor, b: Tensor, b_scale: Tensor, b_zero: Tensor,
    c: Tensor | None = None, y_scale: Tensor | None = None, y_zero: Tensor | None = None, *, alpha: float = 1.0,
    transA: int = 0, transB: int = 0,
) -> Tensor:  # fmt: skip
    """Return alpha A B + C of integers, C in the scale of the product; in float32 if there is no output scale."""
    left = integers(a, a_zero, 0)
    right = integers(b, b_zero, 0 if transB else b.dim() - 1)
    total = torch.matmul(left.mT if transA else left, right.mT if transB else right)
    total = total if c is None else total + c.double()
    real = alpha * total * a_scale.double() * b_scale.double()
    return real.float() if y_scale is None or y_zero is None else requantize(real, y_scale, y_zero)


@operator("com.microsoft::MatMulIntegerToFloat")
def matmul_integer_to_float(
    call: OpCall, a: Tensor, b: Tensor, a_scale: Tensor, b_scale: Tensor, a_zero: Tensor | None = None,
    b_zero: Tensor | None = None, bias: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Multiply integers into float, with a scale per column of b."""
    product = torch.matmul(integers(a, a_zero, a.dim() - 2), integers(b, b_zero, b.dim() - 1))
    y = (product * a_scale.double() * b_scale.double()).to(a_scale.dtype)
    return y if bias is None else y + bias


@operator("com.microsoft::Gelu")
def gelu(call: OpCall, x: Tensor) -> Tensor:
    """Return the Gaussian error linear unit."""
    return F.gelu(x)


@operator("com.microsoft::BiasGelu")
def bias_gelu(call: OpCall, x: Tensor, bias: Tensor) -> Tensor:
    """Return the Gaussian error linear unit of x plus a bias."""
    return F.gelu(call.math.round(x + bias))


@operator("com.microsoft::FastGelu")
def fast_gelu(call: OpCall, x: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return the Gaussian error linear unit by its tanh formula."""
    return F.gelu(x if bias is None else call.math.round(x + bias), approximate="tanh")


@operator("com.microsoft::QuickGelu")
def quick_gelu(call: OpCall, x: Tensor, *, alpha: float = 1.702) -> Tensor:
    """Return x sigmoid(alpha x)."""
    return x * torch.sigmoid(alpha * x)


@operator("com.microsoft::FusedMatMul")
def fused_matmul(
    call: OpCall, a: Tensor, b: Tensor, *, alpha: float = 1.0, transA: int = 0, transB: int = 0,
    transBatchA: int = 0, transBatchB: int = 0,
) -> Tensor:  # fmt: skip
    """Return alpha A B; a transposed batch means that the first dimension moves behind the last batch dimension."""
    left, right = (x.movedim(0, x.dim() - 2) if batch else x for x, batch in ((a, transBatchA), (b, transBatchB)))
    product = call.math.matmul(left.mT if transA else left, right.mT if transB else right)
    return product if alpha == 1 else alpha * product


def _activated(name: str, x: Tensor, parameters: Sequence[float]) -> Tensor:
    """Apply the activation that a fused operator names.

    Raises:
        NotImplementedError: It is none of those that ONNX Runtime fuses.
    """
    functions: dict[str, Callable[..., Tensor]] = {
        "": lambda: x,
        "Relu": lambda: torch.relu(x),
        "Tanh": lambda: torch.tanh(x),
        "Sigmoid": lambda: torch.sigmoid(x),
        "LeakyRelu": lambda a=0.01: F.leaky_relu(x, a),
        "Clip": lambda low=-torch.inf, high=torch.inf: x.clamp(low, high),
        "HardSigmoid": lambda a=0.2, b=0.5: (a * x + b).clamp(0, 1),
    }
    if name not in functions:
        raise NotImplementedError(f"activation {name}")
    return functions[name](*parameters)


@operator("com.microsoft::FusedConv")
def fused_conv(
    call: OpCall, x: Tensor, weight: Tensor, bias: Tensor | None = None, addend: Tensor | None = None, *,
    activation: str = "", activation_params: Sequence[float] = (), **attributes: Any,
) -> Tensor:  # fmt: skip
    """Convolve, add a tensor, and apply an activation."""
    y = call.math.round(conv(call, x, weight, bias, **attributes))
    return _activated(activation, y if addend is None else call.math.round(y + addend), activation_params)


@operator("com.microsoft::FusedGemm")
def fused_gemm(
    call: OpCall, a: Tensor, b: Tensor, c: Tensor | None = None, *, activation: str = "",
    activation_alpha: float | None = None, activation_beta: float | None = None, **attributes: Any,
) -> Tensor:  # fmt: skip
    """Return the activation of alpha A B + beta C."""
    parameters = [value for value in (activation_alpha, activation_beta) if value is not None]
    return _activated(activation, gemm(call, a, b, c, **attributes), parameters)


@operator("com.microsoft::SkipLayerNormalization")
def skip_layer_normalization(
    call: OpCall, x: Tensor, skip: Tensor, scale: Tensor, shift: Tensor | None = None, bias: Tensor | None = None, *,
    epsilon: float = 1e-5,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Standardize the sum of two tensors and a bias; also return the mean, the inverse deviation and the sum."""
    total = x + skip if bias is None else x + skip + bias
    return (*layer_normalization(call, total, scale, shift, epsilon=epsilon), total)
