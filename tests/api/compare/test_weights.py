"""Both sides of a gate get the same weights, and the candidate keeps its fidelity."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from small_graphs import attention, converted, graph_artifact

from effbench import deploy
from effbench.api.compare.weights import share_weights
from effbench.deploy.artifact import bundle
from effbench.schema import Artifact, Fidelity


def side(folder: Path, factor: float) -> Artifact:
    """Return an artifact of a small graph with its weights multiplied by a factor."""
    model = attention()
    for tensor in model.graph.initializer:
        if tensor.name.startswith("w"):
            tensor.CopyFrom(numpy_helper.from_array(factor * numpy_helper.to_array(tensor), tensor.name))
    return converted(graph_artifact(folder, model), deploy.get("ort"))


@pytest.mark.target("ort")
def test_the_candidate_keeps_its_fidelity_when_its_shared_copy_is_found_in_the_cache(tmp_path: Path):
    base = side(tmp_path / "base", 1.0)
    fidelity = Fidelity(True, "x", 1, 0, 0, 1, 1, True, True, {})
    candidate = replace(side(tmp_path / "candidate", 2.0), fidelity=fidelity)
    first = share_weights(base, candidate, tmp_path / "candidate")
    second = share_weights(base, candidate, tmp_path / "candidate")
    assert first.folder == second.folder != candidate.folder
    assert fidelity == first.fidelity == second.fidelity
    weights = [
        {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(artifact.path).graph.initializer}["w0"]
        for artifact in (base, candidate, second)
    ]
    assert not np.array_equal(weights[0], weights[1])
    assert np.array_equal(weights[0], weights[2])
    assert bundle.load(second.folder).digest == base.digest
