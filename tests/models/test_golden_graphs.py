"""Nodes by type of every exported backbone, one golden file per model (EFFBENCH_UPDATE_GOLDEN=1 rewrites them)."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from effbench import models
from effbench.deploy.graph import from_torch, onnx_file
from effbench.models.build import build, fit_resolution
from effbench.schema import Weights

GOLDEN = Path(__file__).parent / "golden"
QUICK = "regla_m"
CASES = [name if name == QUICK else pytest.param(name, marks=pytest.mark.slow) for name in models.models()]


@pytest.mark.parametrize("name", CASES)
def test_the_exported_graph_has_the_operators_it_had(name: str) -> None:
    model = build(models.get(name), Weights())
    fit_resolution(model, (64, 64))
    found = onnx_file.operators(from_torch.from_module(model, 3, (64, 64), 1))
    path = GOLDEN / f"{name}.json"
    if os.environ.get("EFFBENCH_UPDATE_GOLDEN") == "1":
        path.write_text(json.dumps(found, indent=1) + "\n")
    assert json.loads(path.read_text()) == found
    assert not {"Identity", "Shape", "Cast", "Constant", "BatchNormalization"} & found.keys()
