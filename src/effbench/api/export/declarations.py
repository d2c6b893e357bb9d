"""What a project declares of a model in ``effbench.toml``, so that no command has to repeat it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from effbench import reading
from effbench.api.keywords import build
from effbench.deploy.artifact import kinds
from effbench.errors import UsageError, unknown_name
from effbench.schema import Preprocessing, parse_shapes

KEYS = ("outputs", "inputs", "shapes", "preprocessing")


@dataclass(frozen=True)
class Declarations:
    """A table ``[model."x.onnx"]``.

    Attributes:
        outputs: Kinds by output: ``outputs = {scores = "probabilities"}``.
        inputs: Roles by input (`schema.ROLES`): ``inputs = {x = "image:NHWC", ids = "tokens:30522"}``.
        shapes: Shapes by input: ``shapes = {ids = "1x128"}``.
        preprocessing: How an image becomes the input: ``preprocessing = {mean = [0.5, 0.5, 0.5], scale = 0.00392}``.
    """

    outputs: Mapping[str, str] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    preprocessing: Preprocessing | None = None


def declared(model: str, folder: Path) -> Declarations:
    """Return what is declared of a model.

    Args:
        model: As a command takes it; an .onnx file also matches by its name alone.
        folder: Of ``effbench.toml`` or of a ``pyproject.toml`` with ``[tool.effbench]``.

    Raises:
        DataError: The file is not TOML.
        UsageError: A key, a kind or a value is unknown.
    """
    for path, keys in ((folder / "effbench.toml", ()), (folder / "pyproject.toml", ("tool", "effbench"))):
        if path.is_file():
            data = reading.toml_file(path)
            for key in (*keys, "model"):
                data = data.get(key, {})
            return of_tables(path, data, model)
    return Declarations()


def of_tables(path: Path, tables: Mapping[str, Any], model: str) -> Declarations:
    """Return what the tables below ``[model]`` of a file say of a model; errors as in `declared`."""
    table = tables.get(model) or tables.get(Path(model).name) or {}
    for key in table:
        if key not in KEYS:
            raise unknown_name(key, KEYS, f"key of [model] in {path}:")
    outputs, inputs, shapes = (_texts(path, table, key) for key in ("outputs", "inputs", "shapes"))
    return Declarations(
        {name: kinds.checked(kind) for name, kind in outputs.items()},
        inputs,
        parse_shapes(f"{name}={text}" for name, text in shapes.items()),
        _preprocessing(path, table["preprocessing"]) if "preprocessing" in table else None,
    )


def _texts(path: Path, table: Mapping[str, Any], key: str) -> dict[str, str]:
    values = table.get(key, {})
    if not isinstance(values, Mapping):
        raise UsageError(f"{path}: [model] {key} = {values!r} is not a table of texts by name.")
    return {str(name): str(text) for name, text in values.items()}


def _preprocessing(path: Path, values: Any) -> Preprocessing:
    if not isinstance(values, Mapping):
        raise UsageError(f"{path}: [model] preprocessing = {values!r} is not a table.")
    plain = {key: tuple(map(float, v)) if isinstance(v, list) else v for key, v in values.items()}
    return build(Preprocessing, plain, f"key of [model] preprocessing in {path}:")
