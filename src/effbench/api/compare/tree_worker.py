"""Export one side of a gate, from one tree: in a process of its own whose module path begins in that tree.

``python -m effbench.api.compare.tree_worker``, started in the tree. It proves where the factory's files lie before
anything is exported: an editable install would otherwise let a gate compare a tree with itself.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from effbench import process
from effbench.codec import to_json
from effbench.errors import EffbenchError


def prove_inside(files: list[Path], root: Path, model: str) -> None:
    """Refuse a model whose source lies outside the tree that is meant.

    Raises:
        EffbenchError: With the file, the tree, and what to do.
    """
    for file in files:
        if not file.resolve().is_relative_to(root.resolve()):
            raise EffbenchError(
                f"'{model}' would be exported from {file}, which is outside {root}.",
                hint="An installed copy hides the tree's own. The gate puts the tree (and its src/) first on the path; "
                "name the model's folder with --path if it lies elsewhere, or take the installed copy away.",
            )


def own_files(model: str) -> list[Path]:
    """Return the source files of a factory's own top-level package, or the .onnx file itself."""
    from effbench.api.export.source import resolve
    from effbench.models.sources import source_files

    source = resolve(model)
    if source.path is not None:
        return [source.path.absolute()]
    factory = source.backbone.factory
    files = source_files(factory)
    if factory.startswith("effbench."):
        return list(files)
    # The builder of effbench takes part in every export, but it is no part of somebody else's model.
    ours = Path(process.__file__).resolve().parent
    return [file for file in files if not file.resolve().is_relative_to(ours)]


def export_side(job: dict[str, Any], emit: Any) -> None:
    """Export models of this tree; emits one cell per artifact, and for each the folder of its ONNX graph."""
    from effbench.api.export.run import export
    from effbench.deploy.artifact import bundle

    root = Path(job["root"])
    home = Path(job["out"])
    for model in job["models"]:
        emit({"event": "stage", "stage": f"find {model} in the tree"})
        files = own_files(model)
        prove_inside(files, root, model)
        emit({"event": "proof", "model": model, "files": [str(file) for file in files[:3]]})
        emit({"event": "stage", "stage": f"export {model}"})
        cells = export(
            model,
            job["targets"],
            job["resolutions"],
            batch=int(job["batch"]),
            weights=job.get("weights"),
            seed=int(job["seed"]),
            verify=bool(job["verify"]),
            out=home,
            notify=lambda text: emit({"event": "progress", "text": text}),
        )
        known = {item.digest: item for item in bundle.artifacts(home) if item.subject.target == "onnx"}
        for cell in cells:
            graph = None
            if cell.artifact:
                made = bundle.load(Path(cell.artifact), check_files=False)
                graph = known[made.graph_digest].folder if made.graph_digest in known else None
            kept = replace(cell, notes=(*cell.notes, f"python {sys.version.split()[0]}"))
            emit({"event": "cell", "cell": to_json(kept), "graph": str(graph) if graph else None})


HANDLERS = {"export": export_side}

if __name__ == "__main__":
    process.serve(HANDLERS)
