"""The number system of one run: exact, as the graph declares, or in half precision as on small accelerators.

Half precision is simulated on float32 carriers. A device's arithmetic inside one operator is rarely documented, so two
bounds are computed. *fp32 accumulation*: an operator works in float32 and only its result is rounded. *Half
accumulation*: sums are formed from exact partial sums of `chunk` terms, each rounded to half and added to a running
sum that is rounded again, and the steps inside a normalization or softmax are rounded too. A kernel window of a
convolution is never split. Elementwise functions count as one step: devices have tables or exact units for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

HALF_MIN_NORMAL = 2.0**-14
"""Smaller magnitudes are subnormal in half precision; many NPUs and GPU modes flush them to zero."""
CHUNK = 32
"""Terms of a sum that are added exactly before rounding; the order of a matrix unit's dot product (16 to 64)."""

_FLUSH_BELOW = 6.1035e-05  # just under 2**-14, because hardshrink also clears its own threshold


def to_half(x: Tensor, flush: bool) -> Tensor:
    """Round a floating-point tensor to float16, and subnormals to zero if ``flush`` is set."""
    if x.dtype == torch.float64:
        x = x.float()
    half = x.half()
    return torch.nn.functional.hardshrink(half.float(), _FLUSH_BELOW).half() if flush else half


@dataclass(frozen=True)
class Mode:
    """A number system for one run; if ``floats`` is None, the types that the graph declares are kept."""

    name: str
    floats: torch.dtype | None = None
    half_accumulation: bool = False
    flush: bool = False
    chunk: int = CHUNK


MODES: dict[str, Mode] = {
    mode.name: mode
    for mode in (
        Mode("float32"),
        Mode("float64", torch.float64),
        Mode("half-acc32", torch.float16, flush=True),
        Mode("half-acc16", torch.float16, half_accumulation=True, flush=True),
        Mode("half-sums", half_accumulation=True, flush=True),
    )
}
"""``float32`` runs the graph with the types it declares (an fp16 graph is rounded after each operator); so does
``half-sums``, which also adds up in half precision where the graph declares it."""


@dataclass(frozen=True)
class Arithmetic:
    """The arithmetic inside one operator: plain float, or rounding to half at each step."""

    rounds: bool = False
    flush: bool = False
    chunk: int = CHUNK

    def round(self, x: Tensor) -> Tensor:
        """Return an intermediate value, rounded to half precision if this arithmetic rounds."""
        return to_half(x, self.flush).to(x.dtype) if self.rounds and x.is_floating_point() else x

    def sum(self, x: Tensor, dims: Sequence[int], keepdim: bool = False) -> Tensor:
        """Sum over dimensions."""
        if not dims:
            return x
        if not (self.rounds and x.is_floating_point()):
            return x.sum(tuple(dims), keepdim=keepdim)
        dims = sorted(d % x.dim() for d in dims)
        rest = [d for d in range(x.dim()) if d not in dims]
        flat = x.permute(*rest, *dims).flatten(len(rest))
        total = flat.new_zeros(flat.shape[:-1])
        for part in torch.split(flat, self.chunk, dim=-1):
            total = self.round(total + self.round(part.sum(-1)))
        if keepdim:
            for d in dims:
                total = total.unsqueeze(d)
        return total

    def mean(self, x: Tensor, dims: Sequence[int], keepdim: bool = False) -> Tensor:
        """Average over dimensions; the sum is computed first, so its overflow is simulated."""
        count = 1
        for d in dims:
            count *= x.shape[d]
        total = self.sum(x, dims, keepdim)
        return total / count if x.is_floating_point() else torch.div(total, count, rounding_mode="trunc")

    def matmul(self, a: Tensor, b: Tensor) -> Tensor:
        """Multiply matrices (numpy's rules for vectors and batches)."""
        if not self.rounds or a.shape[-1] <= self.chunk:
            return self.round(torch.matmul(a, b))
        rows = b.dim() - 2 if b.dim() > 1 else 0
        total: Tensor | None = None
        for start in range(0, a.shape[-1], self.chunk):
            size = min(self.chunk, a.shape[-1] - start)
            part = self.round(torch.matmul(a.narrow(-1, start, size), b.narrow(rows, start, size)))
            total = part if total is None else self.round(total + part)
        assert total is not None  # the loop runs: K > chunk
        return total
