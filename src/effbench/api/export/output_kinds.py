"""Kinds of outputs that a project declares in ``effbench.toml``, so that no command has to repeat them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from effbench import reading
from effbench.deploy.artifact import kinds
from effbench.errors import UsageError, unknown_name


def declared(model: str, folder: Path) -> dict[str, str]:
    """Return the kinds of a model's outputs by name: ``[model."x.onnx"] outputs = {scores = "probabilities"}``.

    Args:
        model: As a command takes it; an .onnx file also matches by its name alone.
        folder: Of ``effbench.toml`` or of a ``pyproject.toml`` with ``[tool.effbench]``.

    Raises:
        DataError: The file is not TOML.
        UsageError: A key or a kind is unknown.
    """
    for path, keys in ((folder / "effbench.toml", ()), (folder / "pyproject.toml", ("tool", "effbench"))):
        if path.is_file():
            data = reading.toml_file(path)
            for key in (*keys, "model"):
                data = data.get(key, {})
            return _kinds(path, data.get(model) or data.get(Path(model).name) or {})
    return {}


def _kinds(path: Path, table: Mapping[str, object]) -> dict[str, str]:
    for key in table:
        if key != "outputs":
            raise unknown_name(key, ("outputs",), f"key of [model] in {path}:")
    outputs = table.get("outputs", {})
    if not isinstance(outputs, Mapping):
        raise UsageError(f"{path}: [model] outputs = {outputs!r} is not a table of kinds by output.")
    return {str(name): kinds.checked(str(kind)) for name, kind in outputs.items()}
