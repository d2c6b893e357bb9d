"""Every mixer by name: its signature, the growth of its cost, and its definition unless another file tests it."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from effbench.errors import UsageError
from effbench.models import mixers
from effbench.models.initialise import Untrained
from effbench.models.mixers.relu_linear import EPSILON, ReLULinearHeads
from effbench.models.mixers.softmax import MultiHeadAttention
from effbench.models.mixers.windows import Join, Partition

NAMES = list(mixers.mixers())


def macs(name: str, side: int) -> int:
    with torch.device("meta"):
        module = mixers.build(name, 64, (side, side)).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            module(torch.empty(1, 64, side, side))
    return int(counter.get_total_flops()) // 2


def exponent(name: str) -> float:
    """Return the exponent of the MACs in the number of positions, from 32 x 32 to 64 x 64."""
    small, large = macs(name, 32), macs(name, 64)
    return math.log(large / small) / math.log(4)


@pytest.mark.parametrize("name", [n for n in NAMES if mixers.get(n).order == "O(N)"])
def test_cost_of_linear_mixers_is_exactly_linear(name: str) -> None:
    assert [macs(name, side) for side in (32, 64)] == [macs(name, 16) * factor for factor in (4, 16)]


@pytest.mark.parametrize("name", [n for n in NAMES if mixers.get(n).order == "O(N^2)"])
def test_cost_of_quadratic_mixers_grows_faster(name: str) -> None:
    assert exponent(name) > 1.5


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_every_mixer_keeps_the_shape_and_mixes(name: str) -> None:
    torch.manual_seed(0)
    module = mixers.build(name, 64, (16, 32)).eval()
    x = torch.randn(2, 64, 16, 32)
    y = module(x)
    assert y.shape == x.shape
    # A change in the last row of the first image (or as far as a local mixer looks) affects its first row only.
    x[0, :, 3 if name == "local" else 15, 0] += 1
    assert not torch.equal(module(x)[0, :, 0, 0], y[0, :, 0, 0])
    torch.testing.assert_close(module(x)[1], y[1])


@pytest.mark.parametrize("name", NAMES)
def test_every_mixer_sets_its_untrained_weights(name: str) -> None:
    module = mixers.build(name, 64, (14, 14))
    assert any(isinstance(part, Untrained) and not isinstance(part, nn.Sequential) for part in module.modules())


def test_an_unknown_mixer_lists_near_misses() -> None:
    with pytest.raises(UsageError, match="Did you mean aft-conv"):
        mixers.get("aft-con")


@torch.no_grad()
def test_multi_head_attention_equals_that_of_torch() -> None:
    torch.manual_seed(0)
    module, reference, x = (
        MultiHeadAttention(48, 3),
        nn.MultiheadAttention(48, 3, batch_first=True),
        torch.randn(2, 48, 5, 7),
    )
    reference.in_proj_weight.copy_(module.qkv.weight.flatten(1))
    reference.in_proj_bias.copy_(module.qkv.bias)
    reference.out_proj.weight.copy_(module.project.weight.flatten(1))
    reference.out_proj.bias.copy_(module.project.bias)
    tokens = x.flatten(2).transpose(1, 2)
    expected, _ = reference(tokens, tokens, tokens, need_weights=False)
    torch.testing.assert_close(module(x).flatten(2).transpose(1, 2), expected)


@torch.no_grad()
def test_relu_linear_attention_equals_its_definition() -> None:
    query, key, value = torch.randn(3, 2, 4, 8, 25).double()
    weights = F.relu(query).transpose(-1, -2) @ F.relu(key)
    # Epsilon is part of the definition: it counts as one more position of zero value.
    expected = value @ (weights / (weights.sum(-1, keepdim=True) + 25 * EPSILON)).transpose(-1, -2)
    torch.testing.assert_close(ReLULinearHeads()(query, key, value), expected)
    assert 0 < EPSILON <= 1e-3


def test_windows_are_split_and_joined() -> None:
    x = torch.arange(2 * 3 * 8 * 12).reshape(2, 3, 8, 12)
    windows = Partition(4)(x)
    assert windows.shape == (12, 3, 4, 4)
    expected = [x[b, :, r : r + 4, c : c + 4] for b in range(2) for r in (0, 4) for c in (0, 4, 8)]
    assert torch.equal(windows, torch.stack(expected))
    assert torch.equal(Join()(windows, 8, 12), x)


def test_a_map_that_windows_do_not_tile_is_padded_and_cropped() -> None:
    x = torch.rand(1, 3, 5, 9)
    windows = Partition(4)(x)
    assert windows.shape == (6, 3, 4, 4)
    assert torch.equal(windows[5, :, 1:], torch.zeros(3, 3, 4))
    assert torch.equal(Join()(windows, 5, 9), x)
