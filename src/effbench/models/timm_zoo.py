"""Any timm model as a factory: ``effbench.models.timm_zoo:NAME`` builds ``timm.create_model(NAME)``.

timm is imported when a model is built, never before. Preprocessing comes from the model's ``pretrained_cfg``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from effbench.errors import UnavailableError, UsageError
from effbench.models.torchvision_operators import import_timm, make_importable


def __getattr__(name: str) -> Callable[..., nn.Module]:
    # Names of timm are in lower case; other attributes are no factories.
    if name.startswith("_") or not name.islower():
        raise AttributeError(name)

    def factory(pretrained: bool = False) -> nn.Module:
        return create(name, pretrained)

    return factory


def create(name: str, pretrained: bool = False) -> nn.Module:
    """Build a timm model; pretrained weights are downloaded, or taken from the cache of the hub.

    Raises:
        UsageError: timm has no such model, or no weights for it.
        UnavailableError: The weights could not be fetched.
    """
    timm: Any = import_timm()
    names = timm.list_models()
    if name.partition(".")[0] not in names:
        raise _unknown(name, names)
    try:
        model: nn.Module = timm.create_model(name, pretrained=pretrained)
    except OSError as error:
        raise UnavailableError(f"The weights of timm/{name} could not be fetched: {error}.") from error
    except (RuntimeError, ValueError) as error:
        raise UsageError(f"timm cannot build '{name}': {error}.") from error
    return deployable(model)


def _unknown(name: str, names: list[str]) -> UsageError:
    import difflib

    nearest = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(nearest)}?" if nearest else "timm.list_models() lists them."
    return UsageError(f"timm has no model '{name}' among its {len(names)}.", hint=hint)


class _Deployable:
    """Methods that are added to a timm model: reparameterisation, and another image size."""

    def fused(self) -> nn.Module:
        """Fold the branches that timm folds for deployment."""
        from timm.utils.model import reparameterize_model

        model: nn.Module = reparameterize_model(self)  # type: ignore[arg-type]
        return model

    def fit_resolution(self, resolution: tuple[int, int]) -> tuple[str, ...]:
        """Set the image size of a model that has one; return the notes for the artifact."""
        notes = (STUB_NOTE,) if make_importable() else ()
        trained = tuple(self.pretrained_cfg["input_size"][1:])  # type: ignore[attr-defined]
        if resolution == trained or not hasattr(self, "set_input_size"):
            return notes
        self.set_input_size(img_size=resolution)
        return (
            *notes,
            f"timm resampled parameters from {trained[0]}x{trained[1]} px to {resolution[0]}x{resolution[1]} px",
        )


STUB_NOTE = "torchvision's operators do not match this torch; stubs replace them, which classifiers never call"


def deployable(model: nn.Module) -> nn.Module:
    """Return the model with `_Deployable`'s methods; its state keeps its names."""
    model.__class__ = type(type(model).__name__, (_Deployable, type(model)), {})
    return model
