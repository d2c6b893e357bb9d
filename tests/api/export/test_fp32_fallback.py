"""A model that half precision breaks in one place is exported with islands of fp32 there, and that is said."""

from __future__ import annotations

import json
from typing import Any

import pytest

from conftest import Run
from effbench.deploy.artifact import bundle

pytestmark = [pytest.mark.slow, pytest.mark.target("torch"), pytest.mark.target("coreml")]

MODELS = '''
import torch
from torch import nn

class Loud(nn.Module):
    """A convolution whose output is divided by its own size; the squares leave the range of half precision."""

    def __init__(self, broken):
        super().__init__()
        self.broken = broken
        self.stem = nn.Conv2d(3, 16, 5, stride=2)
        self.middle = nn.ModuleList(nn.Conv2d(16, 16, 3, padding=1) for _ in range(24))
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        x = self.stem(x)
        if self.broken:
            loud = x * 800
            x = 100 * x / ((loud * loud).mean((1, 2, 3), keepdim=True).sqrt() / 800)
            x = x / 100
        for layer in self.middle:
            x = x + 0.3 * torch.relu(layer(x))
        return self.head(x.mean((2, 3)))

class Glaring(Loud):
    """How much of the image is white, counted in a sum that only a white image makes too large."""

    def __init__(self):
        super().__init__(False)

    def forward(self, x):
        glare = (400 * torch.relu(x.mean(1) - 2.2)).sum((1, 2), keepdim=True) * 1e-6
        return super().forward(x) + glare[:, 0]

def loud():
    return Loud(True)

def glaring():
    return Glaring()

def quiet():
    return Loud(False)
'''


def export(run: Run, factory: str, target: str = "coreml") -> tuple[int, dict[str, Any], str]:
    done = run("export", f"loudness:{factory}", "--res", "64", "-t", target, "--precision", "fp16", "--json")
    (cell,) = json.loads(done.stdout)["data"]
    return done.returncode, cell, done.stderr


def test_islands_save_what_one_operator_breaks(own: Run) -> None:
    (own.folder / "loudness.py").write_text(MODELS)
    code, cell, _ = export(own, "loud")
    assert (code, cell["status"]) == (0, "ok"), cell
    artifact = bundle.load(own.folder / cell["artifact"])
    islands = artifact.placement["fp32_islands"]
    graphs = {item.digest: item for item in bundle.artifacts(own.folder / "runs")}
    graph = graphs[artifact.graph_digest or ""]
    assert islands == graph.placement["fp32_islands"]
    # At most 5 % of the operators of the graph.
    full = graphs[graph.graph_digest or ""]
    assert 1 <= len(islands) <= 0.05 * sum(full.placement["operators"].values())
    assert any(f"{len(islands)} of" in note and "stay in fp32" in note for note in cell["notes"])
    # What broke it: the square, its mean or what they are made of.
    assert artifact.fidelity is not None
    assert artifact.fidelity.passed


def test_what_overflows_on_white_alone_is_found(own: Run) -> None:
    (own.folder / "loudness.py").write_text(MODELS)
    code, cell, _ = export(own, "glaring")
    assert (code, cell["status"]) == (0, "ok"), cell
    assert bundle.load(own.folder / cell["artifact"]).placement["fp32_islands"]


def test_what_needs_no_island_gets_none(own: Run) -> None:
    (own.folder / "loudness.py").write_text(MODELS)
    code, cell, _ = export(own, "quiet")
    assert (code, cell["status"]) == (0, "ok"), cell
    assert "fp32_islands" not in bundle.load(own.folder / cell["artifact"]).placement


@pytest.mark.target("qnn")
def test_nothing_is_looked_for_where_fp32_is_not_to_be_had(own: Run) -> None:
    (own.folder / "loudness.py").write_text(MODELS)
    code, cell, stderr = export(own, "loud", "qnn")
    assert (code, cell["status"]) == (1, "failed"), cell
    assert any(note.startswith("fp32 islands are not possible: the HTP has no fp32") for note in cell["notes"])
    assert "operators to blame" not in stderr
