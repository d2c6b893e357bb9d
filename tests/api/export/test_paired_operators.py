"""A quantized graph is compared with its float graph when it is written; the record says what was found."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from effbench.api.export.worker_precision import _paired

pytestmark = pytest.mark.target("torch")

RNG = np.random.default_rng(0)
FEEDS = [{"image": RNG.normal(size=(1, 3, 8, 8)).astype(np.float32)}]
WEIGHT = RNG.normal(size=(4, 3, 1, 1)).astype(np.float32)


def graph(weight: np.ndarray, op: str = "Relu") -> onnx.ModelProto:
    body = f"[stem] a = Conv (image, w)\n [act] y = {op} (a)"
    text = (
        f'<ir_version: 10, opset_import: ["" : 20]> g (float[1, 3, 8, 8] image) => (float[1, 4, 8, 8] y) {{ {body} }}'
    )
    model = parser.parse_model(text)
    model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    return model


def test_a_right_graph_is_recorded_without_a_note() -> None:
    assert _paired(graph(WEIGHT), graph(WEIGHT), FEEDS) == ({"paired_operators": 2, "operator_faults": []}, ())


def test_a_wrong_operator_is_named_in_the_record_and_in_a_note() -> None:
    entries, (note,) = _paired(graph(WEIGHT), graph(WEIGHT * np.float32(1.02)), FEEDS)
    (fault,) = entries["operator_faults"]
    assert fault.startswith("Conv stem: input 1: a constant that is not quantized differs, element [")
    assert note == f"an operator differs from the float graph by more than quantization explains: {fault}"


def test_a_graph_that_the_interpreter_lacks_an_operator_of_is_not_compared() -> None:
    entries, (note,) = _paired(graph(WEIGHT, "NoSuchOperator"), graph(WEIGHT), FEEDS)
    assert entries == {}
    assert note.startswith("not compared operator by operator: ")
