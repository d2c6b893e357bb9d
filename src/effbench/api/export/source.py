"""The model that an argument names: a registered name, an ``.onnx`` or ``.pt2`` file, or ``package.module:factory``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from typing import Any

from effbench import models
from effbench.api.export import other_files
from effbench.api.export.dependencies.record import ABSENT, Places, file_state, project_of
from effbench.codec import file_sha256
from effbench.deploy.graph.external_data import external_files, inside
from effbench.errors import DataError, UsageError
from effbench.models.sources import imported_packages, origin_of, source_files
from effbench.models.weights import weights_of
from effbench.schema import Artifact, Backbone, Weights

BUILDER = "effbench.models.build:build"
ONNX, PROGRAM = ".onnx", ".pt2"
"""The files that hold a model, in lower case; the second is of `torch.export.save`."""
TIMM, PRETRAINED = "timm/", "pretrained"
"""The prefix of timm's models, and the word that asks for trained weights in place of a file."""


@dataclass(frozen=True)
class Source:
    """A model and where its weights come from; ``path`` is its .onnx file, ``state`` its .safetensors file."""

    backbone: Backbone
    weights: Weights
    path: Path | None = None
    state: Path | None = None

    @property
    def name(self) -> str:
        """The name used in folders and tables."""
        return self.backbone.name


def is_model(argument: str, exported: Iterable[Artifact]) -> bool:
    """Return whether an argument names a model to export, rather than an artifact that exists.

    Raises:
        UsageError: It names neither; the names of models are listed.
    """
    path = Path(argument)
    if argument in models.models() or argument.startswith(TIMM):
        return True
    if path.suffix.lower() in (ONNX, PROGRAM) or (":" in argument and not path.exists()):
        return True
    if not path.is_dir() and not any(item.name.startswith(argument) for item in exported):
        other_files.refuse(argument)
        models.get(argument)
    return False


def resolve(argument: str, weights: str | None = None, seed: int = 0) -> Source:
    """Return the model that an argument names; imports no torch.

    Raises:
        UsageError: The name is unknown, or weights were given for an .onnx file.
        DataError: A file does not exist or is of a kind that effbench does not load.
    """
    suffix = Path(argument).suffix.lower()
    if suffix == ONNX:
        return _from_onnx(Path(argument), weights)
    if suffix == PROGRAM:
        return _from_program(Path(argument), weights)
    if argument.startswith(TIMM):
        return _from_timm(argument, weights, seed)
    if weights == PRETRAINED:
        raise UsageError(f"No pretrained weights are known for '{argument}'.", hint="Give a file with --weights.")
    if ":" in argument and not Path(argument).exists():
        module = argument.partition(":")[0]
        backbone = Backbone(
            name=argument.replace(":", "."),
            family="user",
            factory=argument,
            stride=1,
            min_resolution=1,
            source=f"module {module}",
        )
    else:
        other_files.refuse(argument)
        backbone = models.get(argument)
    if weights is None:
        return Source(backbone, Weights("untrained", seed))
    return Source(backbone, weights_of(Path(weights)), state=Path(weights))


def _from_timm(argument: str, weights: str | None, seed: int) -> Source:
    name = argument.removeprefix(TIMM)
    backbone = Backbone(
        name=argument,
        family="user",
        factory=f"effbench.models.timm_zoo:{name}",
        published=name,
        stride=1,
        min_resolution=1,
        source=f"timm, {name}",
    )
    if weights == PRETRAINED:
        return Source(backbone, Weights("pretrained", None, f"timm {version_of('timm')}, {name}"))
    if weights is None:
        return Source(backbone, Weights("untrained", seed))
    return Source(backbone, weights_of(Path(weights)), state=Path(weights))


def version_of(package: str) -> str:
    """Return the installed version of one distribution."""
    return versions(package)[package]


def _from_onnx(path: Path, weights: str | None) -> Source:
    if weights is not None:
        raise UsageError(f"'{path}' brings its own weights; --weights has no meaning for it.")
    if not path.is_file():
        raise DataError(f"{path}: no such file.")
    backbone = Backbone(
        name=path.stem, family="user", factory="", stride=1, min_resolution=1, source=f"file {path.name}"
    )
    return Source(backbone, Weights("file", None, path.name, file_sha256(path)), path=path)


def _from_program(path: Path, weights: str | None) -> Source:
    if weights is not None:
        raise UsageError(f"'{path}' brings its own weights; --weights has no meaning for it.")
    if not path.is_file():
        raise DataError(f"{path}: no such file.")
    backbone = Backbone(
        name=path.stem,
        family="user",
        factory=f"effbench.models.exported_program:{path.resolve()}",
        stride=1,
        min_resolution=1,
        source=f"file {path.name}",
    )
    return Source(backbone, Weights("file", None, path.name, file_sha256(path)))


def ingredients(source: Source) -> dict[str, Any]:
    """Return what is known of a model without building it, for the identity of a job that starts from it.

    These are weights or seed, the modules that the factory imports, and the versions of installed packages. Files and
    variables that the factory reads are known once its graph was built (`effbench.api.export.dependencies`).
    """
    parts = request_of(source)
    if source.path is None:
        parts["sources"] = code_hashes(source.backbone.factory, BUILDER)
        if source.backbone.family == "user":
            parts["packages"] = versions(*distributions(imported_packages(source.backbone.factory)))
    return parts


def request_of(source: Source) -> dict[str, Any]:
    """Return the model's part of a request for its graph: an .onnx file with its external data, or a factory's name.

    Of sources only effbench's own count here. What else a factory depends on is recorded while its graph is built.
    """
    parts: dict[str, Any] = {"name": source.name, "weights": source.weights}
    if source.path is not None:
        return {**parts, "data": _external_hashes(source.path)}
    factory = source.backbone.factory
    own = (factory,) if factory.startswith("effbench.") else ()
    sources = code_hashes(*own, BUILDER)
    return {**parts, "factory": factory, "sources": sources, "preprocessing": source.backbone.preprocessing}


def places_of(source: Source) -> Places:
    """Return the folders that names of a model's dependencies are relative to.

    Raises:
        UsageError: The factory's module does not exist.
    """
    current = Path.cwd()
    if source.path is not None:
        return Places(current, current)
    origin = origin_of(source.backbone.factory)
    package = origin.parent if origin.name == "__init__.py" else origin
    return Places(project_of(package.parent), current)


def code_hashes(*import_strings: str) -> list[str]:
    """Return the SHA-256 of each source file behind import strings, the modules they import included.

    Content only: the same files are the same source, wherever they lie.
    """
    files = {path for text in import_strings for path in source_files(text)}
    # Where operators register themselves, nothing imports their modules by name: such a package counts whole.
    packages = {path.parent for path in files if path.name == "registry.py" and "deploy" in path.parts}
    files |= {path for folder in packages for path in folder.rglob("*.py")}
    return sorted(file_sha256(path) for path in files)


def option_files(options: Mapping[str, str]) -> dict[str, str]:
    """Return the SHA-256 of each file that an option names, by the option's key."""
    states = {key: file_state(Path(value)) for key, value in options.items()}
    return {key: state for key, state in states.items() if state != ABSENT}


def _external_hashes(path: Path) -> dict[str, str]:
    """Hash the files that an .onnx file names as external data; one that the loader will refuse is not read."""
    files = {location: inside(path.parent, location) for location in external_files(path)}
    return {
        location: file_sha256(file) if file is not None and file.is_file() else "refused"
        for location, file in files.items()
    }


def distributions(modules: Iterable[str]) -> list[str]:
    """Return the distributions of top-level modules; a module without one is left out."""
    owners = packages_distributions()
    return sorted({owner for module in modules for owner in owners.get(module, ())})


def versions(*packages: str) -> dict[str, str]:
    """Return the installed version of each distribution, else ``absent``; nothing is imported."""
    installed = {}
    for package in packages:
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            installed[package] = "absent"
    return installed
