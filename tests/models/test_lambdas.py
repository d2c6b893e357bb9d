"""Lambda layers compared with their equations, and with the layers that they equal in special cases."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from effbench.errors import UsageError
from effbench.models.layers import fuse
from effbench.models.mixers.lambdas import LambdaConv, LambdaLayer, apply_lambdas
from effbench.models.mixers.softmax import MultiHeadAttention

SIDE = 6


def seeded(layer: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    for tensor in (*layer.parameters(), *(b for b in layer.buffers() if b.dtype.is_floating_point)):
        tensor.data = torch.rand(tensor.shape, generator=generator) - 0.5
    for norm in (m for m in layer.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.running_var.add_(1)
    return layer.double().eval()


def image(channels: int = 8, side: int = SIDE, seed: int = 1, batch: int = 2) -> Tensor:
    return torch.randn(batch, channels, side, side, generator=torch.Generator().manual_seed(seed)).double()


def definition(layer, x: Tensor, embeddings: Tensor) -> Tensor:
    """Compute section 3 of the paper from embeddings of shape (u, M, k, N): one lambda per position."""
    positions = x.shape[-1] ** 2
    query = layer.query(x).reshape(len(x), layer.heads, layer.depth, positions)
    key = torch.softmax(layer.key(x).reshape(len(x), layer.depth, layer.intra, positions), -1)
    value = layer.value(x).reshape(len(x), layer.width, layer.intra, positions)
    content = torch.einsum("bkum,bvum->bkv", key, value)
    position = torch.einsum("umkn,bvum->bnkv", embeddings, value)
    mixed = torch.einsum("bnkv,bhkn->bhvn", content[:, None] + position, query)
    return mixed.reshape(len(x), -1, *x.shape[2:])


@torch.no_grad()
@pytest.mark.parametrize("intra", [1, 3])
def test_the_layer_equals_its_definition(intra: int) -> None:
    layer, x = seeded(LambdaLayer(8, 12, 2, 5, intra, (SIDE, SIDE))), image()
    embeddings = layer.embeddings().reshape(intra, SIDE**2, 5, SIDE**2)
    torch.testing.assert_close(layer(x), definition(layer, x, embeddings))
    torch.testing.assert_close(fuse(layer.float())(x.float()), layer(x.float()))


@torch.no_grad()
@pytest.mark.parametrize("intra", [1, 2])
def test_a_convolution_that_covers_the_map_equals_the_layer(intra: int) -> None:
    conv = seeded(LambdaConv(8, 12, 2, 5, 2 * SIDE - 1, intra))
    layer = LambdaLayer(8, 12, 2, 5, intra, (SIDE, SIDE)).double().eval()
    layer.load_state_dict(conv.state_dict())
    torch.testing.assert_close(conv(image()), layer(image()))


@torch.no_grad()
@pytest.mark.parametrize("intra", [1, 2])
def test_folded_channels_equal_the_3d_convolution(intra: int) -> None:
    layer = seeded(LambdaConv(8, 12, 2, 5, 3, intra))
    value = image(6 * intra)
    # The form of other implementations: the value channels are a third axis with kernel size 1.
    stacked = value.reshape(2, 6, intra, SIDE, SIDE).transpose(1, 2)
    expected = F.conv3d(stacked, layer.position.weight[:, :, None], padding=(0, 1, 1))
    torch.testing.assert_close(layer.position_lambdas(value), expected.transpose(1, 2).flatten(3))


@torch.no_grad()
def test_content_alone_is_linear_attention_with_normalised_keys() -> None:
    layer, x = seeded(LambdaConv(8, 8, 1, 5, 3)), image()
    layer.position.weight.zero_()
    query, key, value = (part(x).flatten(2) for part in (layer.query, layer.key, layer.value))
    expected = (value @ torch.softmax(key, -1).transpose(-1, -2)) @ query
    torch.testing.assert_close(layer(x).flatten(2), expected)


@torch.no_grad()
def test_positions_are_translation_equivariant() -> None:
    # A roll does not change the global sums of the content lambdas, and nothing else two positions from a border.
    layer, x = seeded(LambdaConv(8, 8, 2, 5, 5)), image(side=14)
    outputs, expected = layer(x.roll((2, -3), (2, 3))), layer(x).roll((2, -3), (2, 3))
    torch.testing.assert_close(outputs[..., 4:12, 2:9], expected[..., 4:12, 2:9])
    assert (outputs - expected)[..., 0, 0].abs().max() > 1e-3


class Written(TorchDispatchMode):
    """Counts the elements that operators write: the memory of all activations."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, Tensor) and not func.is_view:
                self.elements += tensor.numel()
        return out


def written(layer: nn.Module, batch: int, side: int) -> int:
    with torch.no_grad(), Written() as mode:
        layer(torch.zeros(batch, 8, side, side))
    return mode.elements


def test_memory_is_linear_in_batch_and_positions() -> None:
    layer = fuse(LambdaConv(8, 8, 2, 4, 3))
    small, middle, large = (written(layer, 1, side) for side in (8, 16, 32))
    assert large - middle == 4 * (middle - small)
    batch2, batch3, batch4 = (written(layer, batch, 16) for batch in (2, 3, 4))
    assert batch4 - batch3 == batch3 - batch2
    attention = MultiHeadAttention(8, 1)
    assert written(attention, 1, 32) > 100 * written(attention, 1, 8)


@torch.no_grad()
def test_lambdas_are_applied_per_position() -> None:
    query, lambdas = torch.randn(2, 3, 5, 7), torch.randn(2, 4, 5, 7)
    expected = torch.einsum("bhkn,bvkn->bhvn", query, lambdas).flatten(1, 2)
    torch.testing.assert_close(apply_lambdas(query, lambdas), expected)


def test_invalid_options_are_errors() -> None:
    with pytest.raises(UsageError, match="heads=3"):
        LambdaConv(8, 8, 3)
    with pytest.raises(UsageError, match="kernel=4"):
        LambdaConv(8, kernel=4)
    with pytest.raises(UsageError, match="built for maps of 6x6 positions, not 7x7"):
        LambdaLayer(8, resolution=(6, 6))(torch.zeros(1, 8, 7, 7))
