"""Where a file of a build comes from: the user, an installed package, or Python, effbench and the system."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterator
from enum import Enum
from functools import lru_cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import FrameType

import effbench
from effbench.models.sources import installed_folders, origin_of

CODE = (".py", ".pyc", ".pyi", ".so", ".dll", ".pyd", ".dylib", *EXTENSION_SUFFIXES)
SYSTEM = ("/proc/", "/sys/", "/dev/", "/etc/", "/lib/", "/lib64/", "/usr/lib/", "/usr/lib64/", "/usr/share/")
TIMM_ZOO = "effbench/models/timm_zoo.py"
"""effbench's factory of timm's models acts for the user."""


class Origin(Enum):
    """Whose a file is."""

    USER = "user"
    """It is hashed, as code or as data."""
    DATA = "data of an installed package"
    """It is hashed if it is read."""
    IGNORED = "installed code, Python, effbench or the system"
    """Versions and effbench's own key stand for it."""


class Origins:
    """Tells the origin of files and of running code, for a factory (``package.module:factory``).

    The factory's own package counts as the user's even if it is installed: its files may be edited where they lie.
    Files below ``output`` are what the build writes.
    """

    def __init__(self, factory: str, output: Path) -> None:
        self._own_package = _below(os.path.dirname(effbench.__file__), str(output))
        python = {os.path.realpath(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")}
        base = os.path.realpath(sys.base_prefix)
        self._python = _below(*python, os.path.join(base, "bin"), os.path.join(base, "lib"))
        self._installed = _below(*(item for item in installed_folders() if os.path.realpath(item) not in python))
        self._own = () if factory.startswith("effbench.") else _below(_package_of(factory))
        self.of = lru_cache(maxsize=8192)(self._of)

    def _of(self, file: str) -> Origin:
        path = os.path.abspath(file)
        if path.startswith(self._own_package):
            return Origin.IGNORED
        if self._own and path.startswith(self._own):
            return Origin.USER
        if path.startswith(self._installed):
            is_code = path.endswith(CODE) or ".so." in path or ".dist-info/" in path or ".egg-info/" in path
            return Origin.IGNORED if is_code else Origin.DATA
        return Origin.IGNORED if path.startswith((*self._python, *SYSTEM)) else Origin.USER

    def called_by_user(self, *, through_imports: bool = True) -> bool:
        """Return whether code of the user is on the stack.

        Args:
            through_imports: Whether what a module does while the user's code imports it counts.
        """
        for name in _stack():
            if not through_imports and (name.startswith("<frozen importlib") or "/importlib/" in name):
                return False
            if self._is_user(name):
                return True
        return False

    def caller_is_user(self) -> bool:
        """Return whether the nearest code outside Python's library is the user's."""
        nearest = (name for name in _stack() if not name.startswith(("<frozen", *self._python)) or self._is_user(name))
        return self._is_user(next(nearest, "<none>"))

    def _is_user(self, name: str) -> bool:
        if name.startswith("<"):
            return False
        return self.of(name) is Origin.USER or name.endswith(TIMM_ZOO)


def _stack() -> Iterator[str]:
    """Yield the file names of the code that runs, innermost first, without this package's."""
    frame: FrameType | None = sys._getframe(1)
    here = os.path.dirname(__file__)
    while frame is not None:
        name = frame.f_code.co_filename
        if not name.startswith(here):
            yield name
        frame = frame.f_back


def _package_of(factory: str) -> str:
    """Return the folder of a factory's top-level package, or its module's file."""
    origin = origin_of(factory)
    return str(origin.parent if origin.name == "__init__.py" else origin)


def _below(*folders: str) -> tuple[str, ...]:
    """Return the prefixes of what lies below folders, as they are written and with links resolved."""
    both = {path for folder in folders for path in (os.path.abspath(folder), os.path.realpath(folder))}
    return tuple(sorted(path if os.path.isfile(path) else path + os.sep for path in both))
