"""Rebuilt copies of a model are other files with the same work."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from places import BENCHMARKS
from small_graphs import chain


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module("gate_models")
    sys.modules.pop("gate_models", None)


@pytest.mark.target("ort")
@pytest.mark.parametrize("name", ["renamed", "reordered", "reseeded"])
def test_a_rebuilt_copy_is_another_file_with_the_same_nodes(models: Any, name: str, tmp_path: Path):
    import onnxruntime as ort

    source = tmp_path / "source.onnx"
    onnx.save(chain(6), source)
    copies = [models.write(kind, source, tmp_path / "out") for kind in ("same", name)]
    assert copies[0].read_bytes() != copies[1].read_bytes()
    graphs = [onnx.load(path).graph for path in copies]
    assert sorted(node.op_type for node in graphs[0].node) == sorted(node.op_type for node in graphs[1].node)
    sessions = [ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]) for path in copies]
    spec = sessions[0].get_inputs()[0]
    shape = [side if isinstance(side, int) else 1 for side in spec.shape]
    feed = {spec.name: np.random.default_rng(0).standard_normal(shape).astype(np.float32)}
    first, second = (session.run(None, feed)[0] for session in sessions)
    assert np.isfinite(second).all()
    assert (name == "reseeded") != np.array_equal(first, second)
