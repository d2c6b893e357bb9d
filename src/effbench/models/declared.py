"""Metadata that a factory declares about its model: the preprocessing, and the source of its weights."""

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
    """The metadata; ``weights`` is the source of trained weights (a package and version, a paper) or None."""

    preprocessing: Preprocessing | None = None
    weights: str | None = None


def declare(*, preprocessing: Preprocessing | None = None, weights: str | None = None) -> Callable[[F], F]:
    """Return a decorator that declares metadata of a factory's model.

    Args:
        preprocessing: How an image becomes the input; if None, with ImageNet's mean and standard deviation.
        weights: The source of the trained weights that the factory loads; if None, they count as untrained.
    """

    def mark(factory: F) -> F:
        setattr(factory, ATTRIBUTE, Declaration(preprocessing, weights))
        return factory

    return mark


def declaration(factory: Callable[..., Any], model: Any) -> Declaration:
    """Return the declaration of a factory, else the preprocessing of a timm model's ``pretrained_cfg``.

    Raises:
        UsageError: The attribute ``effbench`` of the factory has another type.
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
    """Return the preprocessing of a timm ``pretrained_cfg``; keys that are missing have timm's defaults."""
    return Preprocessing(
        mean=tuple(float(value) for value in config["mean"]),
        std=tuple(float(value) for value in config.get("std", Preprocessing.std)),
        interpolation=str(config.get("interpolation", "bicubic")),
        crop_pct=float(config.get("crop_pct", 0.875)),
    )


__all__ = ["Declaration", "declaration", "declare", "of_timm"]
