"""RGMA equals its explicit matrix, is finite in half precision, and its cost is linear in pixels."""

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from effbench.errors import UsageError
from effbench.models.regla import RGMA, BranchedDepthwise, LinearAttention, ReGLAOptions, elrf


def operands(side: int, width: int = 24, channels: int = 48, batch: int = 2, seed: int = 0) -> tuple[Tensor, ...]:
    """Return a query, a key divided by sqrt(N), and values in (0, 1)."""
    generator = torch.Generator().manual_seed(seed)
    query, key = (torch.randn(batch, width, side, side, generator=generator).relu() for _ in range(2))
    value = torch.randn(batch, channels, side, side, generator=generator).sigmoid()
    return query, key / side, value


def explicit(query: Tensor, key: Tensor, value: Tensor, heads: int, epsilon: float) -> Tensor:
    """Compute ReLU attention with the N x N matrix of weights."""
    q, k, v = (x.flatten(2).unflatten(1, (heads, -1)) for x in (query, key, value))
    weights = q.transpose(-1, -2) @ k
    weights = weights / (weights.sum(-1, keepdim=True) + epsilon * q.shape[-1] ** 0.5)
    return (v @ weights.transpose(-1, -2)).reshape(value.shape)


@pytest.mark.parametrize("heads", [1, 3])
def test_linear_order_equals_the_explicit_matrix(heads: int) -> None:
    query, key, value = operands(14)
    attention = LinearAttention(heads)
    expected = explicit(query, key, value, heads, attention.epsilon)
    torch.testing.assert_close(attention(query, key, value), expected, rtol=0, atol=1e-5)


def test_a_missing_denominator_is_detected() -> None:
    query, key, value = operands(14)
    constant = explicit(query, key, value, 1, 1e6) * 1e6 * 14
    assert (LinearAttention()(query, key, value) - constant).abs().max() > 0.1


def test_attention_stays_in_the_range_of_the_values_and_is_zero_for_a_zero_query() -> None:
    query, key, value = operands(16)
    query[:, :, 3, 5] = 0
    attended = LinearAttention()(query, key, value)
    assert attended.min() >= 0
    assert attended.max() <= value.max()
    assert torch.count_nonzero(attended[:, :, 3, 5]) == 0


def flushed(x: Tensor) -> Tensor:
    """Round to half precision and flush subnormal numbers to zero, as NPUs do."""
    half = x.half()
    return torch.where(half.abs() < torch.finfo(torch.float16).smallest_normal, torch.zeros_like(half), half)


def half_product(a: Tensor, b: Tensor) -> Tensor:
    """Return ``a @ b`` with every partial sum rounded to half and flushed, the least precise accumulation."""
    total = torch.zeros(a.shape[0], b.shape[1], dtype=torch.float16)
    for column, row in zip(flushed(a).T, flushed(b), strict=True):
        total = flushed(total + flushed(column[:, None] * row[None, :]))
    return total


def half_attention(query: Tensor, key: Tensor, value: Tensor, epsilon: float) -> Tensor:
    """Evaluate the sum-form core on (d, N) and (C, N) matrices, all in half with a half accumulator."""
    state = half_product(value, key.T)
    sums = half_product(key, torch.ones(key.shape[1], 1))
    added = flushed(torch.tensor(epsilon * key.shape[1] ** 0.5))
    return half_product(state, query) / flushed(half_product(sums.T, query) + added)


def test_half_accumulation_with_flush_to_zero_is_finite_at_1024_px() -> None:
    # 1024 px at stride 16 is 64 x 64 positions: the longest sums of the network.
    query, key, value = operands(64, width=16, channels=8, batch=1)
    query[:, :, 0, 0] = 0
    q, k, v = (x[0].flatten(1) for x in (query, key, value))
    epsilon = LinearAttention().epsilon
    expected = LinearAttention()(query, key, value)[0].flatten(1)
    half = half_attention(q, k, v, epsilon)
    assert torch.isfinite(half).all()
    assert (half.float() - expected).abs().max() < 0.05


def test_an_epsilon_below_the_smallest_normal_half_gives_nan() -> None:
    query, key, value = operands(4, width=4, channels=4, batch=1)
    query[:, :, 0, 0] = 0
    q, k, v = (x[0].flatten(1) for x in (query, key, value))
    assert torch.isnan(half_attention(q, k, v, 1e-6)[:, 0]).all()
    assert torch.isfinite(half_attention(q, k, v, 1e-3)).all()


def macs(side: int) -> int:
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        RGMA(48, 24, ReGLAOptions())(torch.empty(1, 48, side, side))
    return int(counter.get_total_flops()) // 2


def test_cost_is_exactly_linear_in_pixels() -> None:
    assert [macs(side) for side in (16, 32, 64)] == [macs(8) * factor for factor in (4, 16, 64)]


def test_an_elrf_pair_has_the_receptive_field_of_a_7x7() -> None:
    units = torch.nn.Sequential(*elrf(4, 16)).double().eval()
    x = torch.zeros(1, 4, 15, 15, dtype=torch.float64, requires_grad=True)
    units(x + 1)[0, :, 7, 7].sum().backward()
    receptive = x.grad[0].abs().sum(0) > 0
    assert receptive.nonzero().amin(0).tolist() == [4, 4]
    assert receptive.nonzero().amax(0).tolist() == [10, 10]


def test_options_change_the_units() -> None:
    assert len(elrf(8, 32, ReGLAOptions(order="parallel"))) == 1
    branched = list(torch.nn.ModuleList(elrf(8, 32, ReGLAOptions(reparam=True))).modules())
    assert sum(isinstance(m, BranchedDepthwise) for m in branched) == 1
    wide = elrf(8, 32, ReGLAOptions(dw_in_ffn=True))[1]
    assert [c.groups for c in wide.modules() if isinstance(c, torch.nn.Conv2d)] == [1, 16, 1]


@pytest.mark.parametrize("wrong", [{"order": "both"}, {"local_k": 4}, {"gate_act": "gelu"}, {"heads": 0}])
def test_unknown_options_are_errors(wrong: dict) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        ReGLAOptions(**wrong)


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(UsageError, match="heads"):
        RGMA(48, 24, ReGLAOptions(heads=5))
