"""Operators of audio models: Fourier transforms, windows, mel filters; a complex number is a pair in the last axis."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from effbench.deploy.interpreter.registry import OpCall, operator
from effbench.deploy.interpreter.types import torch_type


def _complex(x: Tensor) -> Tensor:
    """Return the complex tensor of (..., 1) real or (..., 2) pairs."""
    wide = x if x.dtype in (torch.float32, torch.float64) else x.float()
    imaginary = wide[..., 1] if x.shape[-1] == 2 else torch.zeros_like(wide[..., 0])
    return torch.complex(wide[..., 0].contiguous(), imaginary.contiguous())


def _transform(x: Tensor, length: int | None, axis: int, inverse: int, onesided: int) -> Tensor:
    axis = axis % x.dim()
    values = _complex(x)
    if inverse and onesided:  # the other half is the conjugate, and the result is real
        count = length or 2 * (x.shape[axis] - 1)
        real = torch.fft.irfft(values, count, dim=axis)
        values_only: Tensor = real.unsqueeze(-1).to(x.dtype)
        return values_only
    y = torch.fft.ifft(values, length, dim=axis) if inverse else torch.fft.fft(values, length, dim=axis)
    if onesided:
        y = y.narrow(axis, 0, y.shape[axis] // 2 + 1)
    pairs: Tensor = torch.view_as_real(y.resolve_conj()).to(x.dtype)
    return pairs


def _length(value: Tensor | None) -> int | None:
    return None if value is None else int(value)


@operator("DFT")
def dft_17(
    call: OpCall, x: Tensor, length: Tensor | None = None, *, axis: int = 1, inverse: int = 0, onesided: int = 0
) -> Tensor:
    """Discrete Fourier transform along an axis; x (..., 1 or 2), the result (..., 2)."""
    return _transform(x, _length(length), axis, inverse, onesided)


@operator("DFT", since=20)
def dft(
    call: OpCall,
    x: Tensor,
    length: Tensor | None = None,
    axis: Tensor | None = None,
    *,
    inverse: int = 0,
    onesided: int = 0,
) -> Tensor:
    """Discrete Fourier transform along an axis, by default the last but the one of the pairs."""
    return _transform(x, _length(length), -2 if axis is None else int(axis), inverse, onesided)


@operator("STFT")
def stft(
    call: OpCall,
    x: Tensor,
    step: Tensor,
    window: Tensor | None = None,
    length: Tensor | None = None,
    *,
    onesided: int = 1,
) -> Tensor:
    """Fourier transforms of overlapping frames; x (B, T, 1 or 2), the result (B, frames, bins, 2).

    Raises:
        ValueError: Neither a window nor a length is stated.
    """
    if window is None and length is None:
        raise ValueError("a window or a length of the frames is needed")
    size = int(length) if length is not None else len(window)  # type: ignore[arg-type]
    frames = x.unfold(1, size, int(step)).movedim(-1, 2)  # (B, frames, size, 1 or 2)
    if window is not None:
        frames = frames * window.reshape(-1, 1)
    return _transform(frames, None, 2, 0, onesided)


def _window(call: OpCall, size: Tensor, coefficients: Sequence[float], periodic: int, kind: int) -> Tensor:
    count = int(size)
    steps = torch.arange(count, dtype=torch.float64) * (2 * math.pi / (count if periodic else count - 1))
    total = sum(c * torch.cos(i * steps) for i, c in enumerate(coefficients))
    assert isinstance(total, Tensor)
    return total.to(call.float_type(torch_type(kind)))


@operator("HannWindow")
def hann_window(call: OpCall, size: Tensor, *, output_datatype: int = 1, periodic: int = 1) -> Tensor:
    """Return a raised cosine."""
    return _window(call, size, (0.5, -0.5), periodic, output_datatype)


@operator("HammingWindow")
def hamming_window(call: OpCall, size: Tensor, *, output_datatype: int = 1, periodic: int = 1) -> Tensor:
    """Return a raised cosine on a pedestal."""
    return _window(call, size, (25 / 46, -21 / 46), periodic, output_datatype)


@operator("BlackmanWindow")
def blackman_window(call: OpCall, size: Tensor, *, output_datatype: int = 1, periodic: int = 1) -> Tensor:
    """Return a window of three cosines."""
    return _window(call, size, (0.42, -0.5, 0.08), periodic, output_datatype)


@operator("MelWeightMatrix")
def mel_weight_matrix(
    call: OpCall,
    bins: Tensor,
    length: Tensor,
    rate: Tensor,
    lower_hz: Tensor,
    upper_hz: Tensor,
    *,
    output_datatype: int = 1,
) -> Tensor:
    """Return triangular filters (spectrum bins, mel bins), whose corners lie on whole spectrum bins."""
    count, size = int(bins), int(length)
    low, high = (2595.0 * math.log10(1 + float(hz) / 700.0) for hz in (lower_hz, upper_hz))
    mels = low + torch.arange(count + 2, dtype=torch.float64) * ((high - low) / (count + 2))
    edges = torch.floor((size + 1) * (700.0 * (10 ** (mels / 2595.0) - 1)) / int(rate)).long()
    rows = torch.arange(size // 2 + 1, dtype=torch.float64).unsqueeze(1)
    left, center, right = (edges[i : i + count].double() for i in range(3))
    rising = torch.where(center > left, (rows - left) / (center - left).clamp(min=1), (rows == center).double())
    falling = (right - rows) / (right - center).clamp(min=1)
    weights = torch.where(rows <= center, rising, falling).clamp(min=0)
    inside = (rows >= left) & (rows < right) | (rows == center)
    return torch.where(inside, weights, 0.0).to(call.float_type(torch_type(output_datatype)))
