from __future__ import annotations

from pathlib import Path

import pytest

from effbench.api.compare.budgets import read_suite
from effbench.api.export.declarations import Declarations, declared
from effbench.api.export.request import ExportRequest
from effbench.errors import UsageError
from effbench.schema import Preprocessing

TOML = """
[model."x.onnx"]
outputs = {scores = "probabilities", boxes = "boxes"}
"""


def test_a_project_declares_kinds_of_outputs(tmp_path: Path) -> None:
    assert declared("x.onnx", tmp_path) == Declarations()
    (tmp_path / "effbench.toml").write_text(TOML)
    for name in ("x.onnx", "models/x.onnx"):
        assert declared(name, tmp_path).outputs == {"scores": "probabilities", "boxes": "boxes"}
    assert declared("y.onnx", tmp_path) == Declarations()
    assert read_suite(tmp_path).suite == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[model."x.onnx"]\noutput = {}\n', r"Unknown key of \[model\] in .* 'output'"),
        ('[model."x.onnx"]\noutputs = {y = "probability"}\n', "Unknown kind of output 'probability'"),
        ('[model."x.onnx"]\noutputs = 3\n', "is not a table of texts by name"),
        ('[model."x.onnx"]\nshapes = {x = "big"}\n', "is not NAME=SHAPE"),
        ('[model."x.onnx"]\npreprocessing = {means = [1]}\n', "key of .* preprocessing"),
    ],
)
def test_what_is_no_kind_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "effbench.toml").write_text(text)
    with pytest.raises(UsageError, match=message):
        declared("x.onnx", tmp_path)


def test_a_project_declares_inputs_and_preprocessing(tmp_path: Path) -> None:
    text = """[model."x.onnx"]
inputs = {x = "image:NHWC", ids = "tokens:9"}
shapes = {ids = "1x128"}
preprocessing = {mean = [0.5], std = [0.5], channel_order = "BGR"}
"""
    (tmp_path / "effbench.toml").write_text(text)
    declarations = declared("x.onnx", tmp_path)
    assert declarations.inputs == {"x": "image:NHWC", "ids": "tokens:9"}
    assert declarations.shapes == {"ids": (1, 128)}
    assert declarations.preprocessing == Preprocessing(mean=(0.5,), std=(0.5,), channel_order="BGR")


def test_a_request_refuses_an_unknown_kind() -> None:
    with pytest.raises(UsageError, match="Unknown kind of output 'box'"):
        ExportRequest("regla_m", output_kinds={"y": "box"})
