"""Layers that families share: convolution with normalisation, residual units, the four-stage network, and folding.

They are written for deployment: rank-4 tensors, 1x1 convolutions, BatchNorm that folds. Shapes are NCHW.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effbench.errors import UsageError
from effbench.models.initialise import Watchers

STRIDE = 32
"""Total stride of the last stage; every stride-2 layer must halve its input exactly."""

ConvOrLinear = TypeVar("ConvOrLinear", nn.Conv2d, nn.Linear)


class ConvNorm(nn.Module):
    """A convolution without bias and its BatchNorm; `fused` is one convolution with a bias.

    Args:
        inputs: Channels in.
        outputs: Channels out.
        kernel: Height and width of the kernel; odd, padded so that stride 1 keeps the size.
        stride: 1 or 2.
        depthwise: One filter per channel.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, depthwise: bool = False) -> None:
        super().__init__()
        groups = inputs if depthwise else 1
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve and normalise."""
        return self.norm(self.conv(x))  # type: ignore[no-any-return]

    def fused(self) -> nn.Conv2d:
        """Return an equal convolution."""
        return fold_after(self.conv, self.norm)


class Residual(nn.Module):
    """``x + body(x)``; a body that fuses to one depthwise convolution absorbs the identity in its centre tap."""

    def __init__(self, body: nn.Module, gain: float = 0.2) -> None:
        """Store the body, and the scale of its output relative to the residual stream, untrained."""
        super().__init__()
        self.body = body
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        """Add the body's output to its input."""
        return x + self.body(x)  # type: ignore[no-any-return]

    def untrained(self) -> Watchers:
        """Set the weight of the last normalisation of the body to the gain."""
        norms = [module for module in self.body.modules() if isinstance(module, nn.BatchNorm2d)]
        if norms:
            nn.init.constant_(norms[-1].weight, self.gain)
        return {}

    def fused(self) -> nn.Module:
        """Return a single depthwise convolution if that is exact, else this unit."""
        conv = self.body
        if not isinstance(conv, nn.Conv2d) or conv.groups != conv.in_channels or conv.stride != (1, 1):
            return self
        centre = conv.kernel_size[0] // 2
        with torch.no_grad():
            conv.weight[:, 0, centre, centre] += 1
        return conv


class ConvUnit(Residual):
    """A residual unit of depthwise convolution, expansion, GELU and projection (ConvNeXt's, with BatchNorm).

    Source: iFormer, arXiv:2501.15369, section 3 (k = 7); ReGLA's ELRF cascades two of them (k = 3, 5).
    """

    def __init__(self, channels: int, spatial: int | nn.Module, hidden: int) -> None:
        """Build the unit from the kernel size of the depthwise convolution, or from a module in its place."""
        if isinstance(spatial, int):
            spatial = ConvNorm(channels, channels, spatial, depthwise=True)
        super().__init__(nn.Sequential(spatial, *_feed_forward(channels, hidden)))


class FeedForward(Residual):
    """A residual unit of expansion, GELU and projection, all 1x1."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__(nn.Sequential(*_feed_forward(channels, hidden)))


def _feed_forward(channels: int, hidden: int) -> tuple[nn.Module, ...]:
    return ConvNorm(channels, hidden), nn.GELU(), ConvNorm(hidden, channels)


def position_encoding(channels: int) -> Residual:
    """Return the conditional position encoding ``x + DW3x3(x)``, one convolution once fused.

    Source: Chu et al., arXiv:2102.10882; placed before each mixer as in iFormer.
    """
    return Residual(ConvNorm(channels, channels, 3, depthwise=True))


def stem(inputs: int, channels: int) -> nn.Sequential:
    """Return the stride-4 stem: 5x5 s2, GELU, then a fused inverted bottleneck of 5x5 s2 and 1x1.

    Source: iFormer's released code, ``conv_stem_type='FusedIB'``.
    """
    half = channels // 2
    return nn.Sequential(
        ConvNorm(inputs, half, 5, stride=2),
        nn.GELU(),
        ConvNorm(half, 4 * half, 5, stride=2),
        nn.GELU(),
        ConvNorm(4 * half, channels),
    )


class Classifier(nn.Module):
    """Global average pool, BatchNorm (or none) and a linear layer; the BatchNorm folds into the layer that follows."""

    def __init__(self, channels: int, classes: int, normalise: bool = True) -> None:
        super().__init__()
        self.norm: nn.Module = nn.BatchNorm1d(channels) if normalise else nn.Identity()
        self.linear = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return class scores, shape (B, classes)."""
        pooled = F.adaptive_avg_pool2d(x, 1).flatten(1)
        return self.linear(self.norm(pooled))  # type: ignore[no-any-return]

    def fused(self) -> Classifier:
        """Fold the normalisation into the linear layer."""
        if isinstance(self.norm, nn.BatchNorm1d):
            self.linear = fold_before(self.norm, self.linear)
            self.norm = nn.Identity()
        return self


class StagedNetwork(nn.Module):
    """Four stages that each halve the map, the first one to a quarter of the image, and a classifier."""

    stages: nn.ModuleList
    classifier: Classifier

    def forward_features(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs of the four stages, at strides 4, 8, 16 and 32.

        Raises:
            UsageError: Height or width is not a positive multiple of 32 pixels.
        """
        check_sides(x.shape[-2], x.shape[-1])
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return tuple(features)

    def forward(self, x: Tensor) -> Tensor:
        """Return class scores, shape (B, classes), for images of shape (B, channels, H, W)."""
        return self.classifier(self.forward_features(x)[-1])  # type: ignore[no-any-return]


class Network(StagedNetwork):
    """A stem, four stages and a classifier.

    Args:
        inputs: Channels of the image.
        widths: Channels of the four stages.
        blocks: The residual units of each stage, at that stage's width.
        classes: Number of classes.
    """

    def __init__(self, inputs: int, widths: tuple[int, ...], blocks: Iterable[list[nn.Module]], classes: int) -> None:
        super().__init__()
        entries = [stem(inputs, widths[0])]
        entries += [nn.Sequential(ConvNorm(a, b, 3, stride=2)) for a, b in pairwise(widths)]
        self.stages = nn.ModuleList(nn.Sequential(*entry, *units) for entry, units in zip(entries, blocks, strict=True))
        self.classifier = Classifier(widths[-1], classes)


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of each position of a map, without a transpose.

    Args:
        channels: Channels of the map.
        eps: Added to the variance.
    """

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight: nn.Parameter | None = nn.Parameter(torch.ones(channels))
        self.bias: nn.Parameter | None = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise; shape (B, channels, H, W) in and out."""
        centred = x - x.mean(dim=1, keepdim=True)
        normed: Tensor = centred * torch.rsqrt((centred * centred).mean(dim=1, keepdim=True) + self.eps)
        if self.weight is None or self.bias is None:
            return normed
        return normed * self.weight[:, None, None] + self.bias[:, None, None]

    @torch.no_grad()
    def fold_into(self, *layers: ConvOrLinear) -> None:
        """Fold gain and bias into the layers that read this norm: unpadded convolutions, or linear ones."""
        if self.weight is None or self.bias is None:
            return
        for layer in layers:
            _absorb(self.weight.double(), self.bias.double(), layer)
        self.weight = self.bias = None


def check_sides(height: int, width: int, stride: int = STRIDE) -> None:
    """Check that a resolution is a multiple of a network's stride.

    Raises:
        UsageError: Height or width is not a positive multiple of the stride, in pixels.
    """
    if min(height, width) < stride or height % stride or width % stride:
        raise UsageError(
            f"Resolution {height}x{width} does not fit this backbone.",
            hint=f"Height and width must be multiples of {stride} pixels, from {stride} on.",
        )


def _scale_shift(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return a BatchNorm as ``scale * x + shift``, in double precision."""
    if norm.running_mean is None or norm.running_var is None:
        raise UsageError("A BatchNorm without running statistics cannot be folded.")
    scale = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
    return scale, norm.bias.double() - norm.running_mean.double() * scale


@torch.no_grad()
def fold_after(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """Return one convolution that computes ``norm(conv(x))``."""
    scale, shift = _scale_shift(norm)
    weight = conv.weight.double() * scale[:, None, None, None]
    bias = shift if conv.bias is None else shift + conv.bias.double() * scale
    return _with(conv, weight, bias)


@torch.no_grad()
def fold_before(norm: nn.BatchNorm1d | nn.BatchNorm2d, layer: ConvOrLinear) -> ConvOrLinear:
    """Return one layer that computes ``layer(norm(x))``, for a linear layer or an unpadded, ungrouped convolution.

    Raises:
        UsageError: The layer pads or groups, so that the shift would not be constant.
    """
    return _absorb(*_scale_shift(norm), layer)


def _absorb(scale: Tensor, shift: Tensor, layer: ConvOrLinear) -> ConvOrLinear:
    """Return a layer that computes ``layer(scale * x + shift)``."""
    if isinstance(layer, nn.Conv2d) and (layer.groups != 1 or layer.padding not in ((0, 0), 0)):
        raise UsageError("A BatchNorm folds into the convolution behind it only without padding and groups.")
    weight: Tensor = layer.weight.double()
    spread = (slice(None), *(None,) * (weight.dim() - 2))
    bias = torch.einsum("oi...,i->o", weight, shift)
    if layer.bias is not None:
        bias = bias + layer.bias.double()
    return _with(layer, weight * scale[spread], bias)


def _with(layer: ConvOrLinear, weight: Tensor, bias: Tensor) -> ConvOrLinear:
    for name, value in (("weight", weight), ("bias", bias)):
        setattr(layer, name, nn.Parameter(value.float(), requires_grad=False))
    return layer


def fuse(model: nn.Module) -> nn.Module:
    """Fold every BatchNorm and branch that folds exactly, in place, innermost first; return the model in eval mode.

    A class supports this with a method ``fused`` that returns its replacement. A module that several parents share is
    replaced once, and they share the replacement.
    """
    fused = _fuse(model, {})
    evaluating(fused)
    return fused


def _fuse(model: nn.Module, replaced: dict[nn.Module, nn.Module]) -> nn.Module:
    if model in replaced:
        return replaced[model]
    for name, child in [(name, child) for name, child in model._modules.items() if child is not None]:
        setattr(model, name, _fuse(child, replaced))
    # Of the class: a submodule that is called "fused" is no method.
    method = getattr(type(model), "fused", None)
    replaced[model] = method(model) if callable(method) else model
    return replaced[model]


def evaluating(model: nn.Module) -> nn.Module:
    """Put a module into eval mode and return it; its own ``train``, which ``eval`` calls, may return nothing."""
    model.eval()
    return model
