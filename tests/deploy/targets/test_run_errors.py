"""A graph that a runtime loads and cannot run: an error of effbench with the runtime's reason, not a crash."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import parser

from effbench import deploy
from effbench.errors import ConversionError


@pytest.mark.parametrize("target", [pytest.param(name, marks=pytest.mark.target(name)) for name in ("ort", "ov")])
def test_the_reason_is_the_runtimes(target: str, tmp_path: Path):
    model = parser.parse_model("""<ir_version: 9, opset_import: ["" : 20]>
        g (float[1, 4] x, int64[2] sizes) => (float[a, b] y) { y = Reshape (x, sizes) }""")
    onnx.save(model, tmp_path / "model.onnx")
    artifact = SimpleNamespace(path=tmp_path / "model.onnx", subject=SimpleNamespace(storage_precision="fp32"))
    session = deploy.get(target).open(artifact, 1, {})
    feeds = {"x": np.zeros((1, 4), np.float32), "sizes": np.array([2, 2])}
    assert (2, 2) == session(feeds)["y"].shape
    with pytest.raises(ConversionError, match=r"(onnxruntime|OpenVINO) run failed: .*x"):
        session({**feeds, "x": np.zeros((1, 5), np.float32)})
