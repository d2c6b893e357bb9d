"""Export one side of a gate from its tree, in a separate process that finds the tree's packages before installed ones.

It is started in the tree (`worktree.python_of`). Before the export it proves that the factory's files lie in the tree,
and after it that nothing of the other tree took part: with an editable install, a gate could otherwise compare a tree
with itself.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from effbench import deploy, process
from effbench.api.compare.worktree import git
from effbench.api.export.declarations import of_tables
from effbench.api.export.dependencies.builds import files_of
from effbench.api.export.run import export
from effbench.api.export.source import resolve
from effbench.api.export.verification import first_graph
from effbench.codec import to_json
from effbench.deploy.artifact import bundle
from effbench.errors import EffbenchError
from effbench.models.sources import origin_of, source_files
from effbench.schema import CALIBRATED, Cell

CODE = (".py", ".pyc", ".so", ".pyd")


def prove_inside(files: list[Path], root: Path, model: str) -> None:
    """Refuse a model whose source lies outside a tree.

    Raises:
        EffbenchError: With the file, the tree, and what to do.
    """
    for file in files:
        if not file.resolve().is_relative_to(root.resolve()):
            raise EffbenchError(
                f"'{model}' would be exported from {file}, which is outside {root}.",
                hint="Packages of the tree and its src/ come before installed copies; folders without __init__.py and "
                "names of the standard library do not. If the model lies elsewhere in the tree, give its folder with "
                "--path.",
            )


def prove_apart(files: Iterable[Path], other: Path, model: str) -> None:
    """Refuse a model that was built with code of the other tree, or with data that git tracks there.

    Data that git does not track, such as weights in a folder of their own, are the same for both trees.

    Raises:
        EffbenchError: With the file, the other tree, and what to do.
    """
    inside = [file for file in files if file.resolve().is_relative_to(other.resolve())]
    for file in inside:
        if file.suffix in CODE or git("ls-files", "--", str(file), cwd=other):
            raise EffbenchError(
                f"'{model}' of the base was built with {file}, which is in the working tree.",
                hint="Both sides would use the same file. If it is a module, give its folder with --path; if it is "
                "data, let the factory read it from beside its own file.",
            )


def own_files(model: str) -> list[Path]:
    """Return the source files of a factory's top-level package, or the .onnx file itself."""
    source = resolve(model)
    if source.path is not None:
        return [source.path.absolute()]
    factory = source.backbone.factory
    origin = origin_of(factory)
    package = origin.parent if origin.name == "__init__.py" else origin
    return [file for file in source_files(factory) if file == origin or file.is_relative_to(package)]


def export_side(job: dict[str, Any], emit: Any) -> None:
    """Export models of this tree and emit one cell per artifact."""
    root = Path(job["root"])
    for model in job["models"]:
        emit({"event": "stage", "stage": f"find {model} in the tree"})
        prove_inside(own_files(model), root, model)
        emit({"event": "stage", "stage": f"export {model}"})
        for cell in _cells(model, job, emit):
            if job["other"] and cell.has_artifact:
                prove_apart(_built_with(cell), Path(job["other"]), model)
            noted = replace(cell, notes=(*cell.notes, f"python {sys.version.split()[0]}"))
            emit({"event": "cell", "cell": to_json(noted)})


def _built_with(cell: Cell) -> Iterator[Path]:
    """Yield the files outside the tree that a cell's fp32 graph was built with."""
    graph = first_graph(bundle.load(Path(cell.artifact)))
    yield from (Path(name) for name in files_of(graph) if Path(name).is_absolute())


def _cells(model: str, job: dict[str, Any], emit: Any) -> Iterator[Any]:
    """Export a model in every precision of a job; images go to the precisions that are calibrated."""
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
            declarations=of_tables(Path("effbench.toml"), job["declared"], model),
            out=Path(job["out"]),
            notify=lambda text: emit({"event": "progress", "text": text}),
        )


HANDLERS = {"export": export_side}

if __name__ == "__main__":
    process.serve(HANDLERS)
