"""Find the source files that a factory depends on by parsing, without importing them: no torch, a few ms."""

from __future__ import annotations

import ast
import site
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from functools import cache, lru_cache
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path

from effbench.errors import UsageError

BUILDER = "effbench.models.build"
"""Draws, loads and folds the weights of every factory, and is always included."""


def source_files(import_string: str) -> tuple[Path, ...]:
    """Return the files that determine the result of ``package.module:factory``, sorted.

    These are the factory's module, the modules that it imports from its top-level package, from effbench or from
    outside the installed packages, their parent packages, and `BUILDER`. Nothing is imported or executed.

    Raises:
        UsageError: There is no such module.
    """
    module = _module(import_string)
    files, _ = _walk((module, BUILDER), {module.partition(".")[0], "effbench"})
    return tuple(sorted(set(files.values())))


def imported_packages(import_string: str) -> tuple[str, ...]:
    """Return the top-level names of the installed packages that a factory's modules import, sorted.

    Weights may come from them, so that their versions are part of a model's key.
    """
    module = import_string.partition(":")[0]
    own = module.partition(".")[0]
    _, others = _walk((module,), {own})
    return tuple(sorted(others - {own, "effbench", ""}))


def origin_of(import_string: str) -> Path:
    """Return the file of a factory's top-level package, or the folder of one without ``__init__.py``.

    Raises:
        UsageError: There is no such module.
    """
    top = _module(import_string).partition(".")[0]
    path = _locate(top)
    if path is not None:
        return path
    spec = _spec(top)
    locations = list(spec.submodule_search_locations or ()) if spec is not None else []
    return Path(locations[0]) if locations else Path.cwd()


@lru_cache(maxsize=1)
def installed_folders() -> tuple[str, ...]:
    """Return the folders that packages are installed into, with those of Python's own library; links resolved too."""
    folders = {sysconfig.get_path(name) for name in ("purelib", "platlib", "stdlib", "platstdlib")}
    folders |= {*site.getsitepackages(), site.getusersitepackages()}
    folders |= {entry for entry in sys.path if Path(entry).name in ("site-packages", "dist-packages")}
    return tuple(sorted({str(form) for folder in folders for form in (Path(folder), Path(folder).resolve())}))


def _module(import_string: str) -> str:
    module = import_string.partition(":")[0]
    if not module or _locate(module) is None:
        raise UsageError(
            f"Cannot find the module '{module}' of the factory '{import_string}'.",
            hint="Install its package, or run in the folder that holds it.",
        )
    return module


def _walk(start: Iterable[str], followed: set[str]) -> tuple[dict[str, Path], set[str]]:
    """Follow imports; return the files of modules by name, and the top-level names of what was not followed."""
    files: dict[str, Path] = {}
    others: set[str] = set()
    outside = cache(_is_outside)  # for this walk: the current folder and the module path may change later
    waiting, visited = list(start), set[str]()
    while waiting:
        name = waiting.pop()
        if name in visited:  # locating a module looks into folders, and many modules import the same ones
            continue
        visited.add(name)
        path = _locate(name)
        if path is None:
            continue
        files[name] = path
        # Importing a module runs its parent packages first.
        waiting += [name.rpartition(".")[0]] if "." in name else []
        for item in _imports(name, path):
            top = item.partition(".")[0]
            if top in followed or (top not in sys.stdlib_module_names and outside(top)):
                waiting.append(item)
            elif top not in sys.stdlib_module_names:
                others.add(top)
    return files, others


def _is_outside(top: str) -> bool:
    """Return whether a top-level module lies outside the installed packages: beside the factory's, say."""
    path = _locate(top)
    return path is not None and top != "effbench" and not path.as_posix().startswith(installed_folders())


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
