"""Nodes by type of every exported backbone, one golden file per model (`golden` says how they are updated)."""

from __future__ import annotations

import json
from pathlib import Path

import golden
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
    operators = onnx_file.operators(from_torch.from_module(model, from_torch.image_inputs(3, (64, 64), 1), 1))
    assert not {"Identity", "Shape", "Cast", "Constant", "BatchNormalization"} & operators.keys()
    golden.check(GOLDEN / f"{name}.json", json.dumps(operators, indent=1) + "\n")
