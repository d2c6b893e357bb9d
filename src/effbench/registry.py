"""Find plugins: module constants in effbench's packages, and entry points of other packages.

A target is a module of ``effbench.deploy.targets`` that ends in ``TARGET``; a backbone family is a module of
``effbench.models`` that ends in ``BACKBONES``. Other packages register theirs under the entry-point groups
``effbench.targets`` and ``effbench.models``.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator
from importlib import import_module
from typing import TYPE_CHECKING, Any

from effbench.errors import UsageError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint


def constants_in(package: str, constant: str) -> Iterator[Any]:
    """Yield a constant of every public module of a package that defines it, in name order."""
    for info in pkgutil.iter_modules(import_module(package).__path__):
        if not info.name.startswith("_"):
            module = import_module(f"{package}.{info.name}")
            if hasattr(module, constant):
                yield getattr(module, constant)


def plugins(group: str) -> tuple[EntryPoint, ...]:
    """Return the entry points of a group, sorted by name, without importing them."""
    from importlib.metadata import entry_points  # 15 ms, which `effbench --help` does not need

    return tuple(sorted(entry_points(group=group), key=lambda point: point.name))


def import_object(import_string: str) -> Any:
    """Import the object that ``package.module:name`` names.

    Raises:
        UsageError: The string has another form, or the module or the name in it does not exist.
    """
    module, colon, name = import_string.partition(":")
    if not colon or not module or not name:
        raise UsageError(f"'{import_string}' is not of the form package.module:name.")
    try:
        value: Any = import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not module.startswith(error.name):
            raise
        raise UsageError(
            f"There is no module '{error.name}' for '{import_string}'.",
            hint="Run from the folder that holds it, or put that folder on PYTHONPATH.",
        ) from None
    for part in name.split("."):
        if not hasattr(value, part):
            raise UsageError(f"Module '{module}' has no '{name}'.")
        value = getattr(value, part)
    return value
