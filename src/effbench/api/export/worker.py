"""The heavy half of an export, in a child process: build, reference outputs, torch -> ONNX, precision, translation.

``python -m effbench.api.export.worker`` reads one job from standard input and answers in JSON lines
(see `effbench.process`).
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from effbench import deploy, drafts
from effbench.api.export.source import versions
from effbench.api.export.stages import Stages
from effbench.api.export.worker_graph import graph, read_graph
from effbench.api.export.worker_mutate import mutate
from effbench.api.export.worker_precision import fp32_islands, mix, numerics, pair_runtime, precision
from effbench.deploy.artifact import bundle
from effbench.deploy.graph import onnx_file
from effbench.errors import DataError
from effbench.schema import Artifact


def convert(job: dict[str, Any], emit: Any) -> None:
    """Translate a graph artifact into one of a target."""
    stages = Stages(emit)
    target = deploy.get(job["target"])
    source = bundle.load(Path(job["graph"]))

    def build(draft: Path) -> Artifact:
        stages.begin(f"convert to {target.title}")
        converted = target.convert(source, draft, job["options"])
        if not (draft / converted.entry).exists():
            raise DataError(f"Target '{target.name}' wrote no file '{converted.entry}'.")
        carried = {name: source.placement[name] for name in ("fp32_islands",) if source.placement.get(name)}
        subject = replace(
            source.subject,
            target=target.name,
            storage_precision=converted.storage_precision,
            compute_precision=converted.compute_precision,
            fidelity_passed=None,
            notes=(*source.subject.notes, *converted.notes),
        )
        return replace(
            source,
            folder=draft,
            key=job["key"],
            subject=subject,
            entry=converted.entry,
            options={**source.options, **job["options"]},
            versions={**source.versions, **versions(*target.packages)},
            graph_digest=source.digest,
            graph_fidelity=source.fidelity or source.graph_fidelity,
            fidelity=None,
            placement={**carried, **converted.placement},
            stages=(*source.stages, *stages.end()),
        )

    bundle.write(Path(job["folder"]), build)


def attempt(job: dict[str, Any], emit: Any) -> None:
    """Convert a variant of a graph and keep nothing, for a reduction or a reproducer."""
    target = deploy.get(job["target"])
    source = bundle.load(Path(job["graph"]), check_files=False)
    model = onnx_file.load(Path(job["model"]))
    with drafts.scratch() as scratch:
        folder = Path(scratch) / "graph"
        (out := Path(scratch) / "made").mkdir()
        shutil.copytree(source.folder, folder, ignore=shutil.ignore_patterns(source.entry))
        shutil.copyfile(job["model"], folder / source.entry)
        names = {spec.name for spec in onnx_file.inputs(model)}
        inputs = tuple(spec for spec in source.inputs if spec.name in names)
        graph = replace(source, folder=folder, inputs=inputs, outputs=onnx_file.specs(model.graph.output))
        emit({"event": "stage", "stage": f"convert to {target.title}"})
        target.convert(graph, out, job["options"])


HANDLERS = {
    "graph": graph,
    "read_graph": read_graph,
    "precision": precision,
    "mix": mix,
    "pair_runtime": pair_runtime,
    "numerics": numerics,
    "fp32_islands": fp32_islands,
    "convert": convert,
    "attempt": attempt,
    "mutate": mutate,
}

if __name__ == "__main__":
    from effbench.process import serve

    serve(HANDLERS)
