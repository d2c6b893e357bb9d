"""Modules that are imported on first use: listing targets must import neither torch nor coremltools."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from importlib import import_module
from typing import TYPE_CHECKING, Any


class LazyModule:
    """A module, or one name in it, that is imported when an attribute is first read."""

    def __init__(self, module: str, name: str | None = None) -> None:
        self._module = module
        self._name = name
        self._value: Any = None

    def __getattr__(self, attribute: str) -> Any:
        if self._value is None:
            module = _quiet_import(self._module)
            self._value = module if self._name is None else getattr(module, self._name)
        return getattr(self._value, attribute)


def _quiet_import(name: str) -> Any:
    # At each import, coremltools logs what it cannot load except on a Mac, and versions that it was not tested with.
    logger = logging.getLogger("coremltools")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return import_module(name)
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def quiet_coremltools() -> Iterator[None]:
    """Keep coremltools' warnings and progress bars off the terminal while it works."""
    logger = logging.getLogger("coremltools")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")

ct: Any = LazyModule("coremltools")
mb: Any = LazyModule("coremltools.converters.mil", "Builder")
mil: Any = LazyModule("coremltools.converters.mil.mil")

__all__ = ["LazyModule", "ct", "mb", "mil", "quiet_coremltools", "torch"]
