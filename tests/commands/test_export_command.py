"""``effbench export`` of several models and precisions, and the table that it prints."""

from __future__ import annotations

import json
from typing import Any

import pytest

from effbench.commands.text import results
from effbench.errors import ConversionError
from effbench.schema import Cell, InputShapes, Status

pytestmark = pytest.mark.xdist_group("export")
SHAPES = InputShapes((64, 64))


def test_several_models_and_precisions_are_one_table(own: Any):
    models = ("toy:net", "toy:two_outputs")
    result = own("export", *models, "--res", "64", "-t", "ort", "--precision", "fp32", "--precision", "fp16", "--json")
    assert 0 == result.returncode, result.stderr
    cells = [(cell["model"], cell["precision"], cell["status"]) for cell in json.loads(result.stdout)["data"]]
    names = ("toy.net", "toy.two_outputs")
    assert [(name, precision, "ok") for name in names for precision in ("fp32", "fp16")] == cells


def test_a_model_that_fails_does_not_stop_the_others(own: Any):
    (own.folder / "cut.onnx").write_bytes(b"no graph")
    result = own("export", "cut.onnx", "toy:net", "--res", "64", "-t", "ort", "--json")
    assert 2 == result.returncode, result.stderr
    assert ["failed", "ok"] == [cell["status"] for cell in json.loads(result.stdout)["data"]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("toy:net", "regal_m"), "Did you mean regla_m"),
        (("toy:net", "none.onnx"), "no such file"),
        (("toy:net", "regla_m", "--res", "100"), "multiples of 32 px, not 100"),
        (("toy:net", "toy:two_outputs", "--weights", "w.safetensors"), "belongs to one model, not to 2"),
        (("toy:net", "--finish", "bundle"), "Name a MODEL to export, or a bundle"),
        (("toy:net", "--precision", "fp32", "--precision", "fp8"), "Valid: a16w8, fp16, fp32, int8"),
        ((), "Name a MODEL to export, or a bundle"),
    ],
)
def test_every_argument_is_checked_before_the_first_export(run: Any, arguments: tuple[str, ...], message: str):
    result = run("export", *arguments, "-t", "ort")
    assert 2 == result.returncode, result.stdout
    assert message in result.stderr
    assert not (run.folder / "runs" / "artifacts").exists()


def test_what_cells_share_is_printed_once():
    notes = ("operators of torchvision do not fit",)
    cells = [
        Cell("timm/a", SHAPES, "fp32", target, Status.BUILT, reason="not verified", notes=notes)
        for target in ("ort", "ov", "torch", "litert", "coreml", "trt")
    ]
    error = ConversionError("convert", "no such operator", hint="effbench export timm/a --res 64 --target qnn")
    cells.append(Cell.of("timm/a", SHAPES, "fp32", "qnn", error))
    text = results.cells(cells)
    assert ["on 6 cells: built: not verified"] == [line for line in text.splitlines() if "not verified" in line]
    assert ["on 6 cells: operators of torchvision do not fit"] == [
        line for line in text.splitlines() if "vision" in line
    ]
    assert "timm/a 64 px fp32 qnn: failed: convert failed: no such operator\n  effbench export timm/a" in text


def test_the_last_line_is_the_next_command():
    cell = Cell("toy", SHAPES, "fp32", "ort", Status.BUILT, reason="not verified", notes=("a note",))
    assert "next: effbench profile toy" == results.cells([cell], "next: effbench profile toy").splitlines()[-1]
