"""`verify --mutate`: what is found, what is missed, and what changes nothing, each counted apart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from effbench.api.export.worker_mutate import Case, outcomes
from effbench.commands.text import mutations as text
from effbench.deploy.artifact import fidelity
from effbench.deploy.artifact.judge import Terms, own_rounding
from effbench.deploy.graph import onnx_file
from effbench.deploy.interpreter import Interpreter
from effbench.schema import MutationReport
from effbench.schema.mutation import EQUIVALENT, FOUND, MISSED

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

RNG = np.random.default_rng(2)
BODY = """
<ir_version: 10, opset_import: ["" : 20]>
g (float[1, 3, 8, 8] image) => (float[1, 6] output)
{
    a = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (image, w1)
    b = Relu (a)
    c = GlobalAveragePool (b)
    d = Flatten (c)
    e = MatMul (d, w2)
    f = Mul (e, tiny)
    output = Gemm <transB = 1> (d, w3, f)
}
"""
FEEDS = [{"image": RNG.normal(size=(1, 3, 8, 8)).astype(np.float32)} for _ in range(8)]


@pytest.fixture(scope="module")
def case() -> Case:
    model = parser.parse_model(BODY)
    shapes = {"w1": (16, 3, 3, 3), "w2": (16, 6), "w3": (6, 16)}
    values = {name: RNG.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    # A branch whose outputs vanish below the rounding of the others.
    values["tiny"] = np.full(6, 1e-12, np.float32)
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in values.items())
    model = onnx_file.infer_shapes(model, "the example")
    expected = fidelity.run_all(Interpreter(model).run, FEEDS)
    case = Case(model, expected, FEEDS, "fp32", Terms({"output": "logits"}))
    return replace(case, terms=Terms({"output": "logits"}, own_rounding(expected, case.exact_outputs(model))))


def test_faults_that_change_outputs_are_found_and_those_below_rounding_are_equivalent(case: Case) -> None:
    results = outcomes(case, 4, "seed")
    by_place = {item.place.partition(" (")[0]: item for item in results}
    assert [item for item in results if item.outcome == MISSED] == []
    assert by_place["w1 of Conv"].outcome == FOUND
    assert "output 'output', element" in by_place["w1 of Conv"].reason
    equivalent = [item for item in results if item.outcome == EQUIVALENT]
    assert {item.place.partition(" of ")[0] for item in equivalent if item.kind.startswith("weight")} <= {"w2", "tiny"}
    assert all(item.change is not None and item.change < 1e-6 for item in equivalent)


def test_a_fault_above_rounding_that_the_limit_lets_pass_is_missed(case: Case) -> None:
    loose = replace(case, precision="int8")
    results = outcomes(loose, 4, "seed")
    missed = [item for item in results if item.outcome == MISSED]
    assert {item.kind for item in missed} >= {"weight scaled 2 %"}
    assert all(item.change is not None and item.change > 1e-4 for item in missed)
    report = MutationReport("g", "int8", "ONNX Runtime", 8, tuple(results))
    assert report.share is not None
    assert report.share < 1
    lines = text.reports([report]).splitlines()
    assert lines[0] == "g: wrong conversions, run by ONNX Runtime, on 8 images"
    assert any(
        line.startswith("missed: weight scaled 2 %, w1 of Conv (432 values) times 1.02: changes") for line in lines
    )


def test_a_graph_that_the_engine_refuses_is_counted_apart(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(model: onnx.ModelProto) -> onnx.ModelProto:
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        copy.graph.node[0].input[1] = "nothing"
        return copy

    from effbench.api.export import worker_mutate
    from effbench.deploy.graph.mutations import Mutation

    wrong = [Mutation("layer lost", "x", broken(case.model))]
    monkeypatch.setattr(worker_mutate.mutations, "mutations", lambda *_: wrong)
    (outcome,) = outcomes(case, 1, "")
    assert outcome.outcome == "refused"
    assert outcome.reason
