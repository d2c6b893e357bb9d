"""Import timm with a CPU build of torch, for which torchvision's operators are missing and its import fails.

torchvision's wheel is built for CUDA. With another torch it cannot load its operators, and its import fails at a
decorator that names two of them. It succeeds if these two, which no backbone calls, are defined.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

from effbench.errors import MissingDependencyError

SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_libraries: list[Any] = []


@cache
def make_importable() -> bool:
    """Define two operators of torchvision if it cannot load them; return whether that was necessary."""
    import torch

    try:
        import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        # The definitions exist as long as this object.
        library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
        for name in ("nms", "qnms"):
            library.define(f"{name}{SIGNATURE}")  # type: ignore[no-untyped-call]
        _libraries.append(library)
        return True
    return False


def import_timm(name: str = "timm", feature: str = "timm's models", extra: str = "timm") -> ModuleType:
    """Import timm or a module of it.

    Raises:
        MissingDependencyError: timm or torchvision is not installed.
    """
    try:
        make_importable()
        return import_module(name)
    except ModuleNotFoundError as error:
        raise MissingDependencyError(feature, str(error.name), extra) from error


def import_timm_data() -> ModuleType:
    """Import ``timm.data``; errors as in `import_timm`."""
    return import_timm("timm.data", "Augmentation", "train")
