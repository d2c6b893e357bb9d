"""Export one side of a gate from its tree, in a separate process whose module path begins in that tree.

``python -m effbench.api.compare.tree_worker``, started in the tree. Before the export it proves that the factory's
files lie in the tree: with an editable install, a gate could otherwise compare a tree with itself.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from effbench import process
from effbench.codec import to_json
from effbench.errors import EffbenchError


def prove_inside(files: list[Path], root: Path, model: str) -> None:
    """Refuse a model whose source lies outside a tree.

    Raises:
        EffbenchError: With the file, the tree, and what to do.
    """
    for file in files:
        if not file.resolve().is_relative_to(root.resolve()):
            raise EffbenchError(
                f"'{model}' would be exported from {file}, which is outside {root}.",
                hint="An installed copy of the package takes precedence over the one in the tree. The gate puts the "
                "tree and its src/ first on the module path. If the model lies elsewhere in the tree, give its folder "
                "with --path; otherwise uninstall the copy.",
            )


def own_files(model: str) -> list[Path]:
    """Return the source files of a factory's top-level package, or the .onnx file itself."""
    from effbench.api.export.source import resolve
    from effbench.models.sources import source_files

    source = resolve(model)
    if source.path is not None:
        return [source.path.absolute()]
    factory = source.backbone.factory
    files = source_files(factory)
    if factory.startswith("effbench."):
        return list(files)
    # effbench's builder takes part in every export, but does not belong to the user's model.
    package = Path(process.__file__).resolve().parent
    return [file for file in files if not file.resolve().is_relative_to(package)]


def export_side(job: dict[str, Any], emit: Any) -> None:
    """Export models of this tree and emit one cell per artifact."""
    root = Path(job["root"])
    for model in job["models"]:
        emit({"event": "stage", "stage": f"find {model} in the tree"})
        prove_inside(own_files(model), root, model)
        emit({"event": "stage", "stage": f"export {model}"})
        for cell in _cells(model, job, emit):
            noted = replace(cell, notes=(*cell.notes, f"python {sys.version.split()[0]}"))
            emit({"event": "cell", "cell": to_json(noted)})


def _cells(model: str, job: dict[str, Any], emit: Any) -> Iterator[Any]:
    """Export a model in every precision of a job; images go to the precisions that are calibrated."""
    from effbench import deploy
    from effbench.api.export.run import export
    from effbench.schema import CALIBRATED

    for precision in job["precisions"] or [None]:
        written = {precision or deploy.get(target).precision for target in job["targets"]}
        yield from export(
            model,
            job["targets"],
            job["resolutions"],
            precision=precision,
            images=job["images"] if written & set(CALIBRATED) else None,
            batch=job["batch"],
            weights=job["weights"],
            seed=job["seed"],
            allow_fallback=job["allow_fallback"],
            verify=job["verify"],
            out=Path(job["out"]),
            notify=lambda text: emit({"event": "progress", "text": text}),
        )


HANDLERS = {"export": export_side}

if __name__ == "__main__":
    process.serve(HANDLERS)
