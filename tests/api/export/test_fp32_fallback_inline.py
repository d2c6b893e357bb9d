"""The fp32 fallback of an fp16 export, whole, on a tiny network: one operator overflows, and islands repair it."""

from __future__ import annotations

from pathlib import Path

import pytest

from effbench.api.export import fp32_fallback
from effbench.api.export.run import export
from effbench.deploy.artifact import bundle
from effbench.schema import Cell, Status

pytestmark = [pytest.mark.target("torch"), pytest.mark.target("coreml"), pytest.mark.usefixtures("inline")]

MODEL = '''
import torch
from torch import nn


class Loud(nn.Module):
    """A stem whose output is divided by its own root mean square; the squares leave the range of half precision."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2)
        self.middle = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(12))
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        x = self.stem(x)
        loud = x * 800
        x = 100 * x / ((loud * loud).mean((1, 2, 3), keepdim=True).sqrt() / 800) / 100
        for layer in self.middle:
            x = x + 0.3 * torch.relu(layer(x))
        return self.head(x.mean((2, 3)))
'''


def export_all(folder: Path, monkeypatch: pytest.MonkeyPatch, *targets: str) -> list[Cell]:
    (folder / "inline_loud.py").write_text(MODEL)
    monkeypatch.syspath_prepend(folder)
    return export("inline_loud:Loud", targets, [16], precision="fp16", out=folder / "runs", reduce_s=0)


def export_loud(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Cell:
    (cell,) = export_all(folder, monkeypatch, "coreml")
    return cell


def test_islands_repair_what_one_operator_breaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = export_loud(tmp_path, monkeypatch)
    assert cell.status is Status.OK, cell
    artifact = bundle.load(Path(cell.artifact))
    islands = artifact.placement["fp32_islands"]
    graphs = {item.digest: item for item in bundle.artifacts(tmp_path / "runs")}
    graph = graphs[artifact.graph_digest or ""]
    assert islands == graph.placement["fp32_islands"]
    operators = sum(graphs[graph.graph_digest or ""].placement["operators"].values())
    assert 1 <= len(islands) <= 0.2 * operators
    assert f"{len(islands)} of {operators} operators stay in fp32 (islands)" in cell.notes


def test_without_the_right_islands_the_export_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_islands(*_: object) -> tuple[str, ...]:
        return ()

    monkeypatch.setattr(fp32_fallback, "islands", no_islands)
    cell = export_loud(tmp_path, monkeypatch)
    assert (Status.FAILED, 1) == (cell.status, cell.exit_code), cell
    assert "is not the same model" in cell.reason
    assert "no fp32 islands were found that would hold the limits" in cell.notes


def test_what_one_runtime_shows_broken_is_shipped_to_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime computes most of an fp16 graph in fp32, and TensorRT cannot run here: neither sees the overflow."""
    cells = export_all(tmp_path, monkeypatch, "ort", "trt", "coreml")
    assert [cell.status for cell in cells] == [Status.OK, Status.BUILT, Status.OK], cells
    graphs = {bundle.load(Path(cell.artifact)).graph_digest for cell in cells}
    assert len(graphs) == 1
    assert all(cell.placement["fp32_islands"] for cell in cells)
    assert all(any("stay in fp32 (islands)" in note for note in cell.notes) for cell in cells)


def test_a_target_that_cannot_run_here_inherits_the_simulation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (cell,) = export_all(tmp_path, monkeypatch, "trt")
    assert cell.status is Status.BUILT, cell
    assert cell.placement["fp32_islands"]
    assert cell.graph_fidelity is not None
    assert cell.graph_fidelity.passed
    assert "simulated half precision" in cell.graph_fidelity.engine
    # The graph without islands is known to be broken, and nothing was made of it.
    plain = [item for item in bundle.artifacts(tmp_path / "runs") if item.fidelity and item.fidelity.failed]
    assert [(item.subject.target, item.placement["fp32_islands"]) for item in plain] == [("onnx", [])]
    monkeypatch.setattr(fp32_fallback, "islands", lambda *_: ())
    (cell,) = export_all(tmp_path, monkeypatch, "trt")
    assert (Status.FAILED, 1) == (cell.status, cell.exit_code), cell
    assert "'trt' cannot run here to show otherwise" in cell.reason
    assert "simulated half precision, sums fp32" in cell.reason
    assert "cosine" in cell.reason
