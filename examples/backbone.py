"""A family of backbones in one file, and the entry point under which effbench finds it.

In this repository it would be ``src/effbench/models/NAME.py``; then ``python -m effbench.models.index`` regenerates the
index. In your own package, name it under an entry point instead:

    [project.entry-points."effbench.models"]
    mine = "mypackage.backbone:BACKBONES"
"""

from __future__ import annotations

from torch import Tensor, nn

from effbench.schema import Backbone, Preprocessing


class Unit(nn.Module):
    """A residual depthwise 3x3 convolution and a pointwise pair."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.norm = nn.BatchNorm2d(channels)
        self.expand = nn.Conv2d(channels, 2 * channels, 1)
        self.project = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        inner = nn.functional.gelu(self.expand(self.norm(self.depthwise(x))))
        return x + self.project(inner)  # type: ignore[no-any-return]


class Plain(nn.Module):
    """Four stages at strides 4, 8, 16 and 32, one unit each, and a linear head."""

    def __init__(self, widths: tuple[int, ...] = (16, 32, 64, 128), classes: int = 1000) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        inputs = 3
        for index, width in enumerate(widths):
            stride = 4 if index == 0 else 2
            self.stages.append(nn.Sequential(nn.Conv2d(inputs, width, stride, stride), Unit(width)))
            inputs = width
        self.head = nn.Linear(inputs, classes)

    def forward_features(self, x: Tensor) -> list[Tensor]:
        """Return the four feature maps, strides 4 to 32; x has shape (B, 3, H, W)."""
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, shape (B, classes)."""
        return self.head(self.forward_features(x)[-1].mean((2, 3)))  # type: ignore[no-any-return]


def plain_tiny() -> nn.Module:
    """Build the only size; a factory takes no arguments."""
    return Plain()


BACKBONES = (
    Backbone(
        name="plain_tiny",
        family="plain",
        factory=f"{__name__}:plain_tiny",
        mixer="none",
        preprocessing=Preprocessing(interpolation="bilinear"),
        source="an example; its accuracy is unknown, so no table shows one",
    ),
)
