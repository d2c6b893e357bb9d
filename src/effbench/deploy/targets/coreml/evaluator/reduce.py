"""MIL operations that reduce, normalize or accumulate along axes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from effbench.deploy.targets.coreml.evaluator.registry import RULES, OperationCall, narrow, operation
from effbench.deploy.targets.coreml.evaluator.sums import total
from effbench.deploy.targets.coreml.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


def _axes(call: OperationCall) -> list[int]:
    rank = call.raw("x").ndim
    return [axis % rank for axis in call.numbers("axes", list(range(rank)))]


def mean(x: Tensor, axes: list[int], half: bool) -> Tensor:
    """Average over axes, which are kept with size 1."""
    count = 1
    for axis in axes:
        count *= x.shape[axis]
    return total(x, axes, half) / count


def _log_sum_exp(x: Tensor, axes: list[int], half: bool) -> Tensor:
    peak = x.amax(axes, keepdim=True)
    peak = torch.where(torch.isfinite(peak), peak, torch.zeros_like(peak))
    return torch.log(total(torch.exp(x - peak), axes, half)) + peak


def _product(x: Tensor, axes: list[int], half: bool) -> Tensor:
    for axis in axes:
        x = x.prod(axis, keepdim=True)
    return x


REDUCTIONS: dict[str, Callable[[Tensor, list[int], bool], Tensor]] = {
    "reduce_l1_norm": lambda x, axes, half: total(x.abs(), axes, half),
    "reduce_l2_norm": lambda x, axes, half: total(x * x, axes, half).sqrt(),
    "reduce_log_sum": lambda x, axes, half: torch.log(total(x, axes, half)),
    "reduce_log_sum_exp": _log_sum_exp,
    "reduce_max": lambda x, axes, half: x.amax(axes, keepdim=True),
    "reduce_mean": mean,
    "reduce_min": lambda x, axes, half: x.amin(axes, keepdim=True),
    "reduce_prod": _product,
    "reduce_sum": total,
    "reduce_sum_square": lambda x, axes, half: total(x * x, axes, half),
}


def _reduction(kind: str) -> Callable[[OperationCall], Tensor]:
    def rule(call: OperationCall) -> Tensor:
        axes = _axes(call)
        result = REDUCTIONS[kind](call.tensor("x"), axes, call.half)
        return result if call.flag("keep_dims") else result.squeeze(tuple(axes))

    return rule


RULES.update({kind: _reduction(kind) for kind in REDUCTIONS})


@operation("reduce_argmax", "reduce_argmin")
def argument(call: OperationCall) -> Tensor:
    """Return the index of the extreme, the first of equal elements."""
    x, axis, keep = call.tensor("x"), call.integer("axis", -1), call.flag("keep_dims")
    # Which of equal elements torch.argmax returns is unspecified; a stable sort returns the first.
    order = torch.sort(x, dim=axis, descending=call.kind == "reduce_argmax", stable=True).indices.narrow(axis, 0, 1)
    return order if keep else order.squeeze(axis)


@operation("cumsum")
def cumsum(call: OperationCall) -> Tensor:
    """Accumulate along an axis, optionally without the element itself, or from the end."""
    x, axis = call.tensor("x"), call.integer("axis")
    x = x.flip(axis) if call.flag("reverse") else x
    sums = x.half().cumsum(axis).float() if call.half else x.cumsum(axis)
    sums = sums - x if call.flag("exclusive") else sums
    return sums.flip(axis) if call.flag("reverse") else sums


def exponentials(x: Tensor, axis: int, half: bool) -> Tensor:
    """Return exp(x - max), rounded to half precision if sums are."""
    shifted = x - x.amax(axis, keepdim=True)
    return narrow(torch.exp(narrow(shifted))) if half else torch.exp(shifted)


@operation("softmax")
def softmax(call: OperationCall) -> Tensor:
    """Normalize exponentials along an axis."""
    x, axis = call.tensor("x"), call.integer("axis", -1)
    weights = exponentials(x, axis, call.half)
    return weights / total(weights, [axis], call.half)


def _normalize(x: Tensor, axes: list[int], epsilon: float, half: bool) -> Tensor:
    rounded = narrow if half else (lambda value: value)
    centered = rounded(x - rounded(mean(x, axes, half)))
    variance = rounded(mean(rounded(centered * centered), axes, half))
    return rounded(centered * rounded(torch.rsqrt(variance + epsilon)))


@operation("layer_norm")
def layer_norm(call: OperationCall) -> Tensor:
    """Normalize over axes, then scale and shift along them."""
    x, axes = call.tensor("x"), sorted(_axes(call))
    result = _normalize(x, axes, call.number("epsilon", 1e-5), call.half)
    shape = [size if axis in axes else 1 for axis, size in enumerate(x.shape)]
    result = result * call.tensor("gamma").reshape(shape) if "gamma" in call else result
    return result + call.tensor("beta").reshape(shape) if "beta" in call else result


def _per_channel(call: OperationCall, key: str) -> Tensor:
    return call.tensor(key).reshape(-1, *(1 for _ in range(call.raw("x").ndim - 2)))


@operation("instance_norm")
def instance_norm(call: OperationCall) -> Tensor:
    """Normalize each channel of each image over space."""
    x = call.tensor("x")
    result = _normalize(x, list(range(2, x.ndim)), call.number("epsilon", 1e-5), call.half)
    result = result * _per_channel(call, "gamma") if "gamma" in call else result
    return result + _per_channel(call, "beta") if "beta" in call else result


@operation("batch_norm")
def batch_norm(call: OperationCall) -> Tensor:
    """Normalize each channel by constant statistics."""
    scale = torch.rsqrt(_per_channel(call, "variance") + call.number("epsilon", 1e-5))
    scale = scale * _per_channel(call, "gamma") if "gamma" in call else scale
    result = (call.tensor("x") - _per_channel(call, "mean")) * scale
    return result + _per_channel(call, "beta") if "beta" in call else result


@operation("l2_norm")
def l2_norm(call: OperationCall) -> Tensor:
    """Divide by the root of the sum of squares over the last three dimensions."""
    x = call.tensor("x")
    return x / torch.sqrt(total(x * x, [-3, -2, -1], call.half) + call.number("epsilon", 1e-6))


@operation("local_response_norm")
def local_response_norm(call: OperationCall) -> Tensor:
    """Divide by a power of the mean square of neighboring channels."""
    x, size = call.tensor("x"), call.integer("size")
    squares = torch.nn.functional.pad((x * x).movedim(1, -1), ((size - 1) // 2, size // 2)).unfold(-1, size, 1)
    sums = squares.sum(-1).movedim(-1, 1)
    return x / (call.number("k", 1.0) + call.number("alpha", 1e-4) / size * sums) ** call.number("beta", 0.75)
