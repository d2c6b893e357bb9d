"""Small models of a user, exported as ``toy:net``."""

import torch
from torch import nn


class Net(nn.Module):
    """A few convolutions with a BatchNorm, an attention-like product, and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.head = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.gelu(self.norm(self.stem(x)))
        x = x + torch.sigmoid(self.depthwise(x)) * x.mean((2, 3), keepdim=True)
        return self.head(x.amax((2, 3)))


def net() -> nn.Module:
    return Net()


def two_outputs() -> nn.Module:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, stride=2)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            x = self.conv(x)
            return x, x.mean((2, 3))

    return Two()


def broken() -> nn.Module:
    class Broken(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ x.flatten(1)

    return Broken()


not_callable = 3
