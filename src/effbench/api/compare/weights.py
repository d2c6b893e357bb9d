"""Give both sides of a gate the same weights where names and shapes match, so that only the code differs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from effbench import process
from effbench.api.compare.explanation import source_onnx_path
from effbench.api.export.stage import EXPORT_WORKER, STAGE_LIMIT_S
from effbench.deploy.artifact import bundle
from effbench.deploy.graph import onnx_file
from effbench.schema import Artifact

if TYPE_CHECKING:
    import onnx


def share_weights(base: Artifact, candidate: Artifact, home: Path) -> Artifact:
    """Return the candidate with the base's weights, wherever both have a tensor of the same name and shape.

    Untrained weights are drawn from one stream of random numbers: an added layer shifts all that follow, and the files
    differ although the code of most layers does not. An unchanged graph becomes identical again here.

    The result has the candidate's fidelity, which is about the exported code and not about these weights.
    """
    shared = _shared(base, candidate, home)
    return replace(shared, fidelity=candidate.fidelity)


def _shared(base: Artifact, candidate: Artifact, home: Path) -> Artifact:
    base_path, candidate_path = source_onnx_path(base), source_onnx_path(candidate)
    graph = next((item for item in bundle.artifacts(home, skip=True) if item.digest == candidate.graph_digest), None)
    if base_path is None or candidate_path is None or graph is None:
        return candidate
    key = bundle.make_key({"shared weights": [base.digest, candidate.key]})
    name = candidate.name.rsplit("-", 1)[0]
    folder = bundle.folder_of(home, name, key)
    cached = bundle.find(folder, key)
    if cached is not None:
        return cached
    graph_folder = bundle.folder_of(home, f"{name}-graph", key)

    def build(draft: Path) -> Artifact:
        import onnx

        model = _with_weights(onnx_file.load(candidate_path), onnx_file.load(base_path))
        onnx.save(model, draft / "model.onnx")
        return replace(graph, folder=draft, key=key, entry="model.onnx", fidelity=None)

    bundle.write(graph_folder, build)
    job = {
        "op": "convert",
        "graph": str(graph_folder.resolve()),
        "target": candidate.subject.target,
        "options": candidate.options,
        "folder": str(folder.resolve()),
        "key": key,
    }
    list(process.run(EXPORT_WORKER, job, time_limit_s=STAGE_LIMIT_S))
    return bundle.load(folder)


def _with_weights(model: onnx.ModelProto, source: onnx.ModelProto) -> onnx.ModelProto:
    tensors = {tensor.name: tensor for tensor in source.graph.initializer}
    for tensor in model.graph.initializer:
        other = tensors.get(tensor.name)
        if other is not None and other.dims == tensor.dims and other.data_type == tensor.data_type:
            tensor.CopyFrom(other)
    return model
