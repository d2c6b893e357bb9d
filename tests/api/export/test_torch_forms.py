"""torch models of the forms that users have: what comes out of an export, and what is said."""

from pathlib import Path

import odd_factories
import pytest
import torch

import effbench
from effbench.schema import Cell, Status

pytestmark = [pytest.mark.slow, pytest.mark.target("ort")]


@pytest.fixture
def exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(Path(odd_factories.__file__).parent)

    def export(name: str, size: int = 64) -> Cell:
        return effbench.export(f"odd_factories:{name}", ["ort"], [size], out=tmp_path / "runs")[0]

    return export


@pytest.mark.parametrize(
    ("name", "outputs"),
    [
        ("a_dict", ["logits", "map"]),
        ("a_dataclass", ["logits"]),
        ("a_named_tuple", ["boxes", "scores"]),
        ("nested", ["levels_0", "levels_1_0"]),
        ("scalar", ["output"]),
        ("scripted", ["output"]),
        ("traced", ["output"]),
        ("program", ["output"]),
    ],
)
def test_results_of_any_form(exported, name: str, outputs: list[str]):
    cell = exported(name)
    assert Status.OK is cell.status, cell.reason
    assert outputs == [item.name for item in cell.fidelity.by_output]


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("Dropping", "left in train mode (BatchNorm2d, Dropout); evaluated in eval mode"),
        ("half", "weights of float16; computed in float32"),
        ("brain_half", "weights of bfloat16; computed in float32"),
    ],
)
def test_what_is_changed_is_said(exported, name: str, note: str):
    cell = exported(name)
    assert Status.OK is cell.status, cell.reason
    assert note in cell.notes


@pytest.mark.parametrize(
    ("name", "exit_code", "reason"),
    [
        ("random", 3, "it is random, or keeps a state"),
        ("Counting", 3, "it is random, or keeps a state"),
        ("undefined", 1, "The model's own output 'output' is NaN at [0, 0]"),
        ("nothing", 5, "the model returns no tensor but None"),
        ("wrong_key", 5, "KeyError: 'conv9' (odd_factories.py, line"),
        ("branching", 5, "data-dependent"),
    ],
)
def test_what_cannot_be_exported_says_why(exported, name: str, exit_code: int, reason: str):
    cell = exported(name)
    assert (exit_code, True) == (cell.exit_code, reason in cell.reason), cell.reason


def test_a_saved_program_is_read(tmp_path: Path):
    torch.export.save(odd_factories.program(), tmp_path / "net.pt2")
    (cell,) = effbench.export(str(tmp_path / "net.pt2"), ["ort"], [64], out=tmp_path / "runs")
    assert Status.OK is cell.status, cell.reason
    assert cell.model == "net"
    other = torch.export.export(odd_factories.a_dict().eval(), (torch.zeros(1, 3, 64, 64),))
    torch.export.save(other, tmp_path / "net.pt2")
    (again,) = effbench.export(str(tmp_path / "net.pt2"), ["ort"], [64], out=tmp_path / "runs")
    assert ["logits", "map"] == [item.name for item in again.fidelity.by_output], "a changed file is another model"


def test_a_damaged_program_is_named(tmp_path: Path):
    (tmp_path / "net.pt2").write_bytes(b"no archive")
    (cell,) = effbench.export(str(tmp_path / "net.pt2"), ["ort"], [64], out=tmp_path / "runs")
    assert (2, True) == (cell.exit_code, "not a file of torch.export.save" in cell.reason), cell.reason
