"""Reductions over dimensions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from effbench.deploy.interpreter.registry import OpCall, operator

Reducer = Callable[[OpCall, Tensor, list[int], bool], Tensor]


def _bound(kind: torch.dtype, upper: bool) -> float:
    if kind.is_floating_point:
        return float("inf") if upper else float("-inf")
    limits = (0, 1) if kind is torch.bool else (torch.iinfo(kind).min, torch.iinfo(kind).max)
    return limits[upper]


def _extreme(x: Tensor, dims: list[int], keepdim: bool, largest: bool) -> Tensor:
    if 0 in [x.shape[d] for d in dims]:  # the neutral element
        shape = [1 if d in dims else n for d, n in enumerate(x.shape)]
        full = x.new_full(shape, _bound(x.dtype, not largest))
        return full if keepdim else full.reshape([n for d, n in enumerate(x.shape) if d not in dims])
    return x.amax(dims, keepdim=keepdim) if largest else x.amin(dims, keepdim=keepdim)


def _product(call: OpCall, x: Tensor, dims: list[int], keepdim: bool) -> Tensor:
    for d in sorted(dims, reverse=True):
        x = x.prod(d, keepdim=keepdim)
    return x


def _log_sum_exp(call: OpCall, x: Tensor, dims: list[int], keepdim: bool) -> Tensor:
    if 0 in [x.shape[d] for d in dims]:
        return torch.log(call.math.sum(torch.exp(x), dims, keepdim))
    top = x.amax(dims, keepdim=True)
    total = call.math.sum(call.math.round(torch.exp(x - top)), dims, True)
    result = torch.log(total) + top
    return result if keepdim else result.reshape([n for d, n in enumerate(x.shape) if d not in dims])


_REDUCERS: dict[str, Reducer] = {
    "ReduceSum": lambda call, x, dims, keep: call.math.sum(x, dims, keep).to(x.dtype),
    "ReduceMean": lambda call, x, dims, keep: call.math.mean(x, dims, keep).to(x.dtype),
    "ReduceMax": lambda call, x, dims, keep: _extreme(x, dims, keep, True),
    "ReduceMin": lambda call, x, dims, keep: _extreme(x, dims, keep, False),
    "ReduceProd": _product,
    "ReduceL1": lambda call, x, dims, keep: call.math.sum(x.abs(), dims, keep).to(x.dtype),
    "ReduceL2": lambda call, x, dims, keep: torch.sqrt(call.math.sum(call.math.round(x * x), dims, keep)).to(x.dtype),
    "ReduceLogSum": lambda call, x, dims, keep: torch.log(call.math.sum(x, dims, keep)),
    "ReduceLogSumExp": _log_sum_exp,
    "ReduceSumSquare": lambda call, x, dims, keep: call.math.sum(call.math.round(x * x), dims, keep).to(x.dtype),
}


def _register(name: str, reducer: Reducer) -> None:
    @operator(name)
    def reduce(
        call: OpCall,
        x: Tensor,
        axes_input: Tensor | None = None,
        *,
        axes: Sequence[int] | None = None,
        keepdims: int = 1,
        noop_with_empty_axes: int = 0,
    ) -> Tensor:
        chosen = [int(a) for a in axes_input] if axes_input is not None else list(axes or [])
        if not chosen and not noop_with_empty_axes:
            chosen = list(range(x.dim()))
        # With no axes at all the reduction is over nothing, but its elementwise part (squares, logarithm) still holds.
        dims = [a % x.dim() for a in chosen] if x.dim() else []
        if not dims and name in ("ReduceMax", "ReduceMin", "ReduceMean", "ReduceProd", "ReduceSum"):
            return x
        if not dims:
            return reducer(call, x.unsqueeze(0), [0], False)
        return reducer(call, x, dims, bool(keepdims))


for _name, _reducer in _REDUCERS.items():
    _register(_name, _reducer)


def _arg(x: Tensor, axis: int, keepdims: int, last: int, largest: bool) -> Tensor:
    if last:
        x = x.flip(axis)
    places = x.argmax(axis, keepdim=bool(keepdims)) if largest else x.argmin(axis, keepdim=bool(keepdims))
    return x.shape[axis] - 1 - places if last else places


@operator("ArgMax")
def arg_max(call: OpCall, x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    """Return the index of the largest value along an axis."""
    return _arg(x, axis, keepdims, select_last_index, True)


@operator("ArgMin")
def arg_min(call: OpCall, x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    """Return the index of the smallest value along an axis."""
    return _arg(x, axis, keepdims, select_last_index, False)


def _cumulate(x: Tensor, axis: int, exclusive: int, reverse: int, neutral: int) -> Tensor:
    x = x.flip(axis) if reverse else x
    if exclusive:
        first = torch.full_like(x.narrow(axis, 0, 1), neutral)
        x = torch.cat([first, x.narrow(axis, 0, x.shape[axis] - 1)], axis)
    y = (torch.cumprod(x, axis) if neutral else torch.cumsum(x, axis)).to(x.dtype)
    return y.flip(axis) if reverse else y


@operator("CumSum")
def cum_sum(call: OpCall, x: Tensor, axis: Tensor, *, exclusive: int = 0, reverse: int = 0) -> Tensor:
    """Return running sums; the half modes round only the results."""
    return _cumulate(x, int(axis), exclusive, reverse, 0)


@operator("CumProd")
def cum_prod(call: OpCall, x: Tensor, axis: Tensor, *, exclusive: int = 0, reverse: int = 0) -> Tensor:
    """Return running products."""
    return _cumulate(x, int(axis), exclusive, reverse, 1)


@operator("TopK", moves=True)
def top_k(
    call: OpCall,
    x: Tensor,
    count: Tensor | None = None,
    *,
    axis: int = -1,
    k: int = 0,
    largest: int = 1,
    sorted: int = 1,
) -> tuple[Tensor, Tensor]:
    """Return the k largest or smallest values and their indices; equal values keep their order."""
    k = k if count is None else int(count)
    values, places = torch.sort(x, dim=axis, descending=bool(largest), stable=True)
    return values.narrow(axis, 0, k), places.narrow(axis, 0, k)
