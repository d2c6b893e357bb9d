"""Give both sides of a gate the same weights where names and shapes match: the code is all that may differ."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from effbench import process
from effbench.api.compare.why import source_onnx_path
from effbench.api.export.run import EXPORT_WORKER, STAGE_LIMIT_S
from effbench.deploy.artifact import bundle
from effbench.deploy.graph import onnx_file
from effbench.schema import Artifact

if TYPE_CHECKING:
    import onnx


def share_weights(base: Artifact, candidate: Artifact, home: Path) -> Artifact:
    """Return the candidate with the base's weights in it, wherever a tensor of that name and shape is in both.

    Untrained weights come from one stream of random numbers: a layer more shifts all that follow, and the files
    differ although the code of most layers does not. An unchanged graph becomes identical again here.
    """
    left, right = source_onnx_path(base), source_onnx_path(candidate)
    owner = next((one for one in bundle.artifacts(home) if one.digest == candidate.graph_digest), None)
    if left is None or right is None or owner is None:
        return candidate
    key = bundle.make_key({"shared weights": [base.digest, candidate.key]})
    name = candidate.name.rsplit("-", 1)[0]
    folder = bundle.folder_of(home, name, key)
    found = bundle.find(folder, key)
    if found is not None:
        return found
    graph_folder = bundle.folder_of(home, f"{name}-graph", key)

    def build(draft: Path) -> Artifact:
        import onnx

        model = _with_weights(onnx_file.load(right), onnx_file.load(left))
        onnx.save(model, draft / "model.onnx")
        return replace(owner, folder=draft, key=key, entry="model.onnx", fidelity=None)

    bundle.write(graph_folder, build)
    options = {name: value for name, value in candidate.options.items() if name != "factory"}
    job = {
        "op": "convert",
        "graph": str(graph_folder.resolve()),
        "target": candidate.subject.target,
        "options": options,
        "folder": str(folder.resolve()),
        "key": key,
    }
    for _ in process.run(EXPORT_WORKER, job, time_limit_s=STAGE_LIMIT_S):
        pass
    # The fidelity that was found holds for the code, not for these numbers: it is kept with its note.
    made = bundle.load(folder)
    return replace(made, fidelity=candidate.fidelity)


def _with_weights(model: onnx.ModelProto, source: onnx.ModelProto) -> onnx.ModelProto:
    known = {tensor.name: tensor for tensor in source.graph.initializer}
    for tensor in model.graph.initializer:
        other = known.get(tensor.name)
        if other is not None and other.dims == tensor.dims and other.data_type == tensor.data_type:
            tensor.CopyFrom(other)
    return model
