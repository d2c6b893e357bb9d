"""Folding is exact, and networks reject sizes that are not multiples of their stride."""

from pathlib import Path

import pytest
import torch
from torch import nn

from effbench.errors import UsageError
from effbench.models.build import build
from effbench.models.iformer import iformer_t
from effbench.models.layers import Classifier, ConvNorm, Residual, fold_before, fuse, position_encoding
from effbench.models.regla import ReGLAOptions, regla_t
from effbench.schema import Backbone, Weights


def randomise_norms(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give every BatchNorm statistics and affine terms far from their defaults, so that a wrong fold has an effect."""
    generator = torch.Generator().manual_seed(seed)
    for norm in (m for m in model.modules() if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d))):
        norm.running_mean.copy_(torch.randn(norm.num_features, generator=generator))
        norm.running_var.copy_(torch.rand(norm.num_features, generator=generator) + 0.5)
        norm.weight.data.copy_(torch.rand(norm.num_features, generator=generator) + 0.5)
        norm.bias.data.copy_(torch.randn(norm.num_features, generator=generator))
    return model.eval()


def assert_fuses_exactly(model: nn.Module, x: torch.Tensor) -> None:
    randomise_norms(model)
    with torch.no_grad():
        expected = model(x)
        fused = fuse(model)
        torch.testing.assert_close(fused(x) / expected.std(), expected / expected.std(), rtol=0, atol=2e-5)
    assert not [m for m in fused.modules() if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d))]


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))


OPTIONS = [
    ReGLAOptions(order="parallel"),
    ReGLAOptions(dw_in_ffn=True),
    ReGLAOptions(reparam=True),
    ReGLAOptions(dw_in_ffn=True, reparam=True),
    ReGLAOptions(heads=2, gate_act="silu", v_act="identity"),
    ReGLAOptions(local_k=3, gate_act="hardsigmoid"),
    ReGLAOptions(local_k=0),
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_option_fuses_exactly(options: ReGLAOptions, images: torch.Tensor) -> None:
    torch.manual_seed(0)
    assert_fuses_exactly(regla_t(options=options), images)


@pytest.mark.parametrize("factory", [iformer_t, regla_t])
def test_networks_fuse_exactly(factory, images: torch.Tensor) -> None:
    torch.manual_seed(0)
    assert_fuses_exactly(factory(), images)


def test_a_wrong_fold_is_detected(images: torch.Tensor) -> None:
    class Wrong(ConvNorm):
        def fused(self) -> nn.Conv2d:
            conv = super().fused()
            conv.bias.data.mul_(0.99)
            return conv

    with pytest.raises(AssertionError, match="not close"):
        assert_fuses_exactly(Wrong(3, 4, 3), images)


def test_position_encoding_becomes_one_depthwise_convolution() -> None:
    unit = randomise_norms(position_encoding(6))
    x = torch.randn(1, 6, 5, 7)
    with torch.no_grad():
        expected = unit(x)
        fused = fuse(unit)
        assert isinstance(fused, nn.Conv2d)
        torch.testing.assert_close(fused(x), expected, rtol=0, atol=1e-5)


def test_other_residual_units_are_kept() -> None:
    assert isinstance(fuse(Residual(nn.Conv2d(4, 4, 1))), Residual)
    assert isinstance(fuse(Residual(nn.Conv2d(4, 4, 3, 2, 1, groups=4))), Residual)


@pytest.mark.parametrize("layer", [nn.Conv2d(6, 5, 1, bias=False), nn.Conv2d(6, 5, 1), nn.Conv2d(6, 5, 3)])
def test_norm_folds_into_the_convolution_after_it(layer: nn.Conv2d) -> None:
    norm = randomise_norms(nn.BatchNorm2d(6))
    x = torch.randn(2, 6, 8, 8)
    with torch.no_grad():
        expected = layer(norm(x))
        torch.testing.assert_close(fold_before(norm, layer)(x), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("layer", [nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 1, groups=2)])
def test_norm_before_padding_is_an_error(layer: nn.Conv2d) -> None:
    with pytest.raises(UsageError, match="without padding"):
        fold_before(nn.BatchNorm2d(6), layer)


def test_classifier_folds_its_norm() -> None:
    assert_fuses_exactly(Classifier(8, 5), torch.randn(3, 8, 4, 4))


@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 32), (96, 160)])
def test_stages_have_strides_4_to_32(height: int, width: int) -> None:
    with torch.no_grad():
        features = regla_t().eval().forward_features(torch.zeros(1, 3, height, width))
    expected = [(c, height // s, width // s) for c, s in ((32, 4), (64, 8), (128, 16), (256, 32))]
    assert [tuple(f.shape[1:]) for f in features] == expected


@pytest.mark.parametrize(("height", "width"), [(31, 32), (0, 32), (224, 200), (16, 16)])
def test_other_sizes_are_errors(height: int, width: int) -> None:
    with pytest.raises(UsageError, match=f"{height}x{width}"):
        iformer_t().forward_features(torch.zeros(1, 3, height, width))


class Silent(nn.Module):
    """A block whose own ``train`` returns nothing, as in five families of timm."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = ConvNorm(4, 4, 3)

    def train(self, mode: bool = True) -> None:  # type: ignore[override]
        super().train(mode)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.mix(x)


def test_a_module_whose_train_returns_nothing_stays() -> None:
    model = nn.Sequential(ConvNorm(3, 4), Silent())
    x = torch.randn(1, 3, 8, 8)
    randomise_norms(model)
    with torch.no_grad():
        expected = model(x)
        fused = fuse(model)
        torch.testing.assert_close(fused(x), expected)
    assert not any(module.training for module in fused.modules())
    assert isinstance(fuse(Silent()), Silent)


def test_a_factory_may_return_a_module_whose_train_returns_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "silent_factory.py").write_text(
        "from torch import nn\n\n"
        "class Quiet(nn.Conv2d):\n    def train(self, mode=True):\n        super().train(mode)\n\n"
        "def net():\n    return Quiet(3, 4, 1)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert not build(Backbone("quiet", "user", "silent_factory:net"), Weights()).training


def test_a_shared_module_is_folded_once() -> None:
    layer = ConvNorm(4, 4)
    model = nn.Sequential(nn.Sequential(layer), nn.Sequential(layer), layer)
    randomise_norms(model)
    x = torch.randn(1, 4, 8, 8)
    with torch.no_grad():
        expected = model(x)
        torch.testing.assert_close(fuse(model)(x), expected)


def test_a_submodule_called_fused_is_no_method() -> None:
    model = nn.Module()
    model.fused = nn.Conv2d(3, 4, 1)
    assert fuse(model) is model
