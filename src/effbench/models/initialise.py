"""Seeded weights for networks that were never trained: alive, and with mixers whose work shows in the outputs.

With ordinary initialisation, replacing a linear attention by its spatial mean moves the outputs by under 1 % of their
spread between images, and a fidelity check passes on a broken mixer. So the weights are drawn, and then one pass over
synthetic images sets the statistics of every BatchNorm to what reaches it (after LSUV, arXiv:1511.06422). A module
with a method ``untrained`` sets its own gains and biases first, and may watch tensors during that pass.

A network without such a module has no mixer to show. Drawn as it is, it would amplify rounding errors as no trained
network does: BatchNorms and activations in turn make each layer blow up small differences (Yang et al. 2019,
arXiv:1902.08129), and its classifier reads mostly what all images share. So biases shift activations towards where
they are linear, and its classifier reads what tells images apart as well.
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
"""A norm with this attribute takes its statistics without the noise: what it feeds decides where a mixer looks."""

Watchers = Mapping[nn.Module, Callable[[Tensor], None]]

SIDE = 160
"""Side of the synthetic images in pixels: five cells at stride 32, so that deep mixers have positions to mix."""
IMAGES = 4
SHIFT = 1.0
"""Bias in front of activations, in deviations, in a network without mixers: a ReLU then passes five in six values."""
ACTIVATIONS = ("ReLU", "ReLU6", "GELU", "SiLU", "Swish", "Hardswish", "HardSwish")
FEW = 64
"""Below this many values per channel a channel's own spread is chance, and the layer's is taken."""


@runtime_checkable
class Untrained(Protocol):
    """A module that wants gains and biases of its own where no training set them."""

    def untrained(self) -> Watchers:
        """Set gains and biases; return the submodules whose outputs are to be watched in the pass, and by what."""


def initialise(model: nn.Module, seed: int) -> None:
    """Give a model, in place, the weights that belong to a seed.

    The pass runs in double precision on one thread and its statistics are rounded to a coarse grid, so that the
    weights are the same to the last bit whatever the number of threads.
    """
    generator = np.random.default_rng(seed)
    _draw(model, generator)
    watchers: dict[nn.Module, Callable[[Tensor], None]] = {}
    for module in model.modules():
        if isinstance(module, Untrained):
            watchers.update(module.untrained())
    plain = not any(isinstance(module, Untrained) for module in model.modules())
    shifting = _shift(model) if plain else []
    read: list[tuple[nn.Linear, Tensor]] = []
    training = model.training
    model.double().eval()
    with one_thread(), _hooks(model, watchers, read), torch.no_grad():
        # A model that is built for one size of image says so.
        side = int(getattr(model, "untrained_side", SIDE))
        seen = np.concatenate([images(generator, IMAGES, side), noise(generator, side)])
        model(torch.from_numpy(seen))
    for handle in shifting:
        handle.remove()
    for classifier, features in read if plain else ():
        if classifier.out_features == read[-1][0].out_features and features.ndim == 2:  # some have one more to distil
            _tell_apart(classifier, features, generator)
    model.float().train(training)


def images(generator: np.random.Generator, count: int, side: int, channels: int = 3) -> npt.NDArray[np.float64]:
    """Return images whose amplitude falls as 1/f, as that of natural images does.

    Returns:
        Shape (count, channels, side, side), zero mean and unit deviation over all values.

    Source: Field 1987, J. Opt. Soc. Am. A 4: amplitude spectra of natural images. Colours share most structure.
    """
    rows, columns = np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None, :]
    radius = np.hypot(rows, columns)
    radius[0, 0] = np.inf
    noise = generator.standard_normal((count, channels, side, side))
    noise = noise * 0.5 + noise.mean(axis=1, keepdims=True) * channels**0.5
    image = np.fft.irfft2(np.fft.rfft2(noise) / radius, s=(side, side))
    # Images differ in brightness and contrast as well; the flat spectrum alone would centre each one.
    brightness = generator.standard_normal((count, channels, 1, 1)) * 0.5
    image = image / image.std() + brightness
    return np.asarray((image - image.mean()) / image.std())


def noise(generator: np.random.Generator, side: int, channels: int = 3) -> npt.NDArray[np.float64]:
    """Return one image of noise of full contrast, shape (1, channels, side, side), normalized as photographs are.

    Statistics without it leave a network that amplifies what varies from pixel to pixel, and the rounding errors of
    half precision with it; trained networks do not.
    """
    return np.asarray((generator.integers(0, 256, (1, channels, side, side)) / 255 - 0.45) / 0.225)


def on_grid(values: Tensor, bits: int = 3) -> Tensor:
    """Return the values with that many bits behind the leading one: noise in the last place of a sum disappears."""
    mantissa, exponent = torch.frexp(values)
    return torch.ldexp(torch.round(mantissa * 2 ** (bits + 1)) / 2 ** (bits + 1), exponent)


def spread(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation per channel (dimension 1), the mean in steps of 1/8 of the deviation."""
    flat = values.transpose(0, 1).flatten(1)
    deviation = flat.std(dim=1, correction=0)
    layer = deviation.square().mean().sqrt().clamp_min(1e-3)
    # A channel that is nearly constant must not be blown up: rounding errors of a runtime would be, too.
    deviation = layer.expand_as(deviation) if flat.shape[1] < FEW else deviation.maximum(layer / 4)
    deviation = on_grid(deviation)
    step = deviation / 8
    return torch.round(flat.mean(dim=1) / step) * step, deviation


def _draw(model: nn.Module, generator: np.random.Generator) -> None:
    """Draw every weight of convolutions and linear layers; uniform numbers, because they are exact on any machine."""
    for module in model.modules():
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Linear)):
            fan_in = module.weight[0].numel()
            uniform = generator.random(tuple(module.weight.shape), dtype=np.float32) * 2 - 1
            with torch.no_grad():
                module.weight.copy_(torch.from_numpy(uniform) * (3 / fan_in) ** 0.5)
                if module.bias is not None:
                    module.bias.zero_()


def _shift(model: nn.Module) -> list[RemovableHandle]:
    """Give what feeds an activation a bias of `SHIFT` deviations, in the pass that follows, and norms a gain of one.

    With a gain of zero, as trainings begin, whole branches would be dead. Norms that end a branch get no bias: it would
    only add to what all images share.
    """
    handles = []
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            # timm's norm that has its activation inside.
            inside = not isinstance(getattr(module, "act", nn.Identity()), nn.Identity)
            nn.init.constant_(module.bias, SHIFT if inside else 0.0)
        if isinstance(module, (nn.BatchNorm2d, nn.Conv2d)) and module.bias is not None:
            handles.append(module.register_forward_hook(_sign))
        if type(module).__name__ in ACTIVATIONS:
            handles.append(module.register_forward_pre_hook(_shift_source))
    return handles


def _sign(module: nn.Module, inputs: Any, output: Tensor) -> None:
    output.effbench_source = module  # type: ignore[attr-defined]


def _shift_source(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    source = getattr(inputs[0], "effbench_source", None)
    if source is None or inputs[0].shape[-1] == 1:  # a gate over whole images is not the stream
        return inputs
    deviation = torch.ones(()) if isinstance(source, nn.BatchNorm2d) else on_grid(inputs[0].std(correction=0))
    nn.init.constant_(source.bias, SHIFT * float(deviation))
    return (inputs[0] + SHIFT * float(deviation), *inputs[1:])


@torch.no_grad()
def _tell_apart(classifier: nn.Linear, features: Tensor, generator: np.random.Generator) -> None:
    """Add to a classifier's weights, as much again, random mixtures of the differences between images.

    Args:
        classifier: A last linear layer.
        features: What it read in the pass, shape (images, channels).
        generator: Draws the shares; small integers, so that sums do not depend on their order.
    """
    difference = on_grid(features - features.mean(dim=0))
    shares = generator.integers(-8, 9, (classifier.out_features, len(features), 1))
    mixture = (torch.from_numpy(shares) * difference).sum(dim=1)
    size = mixture.square().mean().sqrt()
    if size > 0:
        classifier.weight += mixture * on_grid(classifier.weight.square().mean().sqrt() / size)


@contextmanager
def _hooks(model: nn.Module, watchers: Watchers, read: list[tuple[nn.Linear, Tensor]]) -> Iterator[None]:
    handles = []
    for module in model.modules():
        if isinstance(module, nn.Linear):
            handles.append(module.register_forward_pre_hook(lambda layer, inputs: read.append((layer, inputs[0]))))
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            handles.append(module.register_forward_pre_hook(_calibrate))
        if module in watchers:
            handles.append(module.register_forward_hook(_watch(watchers[module])))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _calibrate(module: nn.Module, inputs: tuple[Any, ...]) -> None:
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
