"""Import timm beside a CPU build of torch, where torchvision's own operators are missing and its import would fail.

torchvision's wheel is built for CUDA. Beside another torch it cannot load its operators, and then fails on a decorator
that names two of them. Defining those two, which no backbone calls, is all that it needs.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

from effbench.errors import MissingDependencyError

SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_kept: list[Any] = []


@cache
def make_importable() -> bool:
    """Define torchvision's two missing operators where it does not bring them; tell whether that was needed."""
    import torch

    try:
        import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        # The definitions last as long as this object.
        library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
        for name in ("nms", "qnms"):
            library.define(f"{name}{SIGNATURE}")  # type: ignore[no-untyped-call]
        _kept.append(library)
        return True
    return False


def import_timm(name: str = "timm", what: str = "timm's models", extra: str = "timm") -> ModuleType:
    """Import timm or a module of it.

    Raises:
        MissingDependencyError: timm or torchvision is not installed.
    """
    try:
        make_importable()
        return import_module(name)
    except ModuleNotFoundError as error:
        raise MissingDependencyError(what, str(error.name), extra) from error


def import_timm_data() -> ModuleType:
    """Import ``timm.data``; errors as in `import_timm`."""
    return import_timm("timm.data", "Augmentation", "train")
