"""LambdaResNets: ResNets with a lambda convolution in place of the 3x3 convolution of every bottleneck.

Source: Bello, arXiv:2102.08602. The layout of the 50-layer network is verified by its 14.99 M parameters, which
d-li14/lambda.pytorch lists as well; scope 23 x 23, k = 16, 4 queries per lambda, one lambda per head. Where a stage
begins, a 2x2 average follows the lambda convolution (as in timm). Other depths are ResNet's with the same block.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effbench.models.initialise import Watchers
from effbench.models.layers import Classifier, ConvNorm, StagedNetwork, fold_after
from effbench.models.mixers.lambdas import LambdaConv
from effbench.schema import Backbone

DEPTHS = {26: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
WIDTHS = (64, 128, 256, 512)
EXPANSION = 4
SHARE = 0.2
"""Scale of the summed outputs of a stage's units relative to the residual stream, untrained. With a larger one, inputs
unlike the images that set the statistics (noise, for example) grow from block to block, and so do rounding errors."""


class ScaleShift(nn.Module):
    """A BatchNorm without a convolution before it; `fused` is one depthwise 1x1 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise."""
        return self.norm(x)  # type: ignore[no-any-return]

    @torch.no_grad()
    def fused(self) -> nn.Conv2d:
        """Return an equal convolution."""
        channels = self.norm.num_features
        identity = nn.Conv2d(channels, channels, 1, groups=channels, bias=False)
        nn.init.ones_(identity.weight)
        return fold_after(identity, self.norm)


class Bottleneck(nn.Module):
    """1x1, lambda convolution, 1x1, with a shortcut.

    Args:
        inputs: Channels in.
        width: Channels of the lambda convolution; four times as many come out.
        stride: 1 or 2.
        gain: Scale of the unit's output relative to the residual stream, untrained.
    """

    def __init__(self, inputs: int, width: int, stride: int, gain: float) -> None:
        super().__init__()
        self.gain = gain
        self.reduce = ConvNorm(inputs, width)
        self.mixer = LambdaConv(width)
        self.pool = nn.AvgPool2d(2) if stride == 2 else nn.Identity()
        self.norm = ScaleShift(width)
        self.expand = ConvNorm(width, EXPANSION * width)
        changes = stride == 2 or inputs != EXPANSION * width
        self.shortcut = ConvNorm(inputs, EXPANSION * width, stride=stride) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return shape (B, 4 width, H / stride, W / stride) for (B, inputs, H, W)."""
        inner = F.relu(self.norm(self.pool(self.mixer(F.relu(self.reduce(x))))))
        return F.relu(self.expand(inner) + self.shortcut(x))

    def untrained(self) -> Watchers:
        """Scale the output of the unit by its gain."""
        nn.init.constant_(self.expand.norm.weight, self.gain)
        return {}


class LambdaResNet(StagedNetwork):
    """ResNet's stem of a 7x7 convolution and a max pool, four stages of bottlenecks, and a linear classifier."""

    def __init__(self, depths: tuple[int, ...], in_channels: int, classes: int) -> None:
        super().__init__()
        stem = nn.Sequential(ConvNorm(in_channels, 64, 7, stride=2), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        stages = [nn.Sequential(*units) for units in _stages(depths)]
        self.stages = nn.ModuleList([nn.Sequential(stem, stages[0]), *stages[1:]])
        self.classifier = Classifier(EXPANSION * WIDTHS[-1], classes, normalise=False)


def _stages(depths: tuple[int, ...]) -> Iterator[list[nn.Module]]:
    inputs = 64
    for index, (depth, width) in enumerate(zip(depths, WIDTHS, strict=True)):
        units: list[nn.Module] = []
        for unit in range(depth):
            stride = 2 if index and not unit else 1
            units.append(Bottleneck(inputs, width, stride, SHARE * depth**-0.5))
            inputs = EXPANSION * width
        yield units


def lambda_resnet26(in_channels: int = 3, classes: int = 1000) -> LambdaResNet:
    """Build the 26-layer network."""
    return LambdaResNet(DEPTHS[26], in_channels, classes)


def lambda_resnet50(in_channels: int = 3, classes: int = 1000) -> LambdaResNet:
    """Build the 50-layer network (14.99 M parameters)."""
    return LambdaResNet(DEPTHS[50], in_channels, classes)


def lambda_resnet101(in_channels: int = 3, classes: int = 1000) -> LambdaResNet:
    """Build the 101-layer network."""
    return LambdaResNet(DEPTHS[101], in_channels, classes)


def lambda_resnet152(in_channels: int = 3, classes: int = 1000) -> LambdaResNet:
    """Build the 152-layer network."""
    return LambdaResNet(DEPTHS[152], in_channels, classes)


BACKBONES = tuple(
    Backbone(
        name=f"lambda_resnet{depth}",
        family="lambda_resnet",
        factory=f"effbench.models.lambda_resnet:lambda_resnet{depth}",
        published="LambdaResNet-50 (d-li14 reimpl.)" if depth == 50 else None,
        mixer="lambda convolution 23x23",
        mixer_order="O(N)",
        source="arXiv:2102.08602; layout verified by parameters (14.99 M for 50 layers)",
    )
    for depth in DEPTHS
)
