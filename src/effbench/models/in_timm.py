"""Register effbench's backbones in timm: after ``in_timm.register()``, ``timm.create_model("regla_m")`` builds one.

A model whose name timm has already is not registered.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from effbench import models
from effbench.errors import UsageError
from effbench.models.build import load_factory
from effbench.models.torchvision_operators import import_timm
from effbench.schema import Backbone


def entry(backbone: Backbone) -> Callable[..., nn.Module]:
    """Return a function that builds a backbone, with the signature that timm registers; weights are random."""

    def create(pretrained: bool = False, in_chans: int = 3, num_classes: int = 1000, **options: Any) -> nn.Module:
        if pretrained:
            raise UsageError(f"No pretrained weights are known for '{backbone.name}'.")
        # timm passes its options to every model, those that are not set as None.
        unknown = sorted(key for key, value in options.items() if value is not None)
        if unknown:
            raise UsageError(f"'{backbone.name}' takes in_chans and num_classes, not {', '.join(unknown)}.")
        model: nn.Module = load_factory(backbone.factory)(in_channels=in_chans, classes=num_classes)
        return model

    create.__name__ = create.__qualname__ = backbone.name
    create.__doc__ = f"Build {backbone.name}: {backbone.source}."
    return create


def register() -> tuple[str, ...]:
    """Register every backbone of effbench whose name timm does not have; return their names."""
    timm = import_timm()
    registry = import_timm("timm.models")
    new = [item for name, item in models.models().items() if not timm.is_model(name)]
    for item in new:
        registry.register_model(entry(item))
    return tuple(item.name for item in new)
