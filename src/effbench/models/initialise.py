"""Initialise untrained networks from a seed so that every mixer has a measurable effect on the outputs.

With ordinary initialisation, replacing a linear attention by its spatial mean changes the outputs by under 1 % of their
spread between images, so that a fidelity check passes on a broken mixer. Therefore the weights are drawn first, and
then one pass over synthetic images sets the statistics of every BatchNorm to those of its input (after LSUV,
arXiv:1511.06422). A module with a method ``untrained`` sets its gains and biases before that pass, and may observe
tensors during it.

A network without such a module, drawn in this way, amplifies rounding errors as no trained network does: alternating
BatchNorms and activations increase small differences in each layer (Yang et al. 2019, arXiv:1902.08129), and the
classifier responds mostly to what all images share. Therefore biases shift the inputs of activations towards their
linear range, and the classifier also gets weights that respond to differences between images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from effbench.threads import one_thread

SCENES_ALONE = "scenes_alone"
"""A norm with this attribute takes its statistics from images without the noise: it feeds queries or keys."""

Watchers = Mapping[nn.Module, Callable[[Tensor], None]]

SIDE = 160
"""Height and width of the synthetic images in pixels: five positions at stride 32, for the mixers of late stages."""
IMAGES = 4
SHIFT = 1.0
"""Bias before activations, in deviations, in a network without mixers: a ReLU then passes five in six values."""
ACTIVATIONS = ("ReLU", "ReLU6", "GELU", "SiLU", "Swish", "Hardswish", "HardSwish")
FEWEST_VALUES = 64
"""With fewer values per channel, the spread of a channel is unreliable and that of the layer is used."""


@runtime_checkable
class Untrained(Protocol):
    """A module that sets its gains and biases in an untrained network."""

    def untrained(self) -> Watchers:
        """Set gains and biases; return callbacks for the outputs of submodules in the pass."""


def initialise(model: nn.Module, seed: int) -> None:
    """Set a model's weights, in place, from a seed.

    The pass runs in double precision on one thread and its statistics are rounded to a coarse grid, so that the
    weights are bit-identical for any number of threads.
    """
    generator = np.random.default_rng(seed)
    _draw(model, generator)
    watchers: dict[nn.Module, Callable[[Tensor], None]] = {}
    for module in model.modules():
        if isinstance(module, Untrained):
            watchers.update(module.untrained())
    plain = not any(isinstance(module, Untrained) for module in model.modules())
    shifting = _shift(model) if plain else []
    classifier_inputs: list[tuple[nn.Linear, Tensor]] = []
    training = model.training
    model.double()
    model.eval()
    with one_thread(), _hooks(model, watchers, classifier_inputs), torch.no_grad():
        # A model may be built for one image size.
        _observe(model, generator, int(getattr(model, "untrained_side", SIDE)))
    for handle in shifting:
        handle.remove()
    for classifier, features in classifier_inputs if plain else ():
        # Some models have a second classifier for distillation.
        if classifier.out_features == classifier_inputs[-1][0].out_features and features.ndim == 2:
            _add_contrast(classifier, features, generator)
    model.float()
    model.train(training)


def _observe(model: nn.Module, generator: np.random.Generator, side: int) -> None:
    """Run a model over synthetic images; one that does not take their size runs over images of the size it declares."""
    batch = np.concatenate([images(generator, IMAGES, side), noise(generator, side)])
    try:
        model(torch.from_numpy(batch))
    except (AssertionError, RuntimeError, ValueError):
        declared = getattr(model, "pretrained_cfg", {}).get("input_size", (3, side, side))[-1]
        if declared == side:
            raise
        _observe(model, generator, declared)


def images(generator: np.random.Generator, count: int, side: int, channels: int = 3) -> npt.NDArray[np.float64]:
    """Return images with the 1/f amplitude spectrum of natural images.

    Returns:
        Shape (count, channels, side, side), zero mean and unit deviation over all values.

    Source: Field 1987, J. Opt. Soc. Am. A 4: amplitude spectra of natural images. Color channels share most structure.
    """
    rows, columns = np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None, :]
    radius = np.hypot(rows, columns)
    radius[0, 0] = np.inf
    noise = generator.standard_normal((count, channels, side, side))
    noise = noise * 0.5 + noise.mean(axis=1, keepdims=True) * channels**0.5
    image = np.fft.irfft2(np.fft.rfft2(noise) / radius, s=(side, side))
    # Images differ in brightness as well; the spectrum alone gives each one zero mean.
    brightness = generator.standard_normal((count, channels, 1, 1)) * 0.5
    image = image / image.std() + brightness
    return np.asarray((image - image.mean()) / image.std())


def noise(generator: np.random.Generator, side: int, channels: int = 3) -> npt.NDArray[np.float64]:
    """Return one image of uniform noise, shape (1, channels, side, side), normalized like a photograph.

    Without it in the statistics, a network amplifies differences between neighbouring pixels, and with them the
    rounding errors of half precision, which trained networks do not.
    """
    return np.asarray((generator.integers(0, 256, (1, channels, side, side)) / 255 - 0.45) / 0.225)


def on_grid(values: Tensor, bits: int = 3) -> Tensor:
    """Round values to so many bits after the leading one, which removes rounding noise of sums."""
    mantissa, exponent = torch.frexp(values)
    return torch.ldexp(torch.round(mantissa * 2 ** (bits + 1)) / 2 ** (bits + 1), exponent)


def spread(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation per channel (dimension 1), the mean in steps of 1/8 of the deviation."""
    flat = values.transpose(0, 1).flatten(1)
    deviation = flat.std(dim=1, correction=0)
    layer = deviation.square().mean().sqrt().clamp_min(1e-3)
    # A nearly constant channel must not be amplified, as the rounding errors of a runtime would be, too.
    deviation = layer.expand_as(deviation) if flat.shape[1] < FEWEST_VALUES else deviation.maximum(layer / 4)
    deviation = on_grid(deviation)
    step = deviation / 8
    return torch.round(flat.mean(dim=1) / step) * step, deviation


def _draw(model: nn.Module, generator: np.random.Generator) -> None:
    """Draw every weight of convolutions and linear layers from uniform numbers, which are exact on any machine."""
    for module in model.modules():
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Linear)):
            fan_in = module.weight[0].numel()
            uniform = generator.random(tuple(module.weight.shape), dtype=np.float32) * 2 - 1
            with torch.no_grad():
                module.weight.copy_(torch.from_numpy(uniform) * (3 / fan_in) ** 0.5)
                if module.bias is not None:
                    module.bias.zero_()


def _shift(model: nn.Module) -> list[RemovableHandle]:
    """Set norms to a gain of one, and register hooks that set a bias of `SHIFT` deviations before activations.

    With a gain of zero, as at the start of a training, entire branches would be dead. A norm at the end of a branch
    gets no bias, which would only increase what all images share.
    """
    handles = []
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            # timm has norms with an activation inside.
            has_activation = not isinstance(getattr(module, "act", nn.Identity()), nn.Identity)
            nn.init.constant_(module.bias, SHIFT if has_activation else 0.0)
        if isinstance(module, (nn.BatchNorm2d, nn.Conv2d)) and module.bias is not None:
            handles.append(module.register_forward_hook(_mark_source))
        if type(module).__name__ in ACTIVATIONS:
            handles.append(module.register_forward_pre_hook(_shift_source))
    return handles


def _mark_source(module: nn.Module, inputs: Any, output: Tensor) -> None:
    output.effbench_source = module  # type: ignore[attr-defined]


def _shift_source(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    source = getattr(inputs[0], "effbench_source", None)
    if source is None or inputs[0].shape[-1] == 1:  # a gate over the entire image
        return inputs
    deviation = torch.ones(()) if isinstance(source, nn.BatchNorm2d) else on_grid(inputs[0].std(correction=0))
    nn.init.constant_(source.bias, SHIFT * float(deviation))
    return (inputs[0] + SHIFT * float(deviation), *inputs[1:])


@torch.no_grad()
def _add_contrast(classifier: nn.Linear, features: Tensor, generator: np.random.Generator) -> None:
    """Add to a classifier's weights random mixtures of the differences between images, with the same norm.

    Args:
        classifier: A last linear layer.
        features: Its input in the pass, shape (images, channels).
        generator: Draws the mixture as small integers, so that sums do not depend on their order.
    """
    difference = on_grid(features - features.mean(dim=0))
    coefficients = generator.integers(-8, 9, (classifier.out_features, len(features), 1))
    mixture = (torch.from_numpy(coefficients) * difference).sum(dim=1)
    size = mixture.square().mean().sqrt()
    if size > 0:
        classifier.weight += mixture * on_grid(classifier.weight.square().mean().sqrt() / size)


@contextmanager
def _hooks(model: nn.Module, watchers: Watchers, classifier_inputs: list[tuple[nn.Linear, Tensor]]) -> Iterator[None]:
    handles = []
    for module in model.modules():
        if isinstance(module, nn.Linear):
            handles.append(
                module.register_forward_pre_hook(lambda layer, inputs: classifier_inputs.append((layer, inputs[0])))
            )
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            handles.append(module.register_forward_pre_hook(_set_statistics))
        if module in watchers:
            handles.append(module.register_forward_hook(_watch(watchers[module])))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _set_statistics(module: nn.Module, inputs: tuple[Any, ...]) -> None:
    assert isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d))
    mean, deviation = spread(inputs[0][:IMAGES] if getattr(module, SCENES_ALONE, False) else inputs[0])
    assert module.running_mean is not None
    assert module.running_var is not None
    module.running_mean.copy_(mean)
    module.running_var.copy_(deviation.square())


def _watch(watcher: Callable[[Tensor], None]) -> Callable[[nn.Module, Any, Tensor], None]:
    def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
        watcher(output)

    return hook
