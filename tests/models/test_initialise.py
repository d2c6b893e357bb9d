"""Untrained weights give finite outputs that depend on mixers, and are equal for any number of threads."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from effbench import models
from effbench.models.build import build
from effbench.models.iformer import SoftmaxAttention
from effbench.models.initialise import images, initialise, on_grid, spread
from effbench.models.mixers.aft import AFTFull, DeployedAFTConv
from effbench.models.mixers.lambdas import LambdaConv, LambdaLayer
from effbench.models.mixers.softmax import MultiHeadAttention
from effbench.models.regla import RGMA, LinearAttention, regla_t
from effbench.schema import Weights


def probes(side: int, count: int = 4) -> Tensor:
    """Return images other than those of the initialisation."""
    return torch.from_numpy(images(np.random.default_rng(99), count, side)).float()


def centred(outputs: Tensor) -> Tensor:
    return outputs - outputs.mean(dim=0)


def relative_change(before: Tensor, after: Tensor) -> float:
    """Return the change of centred outputs relative to their spread between images."""
    return float(centred(after - before).square().mean().sqrt() / centred(before).square().mean().sqrt())


def digest(model: nn.Module) -> str:
    return hashlib.sha256(b"".join(t.numpy().tobytes() for t in model.state_dict().values())).hexdigest()


@contextmanager
def attention_replaced(kind: type[nn.Module], change: Callable[..., Tensor]) -> Iterator[None]:
    original = kind.forward
    kind.forward = lambda self, query, key, value: change(original(self, query, key, value), query, key)
    try:
        yield
    finally:
        kind.forward = original


def spatial_mean(attended: Tensor, query: Tensor, key: Tensor) -> Tensor:
    return attended.mean(dim=(2, 3), keepdim=True).expand_as(attended)


def mean_denominator(attended: Tensor, query: Tensor, key: Tensor) -> Tensor:
    """Divide every position by the image's mean denominator instead of the one of the position."""
    own = (key.sum(dim=(2, 3), keepdim=True) * query).sum(dim=1, keepdim=True)
    return attended * own / own.mean(dim=(2, 3), keepdim=True)


MIXERS = (DeployedAFTConv, AFTFull, LambdaConv, LambdaLayer, MultiHeadAttention)
QUICK = [("regla_m", 224), ("iformer_m", 224)]
SLOW = [(name, side) for name in models.models() for side in (224, 512) if name.startswith(("regla_", "iformer_"))]
CASES = [*QUICK, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW if case not in QUICK)]


@pytest.mark.parametrize(("name", "side"), CASES)
def test_the_outputs_depend_on_the_mixer(name: str, side: int) -> None:
    model = build(models.get(name), Weights())
    kind = LinearAttention if name.startswith("regla") else SoftmaxAttention
    x = probes(side)
    with torch.no_grad():
        expected = model(x)
        with attention_replaced(kind, spatial_mean):
            assert relative_change(expected, model(x)) >= 0.1
        if kind is LinearAttention:
            with attention_replaced(kind, mean_denominator):
                assert relative_change(expected, model(x)) >= 0.1
        with attention_replaced(kind, lambda attended, query, key: attended):
            assert relative_change(expected, model(x)) == 0


def flat(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
    return output.mean(dim=(2, 3), keepdim=True).expand_as(output)


OTHERS = ["aft_conv_t_h32", "aft_full_t", "deit_t", "lambda_resnet26"]


@pytest.mark.slow
@pytest.mark.parametrize("side", [224, 512])
@pytest.mark.parametrize("name", OTHERS)
def test_the_outputs_of_other_families_depend_on_the_mixer(name: str, side: int) -> None:
    model = build(models.get(name), Weights())
    x = probes(side)
    mixers = [module for module in model.modules() if isinstance(module, MIXERS)]
    assert mixers
    with torch.no_grad():
        expected = model(x)
        hooks = [module.register_forward_hook(flat) for module in mixers]
        assert relative_change(expected, model(x)) >= 0.1
        for hook in hooks:
            hook.remove()
        assert relative_change(expected, model(x)) == 0


def test_without_its_gains_the_mixer_has_little_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RGMA, "untrained", lambda self: {})
    model = build(models.get("regla_t"), Weights())
    x = probes(224, 2)
    with torch.no_grad():
        expected = model(x)
        with attention_replaced(LinearAttention, spatial_mean):
            assert relative_change(expected, model(x)) < 0.05


@pytest.mark.parametrize(
    "name", ["regla_m", "iformer_m", *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)]
)
def test_untrained_networks_have_finite_varied_activations(name: str) -> None:
    model = build(models.get(name), Weights())
    activations: list[Tensor] = []
    for module in model.modules():
        module.register_forward_hook(lambda module, inputs, output: activations.append(output))
    with torch.no_grad():
        features = model.forward_features(probes(160, 2))
        scores = model(probes(160, 2))
    # A residual stream grows with the root of the number of blocks. A ReLU leaves 0.58 of a deviation, and statistics
    # that include an image of noise leave less for photographs.
    assert all(0.4 < feature.std() < 6 for feature in features)
    assert centred(scores).std() > 0.25 * scores.std()
    tiny = torch.finfo(torch.float32).smallest_normal
    tensors = [t for t in (*activations, *model.state_dict().values()) if isinstance(t, Tensor)]
    assert all(torch.isfinite(t).all() for t in tensors)
    assert not any(((t != 0) & (t.abs() < tiny)).any() for t in tensors)


def test_weights_are_the_same_on_one_and_two_threads() -> None:
    threads = torch.get_num_threads()
    digests = set()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            model = regla_t()
            initialise(model, seed=3)
            digests.add(digest(model))
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    assert len(digests) == 1


def test_another_seed_is_another_network() -> None:
    first, second = regla_t(), regla_t()
    initialise(first, 0)
    initialise(second, 1)
    assert digest(first) != digest(second)


def test_initialisation_keeps_mode_and_precision_and_leaves_no_hooks() -> None:
    model = regla_t().train()
    initialise(model, 0)
    assert model.training
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


class Plain(nn.Module):
    """Pointwise and depthwise convolutions without a mixer."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU()]
        for _ in range(8):
            layers += [nn.Conv2d(32, 32, 3, 1, 1, groups=32), nn.BatchNorm2d(32), nn.ReLU()]
            layers += [nn.Conv2d(32, 32, 1), nn.BatchNorm2d(32), nn.ReLU()]
        nn.init.zeros_(layers[-2].weight)  # as at the start of many trainings
        layers += [nn.Conv2d(32, 32, 1), nn.GELU(), nn.Conv2d(32, 32, 1), nn.BatchNorm2d(32)]
        self.features = nn.Sequential(*layers)
        self.norm = nn.BatchNorm1d(32)
        self.classifier = nn.Linear(32, 100)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.norm(self.features(x).mean(dim=(2, 3))))


def amplification(model: nn.Module) -> float:
    """Return the relative change of the outputs over that of a disturbance of every pixel."""
    x = probes(96)
    disturbance = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)) * 1e-3
    with torch.no_grad():
        return relative_change(model(x), model(x + disturbance)) / 1e-3


def test_a_network_without_mixers_amplifies_disturbances_less(monkeypatch: pytest.MonkeyPatch) -> None:
    initialise(network := Plain().eval(), 0)
    monkeypatch.setattr("effbench.models.initialise.SHIFT", 0.0)  # gains of one stay, or branches would be dead
    monkeypatch.setattr("effbench.models.initialise._add_contrast", lambda *of: None)
    initialise(unshifted := Plain().eval(), 0)
    assert amplification(network) < amplification(unshifted) / 2
    *norms, last = (norm for norm in network.features if isinstance(norm, nn.BatchNorm2d))
    assert all((norm.bias == 1).all() and (norm.weight == 1).all() for norm in norms)
    assert (last.bias == 0).all()  # no activation follows
    assert (network.norm.bias == 0).all()
    assert network.features[-4].bias.unique().numel() == 1
    assert 0.5 < network.features[-4].bias[0] < 2
    assert (network.features[-2].bias == 0).all()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


def test_a_network_with_mixers_keeps_the_biases_of_its_modules() -> None:
    initialise(model := regla_t(), 0)
    assert not any((m.bias == 1).all() for m in model.modules() if isinstance(m, nn.BatchNorm2d))


def test_rounding_to_a_grid_removes_noise_in_the_last_place() -> None:
    values = torch.tensor([1.03, -3.3, 0.007, 0.0], dtype=torch.float64)
    assert on_grid(values).tolist() == on_grid(values * (1 + 1e-12)).tolist()
    torch.testing.assert_close(on_grid(values), values, rtol=1 / 16, atol=0)


def test_spread_does_not_amplify_a_constant_channel() -> None:
    x = torch.randn(4, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x[:, 1] = 1e-9
    _, deviation = spread(x)
    assert deviation[1] >= deviation[0] / 8


def test_images_have_the_spectrum_of_natural_ones() -> None:
    image = images(np.random.default_rng(0), 8, 64).mean(axis=1)
    amplitude = np.abs(np.fft.rfft2(image)).mean(axis=0)[0, 1:]
    octaves = [amplitude[2**i - 1 : 2 ** (i + 1) - 1].mean() for i in range(4)]
    slopes = np.diff(np.log2(octaves))
    assert np.all(slopes < -0.6)
    assert np.all(slopes > -1.6)


def test_a_model_that_takes_only_its_own_size_is_observed_at_that_size() -> None:
    class Picky(nn.Sequential):
        pretrained_cfg: ClassVar[dict[str, object]] = {"input_size": (3, 96, 96)}

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert x.shape[-1] == 96, "blocks of 96"
            return super().forward(x)

    model = Picky(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    before = model[1].running_mean.clone()
    initialise(model, 0)
    assert not torch.equal(model[1].running_mean, before)
    del Picky.pretrained_cfg
    with pytest.raises(AssertionError, match="blocks of 96"):
        initialise(model, 0)
