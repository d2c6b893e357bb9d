"""What a factory says of the model it makes: how images are prepared for it, and where its weights came from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from effbench.errors import UsageError
from effbench.schema import Preprocessing

F = TypeVar("F", bound=Callable[..., Any])
ATTRIBUTE = "effbench"


@dataclass(frozen=True)
class Declaration:
    """``weights`` names where trained weights came from (a package and version, a paper); None says untrained."""

    preprocessing: Preprocessing | None = None
    weights: str | None = None


def declare(*, preprocessing: Preprocessing | None = None, weights: str | None = None) -> Callable[[F], F]:
    """Return a decorator that tells effbench about the model of a factory.

    Args:
        preprocessing: How an image becomes the input; without it ImageNet's mean and deviation are taken.
        weights: Where the trained weights that the factory loads came from; without it they count as untrained.
    """

    def mark(factory: F) -> F:
        setattr(factory, ATTRIBUTE, Declaration(preprocessing, weights))
        return factory

    return mark


def declaration(factory: Callable[..., Any], model: Any) -> Declaration:
    """Return what a factory declares, else the preprocessing that a timm model carries in ``pretrained_cfg``.

    Raises:
        UsageError: The attribute ``effbench`` of the factory is something else.
    """
    declared = getattr(factory, ATTRIBUTE, None)
    if isinstance(declared, Declaration):
        return declared
    if declared is not None:
        raise UsageError(
            f"The factory's attribute 'effbench' is a {type(declared).__name__}.", hint="Use @effbench.declare(...)."
        )
    config = getattr(model, "pretrained_cfg", None)
    return Declaration(of_timm(config)) if isinstance(config, Mapping) and "mean" in config else Declaration()


def of_timm(config: Mapping[str, Any]) -> Preprocessing:
    """Return the preprocessing of a timm ``pretrained_cfg``; what it leaves open has timm's own default."""
    return Preprocessing(
        mean=tuple(float(value) for value in config["mean"]),
        std=tuple(float(value) for value in config.get("std", Preprocessing.std)),
        interpolation=str(config.get("interpolation", "bicubic")),
        crop_pct=float(config.get("crop_pct", 0.875)),
    )


__all__ = ["Declaration", "declaration", "declare", "of_timm"]
