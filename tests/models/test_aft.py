"""AFT compared with its definition, and the relations between its variants."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from effbench.errors import UsageError
from effbench.models.layers import fuse
from effbench.models.mixers.aft import AFTConv, AFTFull, AFTLocal, AFTSimple, conv_means, prefix_means, within

SIDE = 6


def seeded(layer, seed: int = 0, dtype: torch.dtype = torch.float64):
    """Draw every parameter away from its initial value, so that every term has an effect."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in layer.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.5
    return layer.to(dtype).eval()


def image(channels: int = 8, side: int = SIDE, seed: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(2, channels, side, side, generator=torch.Generator().manual_seed(seed)).to(dtype)


def definition(layer, x: Tensor, bias: Tensor) -> Tensor:
    """Compute equation 2 of the paper for all pairs; bias has shape (N, N) or (channels, N, N)."""
    query, key, value = (part(x).flatten(2) for part in (layer.query, layer.key, layer.value))
    key = key.repeat_interleave(value.shape[1] // key.shape[1], dim=1)
    pairs = torch.exp(key[:, :, None, :] + bias)
    mean = (pairs * value[:, :, None, :]).sum(-1) / pairs.sum(-1)
    return layer.project((torch.sigmoid(query) * mean).reshape(x.shape))


def conv_bias(layer: AFTConv, side: int, channels: int) -> Tensor:
    """Return the position biases of AFT-conv, shape (channels, N, N): the filter inside its scope, 0 outside."""
    position = layer.position[:, 0]
    mean, std = position.mean((1, 2), keepdim=True), position.std((1, 2), keepdim=True)
    filters = layer.gain[:, 0] * (position - mean) / std + layer.bias[:, 0]
    radius = filters.shape[-1] // 2
    bias = torch.zeros(len(filters), side * side, side * side, dtype=filters.dtype)
    for t in range(side * side):
        for j in range(side * side):
            y, x = j // side - t // side + radius, j % side - t % side + radius
            if 0 <= y < filters.shape[-1] and 0 <= x < filters.shape[-1]:
                bias[:, t, j] = filters[:, y, x]
    return bias.repeat_interleave(channels // len(filters), dim=0)


@torch.no_grad()
def test_full_equals_its_definition() -> None:
    layer, x = seeded(AFTFull(8, (SIDE, SIDE), factors=4)), image()
    expected = definition(layer, x, layer.rows @ layer.columns.T)
    torch.testing.assert_close(layer(x), expected)


@torch.no_grad()
@pytest.mark.parametrize("heads", [1, 4, 8])
def test_conv_equals_its_definition(heads: int) -> None:
    layer, x = seeded(AFTConv(8, heads, kernel=5)), image()
    expected = definition(layer, x, conv_bias(layer, SIDE, 8))
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(fuse(layer)(x), expected)


@torch.no_grad()
def test_conv_equals_simple_at_the_start() -> None:
    conv, simple, x = AFTConv(8, 8, kernel=5), AFTSimple(8), image(dtype=torch.float32)
    simple.load_state_dict({k: v for k, v in conv.state_dict().items() if k in simple.state_dict()})
    torch.testing.assert_close(conv(x), simple(x))
    conv.gain.fill_(1.0)
    assert (conv(x) - simple(x)).abs().max() > 1e-3


@torch.no_grad()
@given(st.floats(-5, 5), st.integers(0, 99))
@settings(max_examples=20, derandomize=True, deadline=None)
def test_full_with_a_constant_bias_equals_simple(constant: float, seed: int) -> None:
    full, simple = seeded(AFTFull(8, (SIDE, SIDE), factors=1), seed), AFTSimple(8).double()
    full.rows.fill_(constant)
    full.columns.fill_(1.0)
    simple.load_state_dict({k: v for k, v in full.state_dict().items() if k in simple.state_dict()})
    x = image(seed=seed)
    torch.testing.assert_close(full(x), simple(x))


@torch.no_grad()
def test_local_has_the_weights_of_simple_outside_its_window() -> None:
    local, x = seeded(AFTLocal(8, 2, (SIDE, SIDE), factors=4)), image()
    bias = local.bias((SIDE, SIDE))
    near = within((SIDE, SIDE), 2)
    assert (bias[~near] == 0).all()
    assert (bias[near] != 0).all()
    assert (near.sum(1).min(), near.sum(1).max()) == (4, 9)
    torch.testing.assert_close(local(x), definition(local, x, bias))
    # A distant value has an effect, with the weight of its key alone.
    changed = x.clone()
    changed[:, :, -1, -1] += 10
    assert (local(changed) - local(x))[:, :, 0, 0].abs().min() > 0


@torch.no_grad()
@pytest.mark.parametrize(
    "layer",
    [AFTSimple(8, causal=True), AFTFull(8, (SIDE, SIDE), 4, True), AFTLocal(8, 2, (SIDE, SIDE), 4, True)],
    ids=["simple", "full", "local"],
)
@pytest.mark.parametrize("position", [0, 7, 34])
def test_causal_outputs_do_not_depend_on_later_positions(layer, position: int) -> None:
    layer, x = seeded(layer), image()
    changed = x.flatten(2).clone()
    changed[..., position + 1 :] = 100 * torch.randn(changed[..., position + 1 :].shape)
    before, after = (layer(value.reshape(x.shape)).flatten(2) for value in (x, changed))
    assert torch.equal(before[..., : position + 1], after[..., : position + 1])
    assert not torch.equal(before[..., position + 1 :], after[..., position + 1 :])


@torch.no_grad()
def test_causal_layers_equal_their_definition() -> None:
    x = image()
    future = torch.full((SIDE**2, SIDE**2), -torch.inf, dtype=torch.float64).triu(1)
    simple, full = seeded(AFTSimple(8, causal=True)), seeded(AFTFull(8, (SIDE, SIDE), 4, causal=True))
    torch.testing.assert_close(simple(x), definition(simple, x, future))
    torch.testing.assert_close(full(x), definition(full, x, full.rows @ full.columns.T + future))


@torch.no_grad()
def test_large_keys_do_not_overflow() -> None:
    key, value = image(seed=3) * 1000, image(seed=4)
    best = value.flatten(2).gather(2, key.flatten(2).argmax(2, keepdim=True))[..., None]
    layer = AFTSimple(8)
    torch.testing.assert_close(layer.attend(key, value), best)
    assert torch.isfinite(prefix_means(key.flatten(2), value.flatten(2))).all()
    filters, scale = AFTConv(8, 8, 5).filters()
    torch.testing.assert_close(conv_means(key, value, filters.double(), scale.double()), best.expand_as(value))


@torch.no_grad()
@pytest.mark.parametrize("layer", [AFTSimple(8), AFTConv(8, 4, 11), AFTFull(8, (32, 32), 16)], ids=lambda x: type(x))
def test_half_precision_agrees_at_512_px(layer) -> None:
    layer, x = seeded(layer, dtype=torch.float32), image(side=32, dtype=torch.float32)
    expected = layer(x)
    half = layer.half()(x.half()).float()
    assert torch.isfinite(half).all()
    assert (half - expected).abs().max() < 2e-2 * expected.std()


@torch.no_grad()
def test_conv_is_translation_equivariant() -> None:
    layer = seeded(AFTConv(8, 4, kernel=5))
    key, value = image(4, 12), image(8, 12)
    attended = layer.attend(key, value)
    rolled = layer.attend(key.roll((2, 3), (2, 3)), value.roll((2, 3), (2, 3)))
    torch.testing.assert_close(rolled[..., 4:-2, 5:-2], attended.roll((2, 3), (2, 3))[..., 4:-2, 5:-2])


@torch.no_grad()
def test_full_resamples_its_factors_for_another_map() -> None:
    layer, x = seeded(AFTFull(8, (SIDE, SIDE), 4)), image(side=9)
    expected = layer(x)
    layer.fit((9, 9))
    assert layer.rows.shape == (81, 4)
    torch.testing.assert_close(layer(x), expected)


def test_invalid_options_are_errors() -> None:
    with pytest.raises(UsageError, match="heads=3"):
        AFTConv(8, 3)
    with pytest.raises(UsageError, match="kernel=4"):
        AFTConv(8, 4, kernel=4)
