"""int8 of files from before Q/DQ had scales per channel, and of graphs with control flow."""

import field_models
import numpy as np
import pytest

from effbench.deploy.graph import normalize, onnx_file
from effbench.deploy.graph.run_ort import runner
from effbench.deploy.precision.quantize import LEAST_OPSET, to_int8
from effbench.errors import ConversionError

BATCHES = [{"x": np.random.default_rng(seed).uniform(size=(1, 3, 64, 64)).astype(np.float32)} for seed in range(3)]


@pytest.mark.target("ort")
def test_the_opset_is_raised():
    pytest.importorskip("nncf")
    model = onnx_file.infer_shapes(normalize.normalized(field_models.initializers_as_inputs())[0], "m")
    assert model.opset_import[0].version < LEAST_OPSET
    quantized = to_int8(model, BATCHES)
    assert LEAST_OPSET <= quantized.opset_import[0].version
    assert "QuantizeLinear" in onnx_file.operators(quantized)
    expected, actual = (runner(graph)(BATCHES[0])["logits"] for graph in (model, quantized))
    assert 0.2 > np.abs(expected - actual).max() / np.abs(expected).max()


def test_control_flow_is_refused_by_name():
    with pytest.raises(ConversionError, match=r"int8 failed \(node n_y\) \(operator If\): the graph has control flow"):
        to_int8(field_models.captured_weights(), BATCHES)
