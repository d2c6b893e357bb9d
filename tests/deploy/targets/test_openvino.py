"""What OpenVINO says when it refuses a graph."""

from pathlib import Path
from types import SimpleNamespace

import field_models
import onnx
import pytest

from effbench import deploy
from effbench.deploy.targets.openvino import reason
from effbench.errors import UnsupportedError


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            "Exception from src/inference/src/cpp/core.cpp:84:\nCheck 'false' failed at src/frontends/report.cpp:151:\n"
            "Model wasn't fully converted.\n-- No conversion rule found for operations: own.Nonsense\n\n",
            "Model wasn't fully converted. -- No conversion rule found for operations: own.Nonsense",
        ),
        ("Cannot open model.xml", "Cannot open model.xml"),
        ("Exception from src/a.cpp:1:\n", "Exception from src/a.cpp:1:"),
        ("", "RuntimeError"),
    ],
)
def test_the_reason_is_in_its_later_lines(message: str, expected: str):
    assert expected == reason(RuntimeError(message))


@pytest.mark.target("ov")
def test_an_operator_that_it_lacks_is_unsupported(tmp_path: Path):
    model = field_models.plain()
    model.opset_import.append(onnx.helper.make_opsetid("own", 1))
    model.graph.node.append(onnx.helper.make_node("Nonsense", ["logits"], ["y"], domain="own"))
    model.graph.output[0].name = "y"
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(UnsupportedError, match=r"OpenVINO has no own\.Nonsense, an operator of this graph"):
        deploy.get("ov").convert(SimpleNamespace(path=tmp_path / "model.onnx"), tmp_path, {})


@pytest.mark.target("ov")
def test_a_file_in_half_precision_may_be_computed_in_it(tmp_path: Path):
    onnx.save(field_models.half(), tmp_path / "model.onnx")
    artifact = SimpleNamespace(path=tmp_path / "model.onnx", subject=SimpleNamespace(storage_precision="fp32"))
    session = deploy.get("ov").open(artifact, 1, {})
    assert "fp16" in session.precisions()
