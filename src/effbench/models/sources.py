"""Find the source files that a factory depends on by parsing, without importing them: no torch, a few ms."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import lru_cache
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path

from effbench.errors import UsageError

BUILDER = "effbench.models.build"
"""Draws, loads and folds the weights of every factory, and is always included."""


def source_files(import_string: str) -> tuple[Path, ...]:
    """Return the files that determine the result of ``package.module:factory``, sorted.

    These are the factory's module, the modules that it imports from its top-level package or from effbench, their
    parent packages, and `BUILDER`. Nothing is imported or executed.

    Raises:
        UsageError: There is no such module.
    """
    module = import_string.partition(":")[0]
    if not module or _locate(module) is None:
        raise UsageError(
            f"Cannot find the module '{module}' of the factory '{import_string}'.",
            hint="Install its package, or run in the folder that holds it.",
        )
    followed = {module.partition(".")[0], "effbench"}
    files: dict[str, Path] = {}
    waiting = [module, BUILDER]
    while waiting:
        name = waiting.pop()
        path = _locate(name)
        if name in files or path is None:
            continue
        files[name] = path
        # Importing a module runs its parent packages first.
        waiting += [name.rpartition(".")[0]] if "." in name else []
        waiting += [item for item in _imports(name, path) if item.partition(".")[0] in followed]
    return tuple(sorted(set(files.values())))


def imported_packages(import_string: str) -> tuple[str, ...]:
    """Return the top-level names of the other packages that a factory's modules import, sorted.

    Weights may come from them, so that their versions are part of a model's key.
    """
    module = import_string.partition(":")[0]
    own = module.partition(".")[0]
    packages: set[str] = set()
    waiting, seen = [module], set[str]()
    while waiting:
        name = waiting.pop()
        path = _locate(name)
        if name in seen or path is None:
            continue
        seen.add(name)
        for item in _imports(name, path):
            top = item.partition(".")[0]
            waiting += [item] if top == own else []
            packages |= {top} if top != own and top not in sys.stdlib_module_names else set()
    return tuple(sorted(packages - {"effbench", ""}))


def _locate(name: str) -> Path | None:
    """Return the source file of a module, ``__init__`` for a package, or None if there is none."""
    spec = _spec(name)
    return Path(spec.origin) if spec is not None and spec.origin and spec.origin.endswith(".py") else None


def _spec(name: str) -> ModuleSpec | None:
    parent, _, _ = name.rpartition(".")
    if not parent:
        # For a name without a dot this imports nothing.
        local = PathFinder.find_spec(name, [str(Path.cwd())])
        return (_installed(name) or local) if name not in sys.builtin_module_names else None
    package = _spec(parent)
    locations = package.submodule_search_locations if package is not None else None
    return PathFinder.find_spec(name, list(locations)) if locations else None


def _installed(name: str) -> ModuleSpec | None:
    try:
        return find_spec(name)
    except ValueError:
        return None


def _imports(name: str, path: Path) -> tuple[str, ...]:
    status = path.stat()
    return tuple(_read(name, path, status.st_mtime_ns, status.st_size))


@lru_cache(maxsize=512)
def _read(name: str, path: Path, modified_ns: int, size: int) -> tuple[str, ...]:
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    try:
        tree = ast.parse(path.read_bytes())
    except SyntaxError as error:
        raise UsageError(f"{path}:{error.lineno}: {error.msg}.") from None
    return tuple(item for node in _executed(tree) for item in _names(node, package))


def _executed(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes below a node except those under ``if TYPE_CHECKING``."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            continue
        yield child
        # Only statements can hold imports, also inside ``except`` and ``case``.
        if isinstance(child, (ast.stmt, ast.excepthandler, ast.match_case)):
            yield from _executed(child)


def _names(node: ast.AST, package: str) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            parents = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*parents, base]) if base else ".".join(parents)
        # A name that is imported from a package may be a module of it; for any other name there is no file.
        yield base
        yield from (f"{base}.{alias.name}" for alias in node.names)
