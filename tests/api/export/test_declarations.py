from __future__ import annotations

from pathlib import Path

import pytest

from effbench.api.compare.budgets import read_suite
from effbench.api.export.declarations import declared
from effbench.api.export.request import ExportRequest
from effbench.errors import UsageError

TOML = """
[model."x.onnx"]
outputs = {scores = "probabilities", boxes = "boxes"}
"""


def test_a_project_declares_kinds_of_outputs(tmp_path: Path) -> None:
    assert declared("x.onnx", tmp_path) == {}
    (tmp_path / "effbench.toml").write_text(TOML)
    for name in ("x.onnx", "models/x.onnx"):
        assert declared(name, tmp_path) == {"scores": "probabilities", "boxes": "boxes"}
    assert declared("y.onnx", tmp_path) == {}
    assert read_suite(tmp_path).suite == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[model."x.onnx"]\noutput = {}\n', r"Unknown key of \[model\] in .* 'output'"),
        ('[model."x.onnx"]\noutputs = {y = "probability"}\n', "Unknown kind of output 'probability'"),
        ('[model."x.onnx"]\noutputs = 3\n', "is not a table of kinds by output"),
    ],
)
def test_what_is_no_kind_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "effbench.toml").write_text(text)
    with pytest.raises(UsageError, match=message):
        declared("x.onnx", tmp_path)


def test_a_request_refuses_an_unknown_kind() -> None:
    with pytest.raises(UsageError, match="Unknown kind of output 'box'"):
        ExportRequest("regla_m", output_kinds={"y": "box"})
