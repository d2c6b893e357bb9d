"""Factories of torch models with the forms that users' models have, exported as ``odd_factories:NAME``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional


class Net(nn.Module):
    """A convolution with a BatchNorm, and a linear head; ``kind`` names what `forward` returns."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 10)

    def features(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(self.conv(x)))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3)))


@dataclass
class Detections:
    logits: Tensor
    mask: Tensor | None = None


class Pair(NamedTuple):
    boxes: Tensor
    scores: Tensor


def _returning(result: Callable[[Net, Tensor], Any]) -> Callable[[], nn.Module]:
    class Returning(Net):
        def forward(self, x: Tensor) -> Any:
            return result(self, x)

    return Returning


def _logits(net: Net, x: Tensor) -> Tensor:
    return Net.forward(net, x)


plain = Net
a_dict = _returning(lambda net, x: {"logits": _logits(net, x), "map": net.features(x)})
a_dataclass = _returning(lambda net, x: Detections(_logits(net, x)))
a_named_tuple = _returning(lambda net, x: Pair(_logits(net, x), torch.sigmoid(_logits(net, x))))
nested = _returning(lambda net, x: {"levels": [net.features(x), (_logits(net, x), None)], "count": 3})
scalar = _returning(lambda net, x: _logits(net, x).square().mean())
nothing = _returning(lambda net, x: None)
undefined = _returning(lambda net, x: _logits(net, x) * float("nan"))
wrong_key = _returning(lambda net, x: {}["conv9"])
branching = _returning(lambda net, x: _logits(net, x) * 2 if x.sum() > 0 else _logits(net, x))
random = _returning(lambda net, x: functional.dropout(_logits(net, x), 0.5, training=True))


class Counting(Net):
    """Adds the number of its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.calls.add_(1)
        return super().forward(x) + self.calls


class Dropping(Net):
    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(super().forward(x))


def half() -> nn.Module:
    return Net().half()


def brain_half() -> nn.Module:
    return Net().to(torch.bfloat16)


def scripted() -> nn.Module:
    return torch.jit.script(Net())


def traced() -> nn.Module:
    return torch.jit.trace(Net().eval(), torch.zeros(1, 3, 64, 64))


def program() -> Any:
    return torch.export.export(Net().eval(), (torch.zeros(1, 3, 64, 64),))


def missing_key() -> nn.Module:
    return {}["conv9"]


def missing_file() -> nn.Module:
    return torch.nn.Linear(1, Path("weights.bin").stat().st_size)


def division() -> nn.Module:
    return nn.Linear(1, 1 // 0)
