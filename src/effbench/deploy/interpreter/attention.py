"""Attention as one operator (opset 23 on)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from effbench.deploy.interpreter.activation import stable_softmax
from effbench.deploy.interpreter.registry import OpCall, operator


def _heads(x: Tensor, count: int) -> Tensor:
    return x if x.dim() == 4 else x.reshape(*x.shape[:2], count, -1).transpose(1, 2)


def _allowed(scores: Tensor, offset: Tensor, lengths: Tensor | None, causal: int, left: int, right: int) -> Tensor:
    """Return which keys each query may attend to; ``offset`` is the first query's index among the keys, per image."""
    columns = torch.arange(scores.shape[-1])
    ahead = columns - (torch.arange(scores.shape[-2]).unsqueeze(1) + offset)
    allowed = torch.ones_like(ahead, dtype=torch.bool)
    if lengths is not None:
        allowed &= columns < lengths.reshape(-1, 1, 1, 1)
    if causal:
        allowed &= ahead <= 0
    if left >= 0:
        allowed &= ahead >= -left
    if right >= 0:
        allowed &= ahead <= right
    return allowed


def _bias(scores: Tensor, mask: Tensor | None, allowed: Tensor) -> Tensor:
    bias = torch.where(allowed, 0.0, -math.inf).to(scores.dtype)
    if mask is None:
        return bias
    boolean = mask.dtype == torch.bool
    missing = scores.shape[-1] - mask.shape[-1]
    if missing > 0:
        mask = torch.nn.functional.pad(mask, [0, missing], value=False if boolean else -math.inf)
    return bias + (torch.where(mask, 0.0, -math.inf) if boolean else mask).to(scores.dtype)


@operator("Attention")
def attention(
    call: OpCall,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    past_key: Tensor | None = None,
    past_value: Tensor | None = None,
    lengths: Tensor | None = None,
    *,
    is_causal: int = 0,
    kv_num_heads: int = 0,
    left_window_size: int = -1,
    q_num_heads: int = 0,
    qk_matmul_output_mode: int = 0,
    right_window_size: int = -1,
    scale: float | None = None,
    softcap: float = 0.0,
    softmax_precision: int = 0,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return softmax(scale Q K' + mask) V, the keys and values with their past, and the scores."""
    flat = query.dim() == 3
    query, key, value = _heads(query, q_num_heads), _heads(key, kv_num_heads), _heads(value, kv_num_heads)
    offset = torch.tensor(0 if past_key is None else past_key.shape[2])
    key = key if past_key is None else torch.cat([past_key, key], 2)
    value = value if past_value is None else torch.cat([past_value, value], 2)
    if lengths is not None:
        offset = lengths.reshape(-1, 1, 1, 1) - query.shape[2]
    repeat = query.shape[1] // key.shape[1]
    # Half of the scale on each side keeps the product in range; the standard prescribes it.
    root = math.sqrt(scale if scale is not None else 1 / math.sqrt(query.shape[-1]))
    keys = call.math.round(key * root).repeat_interleave(repeat, 1)
    raw = call.math.matmul(call.math.round(query * root), keys.transpose(-1, -2))
    capped = softcap * torch.tanh(raw / softcap) if softcap else raw
    allowed = _allowed(raw, offset, lengths, is_causal, left_window_size, right_window_size)
    biased = call.math.round(capped + _bias(raw, mask, allowed))
    # A query without any allowed key has no weights; its result is zero.
    masked = torch.isneginf(biased).all(-1, keepdim=True)
    weights = call.math.round(stable_softmax(call, biased, -1)).masked_fill(masked, 0.0)
    y = call.math.matmul(weights, value.repeat_interleave(repeat, 1))
    y = y.transpose(1, 2).flatten(2) if flat else y
    return y, key, value, (raw, capped, biased, weights)[qk_matmul_output_mode]


@operator("RotaryEmbedding")
def rotary_embedding(
    call: OpCall,
    x: Tensor,
    cosines: Tensor,
    sines: Tensor,
    positions: Tensor | None = None,
    *,
    interleaved: int = 0,
    num_heads: int = 0,
    rotary_embedding_dim: int = 0,
) -> Tensor:
    """Rotate pairs of features by angles of their position; x (B, T, heads * size) or (B, heads, T, size).

    A pair is two neighbors if ``interleaved``, else one of the first and one of the second half.
    """
    rows = _heads(x, num_heads)
    size = rotary_embedding_dim or rows.shape[-1]
    moved, rest = rows[..., :size], rows[..., size:]
    angles = [(table if positions is None else table[positions.long()]).unsqueeze(1) for table in (cosines, sines)]
    cos, sin = angles
    first, second = (moved[..., ::2], moved[..., 1::2]) if interleaved else torch.split(moved, size // 2, -1)
    real, imaginary = cos * first - sin * second, sin * first + cos * second
    rotated = torch.stack([real, imaginary], -1).flatten(-2) if interleaved else torch.cat([real, imaginary], -1)
    y = torch.cat([rotated, rest], -1)
    return y if x.dim() == 4 else y.transpose(1, 2).reshape(x.shape)
