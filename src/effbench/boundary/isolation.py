"""How a child process of effbench starts: isolated (``python -I``), with this effbench and the folders that it needs.

``-I`` leaves out the current folder, PYTHONPATH and the user's packages: a file ``json.py`` in the current folder would
otherwise be imported in place of the standard library's. What a child needs is added by `begin`, behind everything that
is installed. Python 3.10 has no ``-P``, which would be enough.
"""

from __future__ import annotations

import os
import re
import site
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

from effbench.boundary import quiet

ROOT = str(Path(__file__).parents[2])
"""The folder or archive that holds this effbench."""

TREE = "EFFBENCH_TREE"
"""Folders of a tree under test, separated like PYTHONPATH: its packages come before installed copies of them."""

SECRET = re.compile(
    r"TOKEN|SECRET|PASSW|PASSPHRASE|CREDENTIAL|PRIVATE|API_?KEY|ACCESS_?KEY|AUTH|COOKIE"
    r"|^GITHUB_(ENV|OUTPUT|PATH|STATE|STEP_SUMMARY)$|^ACTIONS_|^BASH_ENV$|^PIP_(INDEX|EXTRA_INDEX)_URL$",
    re.IGNORECASE,
)
"""Names of environment variables that code of a tree under test does not get. The files of ``GITHUB_ENV`` and the like
set the variables and the path of later steps."""

BOOT = """\
import importlib, os, runpy, sys, typing
root, module = sys.argv[1:3]
sys.path.insert(0, root)
import effbench
del sys.path[0]
from effbench.boundary import isolation
isolation.begin()
sys.argv[:] = sys.argv[2:]
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""
"""The child imports effbench from where its parent has it, even if its interpreter has another version installed."""


def command(module: str, *arguments: str, python: Sequence[str] = (sys.executable,), root: str = ROOT) -> list[str]:
    """Return the command line that runs a module of effbench in an isolated process.

    Args:
        module: Run as ``__main__``.
        arguments: Become ``sys.argv[1:]``.
        python: The interpreter and its options.
        root: The folder or archive that effbench is imported from.
    """
    return [*python, "-I", "-c", BOOT, root, module, *arguments]


def without_secrets(environ: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without secrets, and without the files by which a step of a CI job controls later ones."""
    return {name: value for name, value in environ.items() if not SECRET.search(name)}


def begin() -> None:
    """Complete the module path of an isolated process, and keep it offline."""
    quiet.switch_off()
    quiet.go_offline()
    quiet.keep_caches_here()
    sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))  # which -I ignores
    sys.path += [folder for folder in (*_user_site(), *_folders("PYTHONPATH")) if folder not in sys.path]
    tree = tuple(_folders(TREE))
    if tree:
        sys.meta_path.insert(0, Finder(tree, namespaces=False))
        sys.meta_path.append(Finder(tree))


def import_also_from(folder: str) -> None:
    """Let modules be imported from a folder, where nothing else has them.

    The folder does not come onto ``sys.path``: packages that are described there would count as installed, and their
    entry points would be loaded.
    """
    finder = Finder((folder,))
    if finder not in sys.meta_path:
        sys.meta_path.append(finder)


class Finder(MetaPathFinder):
    """Finds top-level modules in folders, but none that has a name of the standard library.

    In front of the others it lets the packages of a tree win over installed copies; a folder without ``__init__.py``,
    such as a clone, is no package there (``namespaces``).
    """

    def __init__(self, folders: Sequence[str], *, namespaces: bool = True) -> None:
        self.folders, self.namespaces = list(folders), namespaces

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Finder) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Return the module of these folders, or None to leave it to the other finders."""
        if path is not None or "." in name or name in sys.stdlib_module_names:
            return None
        spec = PathFinder.find_spec(name, self.folders, target)
        return spec if spec is None or spec.origin is not None or self.namespaces else None


def _folders(variable: str) -> Iterator[str]:
    """Yield the folders of an environment variable; a relative one means the current folder, which is left out."""
    return (folder for folder in os.environ.get(variable, "").split(os.pathsep) if Path(folder).is_absolute())


def _user_site() -> Iterator[str]:
    """Yield the folder of packages installed with ``pip install --user``, as Python itself would use it."""
    if sys.prefix != sys.base_prefix and not _sees_system():
        return
    folder = site.getusersitepackages()
    if Path(folder).is_dir() and not os.environ.get("PYTHONNOUSERSITE"):
        yield folder


def _sees_system() -> bool:
    try:
        text = Path(sys.prefix, "pyvenv.cfg").read_text(errors="replace")
    except OSError:
        return False
    return any(line.replace(" ", "").lower() == "include-system-site-packages=true" for line in text.splitlines())
