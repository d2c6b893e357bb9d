"""TensorRT and TensorRT for RTX behind one interface: import, version, and a logger that stores messages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from effbench.deploy import installed
from effbench.errors import MissingDependencyError, UnavailableError

OLDEST = 10
"""The oldest supported major version of TensorRT: the first with strongly typed networks."""


@dataclass(frozen=True)
class Library:
    """One of the two libraries: its import name, distribution, extra, and title."""

    module: str
    package: str
    extra: str
    title: str

    def missing(self) -> str | None:
        """Return None if the library is installed, else the reason; nothing is imported."""
        return None if installed(self.module) else f"the package '{self.package}' is not installed"

    def load(self) -> Any:
        """Import the library.

        Raises:
            MissingDependencyError: It is not installed.
            UnavailableError: It is installed but does not load, or is too old.
        """
        if self.missing() is not None:
            raise MissingDependencyError(self.title, self.package, self.extra)
        try:
            module = import_module(self.module)
        except (ImportError, OSError) as error:
            raise UnavailableError(f"{self.title} is installed, but does not load: {error}.") from error
        if self is TENSORRT and int(module.__version__.split(".")[0]) < OLDEST:
            raise UnavailableError(f"TensorRT {module.__version__} is too old.", hint=f"Install {OLDEST} or newer.")
        return module

    def identity(self) -> dict[str, str]:
        """Return the name and version of the library, which an engine is bound to."""
        return {"library": self.title, "version": str(self.load().__version__)}


TENSORRT = Library("tensorrt", "tensorrt", "trt", "TensorRT")
RTX = Library("tensorrt_rtx", "tensorrt-rtx-cu13", "trt-rtx", "TensorRT for RTX")


def check_version(library: Library, recorded: Mapping[str, Any], name: str) -> None:
    """Refuse an engine of another library or version before it is loaded; engines are bound to one version.

    Args:
        library: The library that is to load it.
        recorded: The result of `Library.identity` when the engine was built.
        name: The artifact's name, for the message.

    Raises:
        UnavailableError: They differ.
    """
    here = library.identity()
    for key, label in (("library", "library"), ("version", "version")):
        if recorded.get(key) != here[key]:
            raise UnavailableError(
                f"{name} was built by {recorded.get('library')} {recorded.get('version')}; installed here is "
                f"{here['library']} {here['version']}. An engine loads only in the {label} that built it.",
                hint="Export it again with the version installed here, or install the one that built it.",
            )


def logger(module: Any) -> Any:
    """Return a logger that stores (severity, text) of warnings and errors in ``messages`` and prints nothing."""

    class StoringLogger(module.ILogger):  # type: ignore[misc]  # the class exists only where the library does
        def __init__(self) -> None:
            super().__init__()
            self.messages: list[tuple[str, str]] = []

        def log(self, severity: Any, text: str) -> None:
            if severity.name in ("WARNING", "ERROR", "INTERNAL_ERROR"):
                self.messages.append((severity.name, text))

        def last_error(self) -> str:
            errors = [text for severity, text in self.messages if severity != "WARNING"]
            return errors[-1].strip() if errors else "no reason reported"

    return StoringLogger()
