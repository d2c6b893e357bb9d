"""The model that an argument names: a registered name, a path to an ``.onnx`` file, or ``package.module:factory``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from typing import Any

from effbench import models
from effbench.codec import file_sha256
from effbench.errors import DataError, UsageError
from effbench.models.sources import imported_packages, source_files
from effbench.models.weights import weights_of
from effbench.schema import Artifact, Backbone, Weights

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
    if path.suffix == ".onnx" or argument.startswith(TIMM) or (":" in argument and not path.exists()):
        return True
    if argument in models.models():
        return True
    if not path.is_dir() and not any(item.name.startswith(argument) for item in exported):
        models.get(argument)
    return False


def resolve(argument: str, weights: str | None = None, seed: int = 0) -> Source:
    """Return the model that an argument names; imports no torch.

    Raises:
        UsageError: The name is unknown, or weights were given for an .onnx file.
        DataError: A file does not exist or is of a kind that effbench does not load.
    """
    if argument.endswith(".onnx"):
        return _from_onnx(Path(argument), weights)
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


def ingredients(source: Source) -> dict[str, Any]:
    """Return the model's part of an artifact's key: sources, weights or seed."""
    parts: dict[str, Any] = {"name": source.name, "weights": source.weights}
    if source.path is not None:
        parts["data"] = _external_hashes(source.path)
    else:
        parts["factory"] = source.backbone.factory
        parts["sources"] = code_hashes(source.backbone.factory, "effbench.models.build:build")
        parts["preprocessing"] = source.backbone.preprocessing
        if source.backbone.family == "user":
            parts["packages"] = versions(*distributions(imported_packages(source.backbone.factory)))
    return parts


def code_hashes(*import_strings: str) -> list[str]:
    """Return the SHA-256 of each source file behind import strings, the modules they import included.

    Content only: the same files are the same source, wherever they lie.
    """
    files = {path for text in import_strings for path in source_files(text)}
    # Where operators register themselves, nothing imports their modules by name: such a package counts whole.
    packages = {path.parent for path in files if path.name == "registry.py" and "deploy" in path.parts}
    files |= {path for folder in packages for path in folder.rglob("*.py")}
    return sorted(file_sha256(path) for path in files)


def _external_hashes(path: Path) -> dict[str, str]:
    """Hash the files beside an .onnx file that may be its external data, chosen by name."""
    return {item.name: file_sha256(item) for item in sorted(path.parent.glob(f"{path.name}*data")) if item.is_file()}


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
