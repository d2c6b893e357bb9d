"""Record in a child process which files, variables and packages a factory's code uses while its graph is built.

Python reports every file that it opens to an audit hook. What that cannot see is covered by other means: variables and
questions about files by wrappers, safetensors (opened in Rust) by a wrapper, libraries that other libraries load by the
process's memory map, and files that C code opens by the string constants of the user's modules that name them.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import packages_distributions
from importlib.util import source_from_cache
from pathlib import Path
from typing import Any

from effbench.api.export.dependencies.origins import Origin, Origins
from effbench.api.export.dependencies.record import ABSENT, Places, file_state, folder_state, package_state
from effbench.api.export.dependencies.strings import constants, imports

VOLATILE = frozenset(
    {"PWD", "OLDPWD", "SHLVL", "_", "COLUMNS", "LINES", "TERM", "PYTHONPATH", "PYTEST_CURRENT_TEST", "PYTEST_VERSION"}
)
"""Variables that differ from call to call; they count only where the user's own code reads them."""

UNSTABLE = "changed while it was read"
"""In place of the hash of a file that another process changed during the build: the next export builds again."""


class Tracer:
    """Records while it is active; one per process is active at a time."""

    def __init__(self, places: Places, origins: Origins) -> None:
        self.places, self.origins = places, origins
        self._read: dict[str, tuple[int, int] | None] = {}
        self._written: set[str] = set()
        self._folders: set[str] = set()
        self._variables: set[str] = set()
        self._modules: set[str] = set()

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Record what happens inside this context."""
        global _active
        _install()
        undo = [_watch_variables(self), _watch_questions(self), _watch_safetensors(self)]
        _active = self
        try:
            yield
        finally:
            _active = None
            for restore in undo:
                restore()

    def opened(self, path: Any, flags: int) -> None:
        """Note a file that is being opened."""
        name = _text(path)
        if name is None:
            return
        name = _source_of(name)
        if flags & (os.O_WRONLY | os.O_RDWR):
            self._written.add(self.places.name(name))
        if not flags & os.O_WRONLY and not flags & os.O_TRUNC:
            self.note_file(name)

    def note_file(self, name: str) -> None:
        """Note a file that is read, or whose existence is asked for."""
        key = self.places.name(name)
        if key not in self._read and self.origins.of(name) is not Origin.IGNORED:
            self._read[key] = _stamp(name)

    def listed(self, path: Any) -> None:
        """Note a folder that the user's code lists."""
        name = _text("." if path is None else path)
        if name is None or self.origins.of(name) is not Origin.USER:
            return
        if self.origins.called_by_user(through_imports=False):
            self._folders.add(self.places.name(name))

    def imported(self, module: str) -> None:
        """Note a module that the user's code imports for the first time, directly or not."""
        if self.origins.called_by_user():
            self._modules.add(module.partition(".")[0])

    def variable(self, name: str, value: str | None) -> None:
        """Note a variable that is read; one that names a file is a question for that file too."""
        if self.origins.called_by_user() and (name not in VOLATILE or self.origins.caller_is_user()):
            self._variables.add(name)
            if value and _is_file(value):
                self.note_file(value)

    def result(self) -> dict[str, Any]:
        """Return what was recorded, with the state of each file now, as JSON data.

        Variables are names alone: the parent, whose values a child inherits, hashes them (`record.observed`).
        """
        own = {self.places.name(file) for file in self._own_modules()}
        sources = {name: self.places.path(name) for name in {*own, *self._read} if name.endswith(".py")}
        sources = {name: path for name, path in sources.items() if self.origins.of(str(path)) is Origin.USER}
        named = {self.places.name(file) for path in sources.values() for file in self._named_in(path)}
        mapped = {self.places.name(file) for file in _mapped_files() if self.origins.of(file) is Origin.USER}
        names = {*own, *self._read, *named, *mapped}
        files = {name: state for name in sorted(names) if (state := self._state(name)) is not None}
        modules = {*self._modules, *(module for path in sources.values() for module in imports(path))}
        owners = packages_distributions()
        packages = sorted({owner for module in modules for owner in owners.get(module, ())} - {"effbench"})
        return {
            "files": files,
            "folders": {name: folder_state(self.places.path(name)) for name in sorted(self._folders)},
            "variables": sorted(self._variables),
            "packages": {name: package_state(name) for name in packages},
        }

    def _state(self, name: str) -> str | None:
        """Return the state of a file now; None for a folder, and for a file of this build that is gone again."""
        path = self.places.path(name)
        if path.is_dir():
            return None
        state = file_state(path)
        if name in self._written:
            return None if state == ABSENT else state
        before = self._read.get(name)
        return UNSTABLE if before is not None and before != _stamp(str(path)) else state

    def _own_modules(self) -> Iterator[str]:
        for module in tuple(sys.modules.values()):
            file = getattr(module, "__dict__", {}).get("__file__")  # `__getattr__` of a lazy module could import more
            if isinstance(file, str) and os.path.isabs(file) and self.origins.of(file) is Origin.USER:
                yield _archive_of(_source_of(file))

    def _named_in(self, source: Path) -> Iterator[str]:
        """Yield the files that string constants of a module name, from its folder, the project or the current one."""
        for text in constants(source):
            for folder in (source.parent, self.places.project, self.places.current):
                file = os.path.join(folder, text)
                if _is_file(file) and self.origins.of(file) is not Origin.IGNORED:
                    yield file


_active: Tracer | None = None
_is_installed = False
_stat = os.stat


def _install() -> None:
    """Add the audit hook, once: Python has no way to remove one."""
    global _is_installed
    if not _is_installed:
        sys.addaudithook(_hook)
        _is_installed = True


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    tracer = _active
    if tracer is None:
        return
    if event == "open":
        tracer.opened(arguments[0], arguments[2] or 0)
    elif event == "sqlite3.connect":
        tracer.opened(arguments[0], os.O_RDWR)
    elif event == "ctypes.dlopen" and os.sep in str(arguments[0]):  # else the system looks for it
        tracer.opened(arguments[0], 0)
    elif event in ("os.listdir", "os.scandir"):
        tracer.listed(arguments[0])
    elif event == "import":
        tracer.imported(arguments[0])


def _watch_variables(tracer: Tracer) -> Callable[[], None]:
    kind = type(os.environ)

    class Watched(kind):  # type: ignore[valid-type,misc]
        def __getitem__(self, name: str) -> str:
            try:
                value: str = super().__getitem__(name)
            except KeyError:
                tracer.variable(name, None)
                raise
            tracer.variable(name, value)
            return value

    os.environ.__class__ = Watched

    def restore() -> None:
        os.environ.__class__ = kind

    return restore


def _watch_questions(tracer: Tracer) -> Callable[[], None]:
    """Note files that the user's code asks for with `os.stat`, as `os.path.exists` does, and many loaders do first."""

    def noted_stat(path: Any, *arguments: Any, **options: Any) -> os.stat_result:
        name = _text(path)
        if name is not None and not name.startswith("<") and tracer.origins.called_by_user(through_imports=False):
            tracer.note_file(name)
        return _stat(path, *arguments, **options)

    os.stat = noted_stat

    def restore() -> None:
        os.stat = _stat

    return restore


def _watch_safetensors(tracer: Tracer) -> Callable[[], None]:
    try:
        import safetensors
    except ImportError:
        return lambda: None
    original = safetensors.safe_open

    def safe_open(filename: Any, *arguments: Any, **options: Any) -> Any:
        tracer.opened(filename, 0)
        return original(filename, *arguments, **options)

    # Modules that are imported later take the function from the package.
    modules: list[Any] = [safetensors, *filter(None, map(sys.modules.get, ("safetensors.torch", "safetensors.numpy")))]
    for module in modules:
        module.safe_open = safe_open

    def restore() -> None:
        for module in modules:
            module.safe_open = original

    return restore


def _text(path: Any) -> str | None:
    """Return a path as text; None for a file descriptor."""
    if isinstance(path, int) or path is None:
        return None
    try:
        return os.fsdecode(path)
    except TypeError:
        return None


def _source_of(name: str) -> str:
    """Return the source file of a compiled module, which stands for it; any other file stands for itself."""
    if not name.endswith(".pyc"):
        return name
    try:
        source = source_from_cache(name)
    except ValueError:
        return name
    return source if _is_file(source) else name


def _archive_of(file: str) -> str:
    """Return the archive that a module was imported from, or its own file."""
    path = Path(file)
    return next((str(item) for item in (path, *path.parents) if _is_file(str(item))), file)


def _stamp(name: str) -> tuple[int, int] | None:
    try:
        status = _stat(name)
    except (OSError, ValueError):
        return None
    return status.st_mtime_ns, status.st_size


def _is_file(name: str) -> bool:
    try:
        return stat.S_ISREG(_stat(name).st_mode)
    except (OSError, ValueError):
        return False


def _mapped_files() -> Iterator[str]:
    """Yield the files in this process's memory map, on Linux: libraries, and weights that are not copied."""
    try:
        lines = Path("/proc/self/maps").read_text(errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[5].startswith("/") and _is_file(fields[5]):
            yield fields[5]
