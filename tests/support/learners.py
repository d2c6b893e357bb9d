"""A small student and its teacher, as ``learners:student`` and ``learners:teacher``."""

import torch
from torch import nn


class Net(nn.Module):
    """One stage with BatchNorm, and a classifier of ten classes."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.head = nn.Linear(width, 10)

    def forward_features(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (self.body(x),)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.forward_features(x)[-1].mean((2, 3)))


def student() -> nn.Module:
    return Net(4)


def teacher() -> nn.Module:
    torch.manual_seed(1)
    return Net(6)
