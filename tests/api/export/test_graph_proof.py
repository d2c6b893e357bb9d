"""The first proof: a graph that is not the model is refused, one that no check can tell is unverifiable."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from effbench.api.export import graph_engines, graph_proof
from effbench.api.export.graph_engines import GraphEngine
from effbench.api.export.run import export
from effbench.deploy.artifact import bundle, feeding, fidelity, synthetic
from effbench.errors import ConversionError, FidelityError, UnverifiableError
from effbench.schema import Cell, InputSpec, Preprocessing, Proof, Status

pytestmark = [pytest.mark.target("torch"), pytest.mark.target("ort")]

SPEC = InputSpec("image", "float32", (1, 3, 8, 8))
IMAGES = synthetic.reference_images(fidelity.count_for(1), 3, (8, 8))
WEIGHT = np.random.default_rng(1).standard_normal((3 * 8 * 8, 5)).astype(np.float32)


def graph(weight: Any = WEIGHT, activation: str = "Tanh") -> onnx.ModelProto:
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["product"]),
        helper.make_node(activation, ["product"], ["output"]),
    ]
    return small(nodes, weight)


def small(nodes: list[onnx.NodeProto], weight: Any) -> onnx.ModelProto:
    inputs, outputs = (
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)]
        for name, shape in (("image", [1, 3, 8, 8]), ("output", [1, 5]))
    )
    body = helper.make_graph(nodes, "small", inputs, outputs, [numpy_helper.from_array(weight, "weight")])
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def model(feeds: Mapping[str, Any]) -> dict[str, Any]:
    x = np.asarray(feeds["image"])
    return {"0": np.tanh(x.reshape(1, -1) @ WEIGHT.astype(x.dtype)).astype(np.float32)}


def in_float64() -> fidelity.Run:
    return lambda feeds: {"0": np.tanh(feeds["image"].astype(np.float64).reshape(1, -1) @ WEIGHT)}


def setup_of(run: Any) -> fidelity.Setup:
    expected = fidelity.run_all(run, feeding.feeds({SPEC.name: IMAGES}, 1, (SPEC,), Preprocessing()))
    named = dict(zip(["output"], expected.values(), strict=True))
    return fidelity.Setup(fidelity.Reference({"image": IMAGES}, named, "torch"), 1, (SPEC,), Preprocessing(), "fp32")


def test_a_graph_of_the_model_is_proved_and_its_rounding_is_known() -> None:
    proof, rounding = graph_proof.prove_export(graph(), setup_of(model), in_float64, model)
    assert proof.passed
    assert (proof.inputs, proof.proved_by, proof.outputs) == (3, Proof.SECOND_ENGINE, ("output",))
    assert "interpreter on torch, float64" in proof.engine
    assert 0 < rounding["output"] < 1e-5
    assert proof.rounding == rounding
    assert "3 synthetic scenes" in proof.images


def test_a_wrong_graph_is_refused_and_the_export_is_blamed() -> None:
    with pytest.raises(FidelityError, match=r"the export to ONNX changed it: max error .* is above 5e-05"):
        graph_proof.prove_export(graph(WEIGHT * np.float32(1.02)), setup_of(model), in_float64, model)


def test_an_error_of_the_graph_is_not_taken_for_the_rounding_of_the_model() -> None:
    """Below 1e-3 of the spread, and a thousand times what fp32 rounds."""
    wrong = graph(WEIGHT * np.float32(1.0003))
    with pytest.raises(FidelityError, match=r"the export to ONNX changed it: max error .* is above 5e-05"):
        graph_proof.prove_export(wrong, setup_of(model), in_float64, model)


def test_a_wrong_fusion_is_blamed() -> None:
    wrong = WEIGHT * np.float32(1.02)

    def fused(feeds: Mapping[str, Any]) -> dict[str, Any]:
        return {"0": np.tanh(feeds["image"].reshape(1, -1) @ wrong)}

    with pytest.raises(FidelityError, match="folding its BatchNorms changed it"):
        graph_proof.prove_export(graph(wrong), setup_of(model), in_float64, fused)


def test_a_model_that_fp32_cannot_compute_is_unverifiable() -> None:
    def noisy(feeds: Mapping[str, Any]) -> dict[str, Any]:
        exact = in_float64()(feeds)["0"]
        return {"0": (exact + 0.05 * np.sin(1e5 * exact)).astype(np.float32)}

    proof, rounding = graph_proof.prove_export(graph(), setup_of(noisy), in_float64, noisy)
    assert not proof.passed
    assert not proof.failed
    assert proof.proved is None
    assert "the model's own rounding in fp32 is" in proof.unverifiable
    assert rounding["output"] > 0.01


def test_a_model_that_runs_in_fp32_only_is_judged_by_its_graph() -> None:
    def refuses() -> fidelity.Run:
        raise ConversionError("forward pass", "expected Float but found Double")

    with pytest.raises(FidelityError, match="the export to ONNX"):
        graph_proof.prove_export(graph(WEIGHT * np.float32(1.02)), setup_of(model), refuses, model)


@pytest.fixture
def without_an_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    """An interpreter that lacks an operator of the graph."""

    def opened(model: onnx.ModelProto) -> fidelity.Run:
        raise ConversionError("interpret", "the interpreter has no such operator", op=model.graph.node[-1].op_type)

    monkeypatch.setattr(graph_engines, "interpreter", lambda mode: opened)


@pytest.mark.usefixtures("without_an_operator")
def test_where_the_interpreter_lacks_an_operator_another_engine_runs_the_graph(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wide = graph()
    proof, _ = graph_proof.prove_export(wide, setup_of(model), in_float64, model)
    assert proof.passed
    assert proof.engine.startswith("ONNX Runtime")
    engine, run = graph_proof.reference_engine(wide, {"image": np.zeros((1, 3, 8, 8), np.float32)})
    assert engine.title.startswith("ONNX Runtime")
    proof, _ = graph_proof.prove_file(wide, setup_of(run), engine)
    assert proof.passed
    assert not proof.engine.startswith("ONNX Runtime")
    assert proof.independent
    monkeypatch.setattr(graph_engines, "installed", lambda package: package in ("torch", "onnxruntime"))
    proof, _ = graph_proof.prove_file(wide, setup_of(run), engine)
    assert proof.engine.startswith("the reference evaluator of onnx")
    assert proof.inputs == 1


def test_engines_that_differ_prove_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    first, run = graph_proof.reference_engine(graph(), {"image": np.zeros((1, 3, 8, 8), np.float32)})
    proof, rounding = graph_proof.prove_file(graph(), setup_of(run), first)
    assert proof.passed
    assert proof.engine.startswith("ONNX Runtime")
    assert rounding["output"] < 1e-5

    def faulty() -> Iterator[GraphEngine]:
        yield first
        yield GraphEngine("another", lambda _: graph_engines.onnxruntime(graph(activation="Sigmoid")))

    monkeypatch.setattr(graph_engines, "engines", faulty)
    with pytest.raises(FidelityError, match=r"Two engines compute different outputs .* against another"):
        graph_proof.prove_file(graph(), setup_of(run), first)


@pytest.mark.usefixtures("without_an_operator")
def test_without_any_engine_nothing_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    only = GraphEngine("the interpreter", graph_engines.interpreter("float32"))
    monkeypatch.setattr(graph_engines, "engines", lambda: iter([only]))
    with pytest.raises(ConversionError, match="no engine here runs it, so nothing can be made of it"):
        graph_proof.reference_engine(graph(), {"image": IMAGES[:1].astype(np.float32)})


@pytest.mark.usefixtures("without_an_operator")
def test_a_graph_that_one_engine_runs_is_not_independently_proved(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(model: onnx.ModelProto) -> fidelity.Run:
        raise ConversionError("compile", "no such operator")

    monkeypatch.setattr(graph_engines, "openvino", refuses)
    monkeypatch.setattr(graph_engines, "evaluator", refuses)
    first, run = graph_proof.reference_engine(graph(), {"image": np.zeros((1, 3, 8, 8), np.float32)})
    proof, _ = graph_proof.prove_file(graph(), setup_of(run), first)
    assert (True, False, first.title) == (proof.passed, proof.independent, proof.engine)
    constant, zeros = graph(0 * WEIGHT), graph_engines.onnxruntime(graph(0 * WEIGHT))
    proof, _ = graph_proof.prove_file(constant, setup_of(zeros), first)
    assert proof.unverifiable, "outputs that do not depend on the image"


def test_a_third_engine_decides_where_the_second_has_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    first, run = graph_proof.reference_engine(graph(), {"image": np.zeros((1, 3, 8, 8), np.float32)})

    def three() -> Iterator[GraphEngine]:
        yield first
        yield GraphEngine("faulty", lambda _: graph_engines.onnxruntime(graph(activation="Sigmoid")))
        yield GraphEngine("sound", graph_engines.onnxruntime)

    monkeypatch.setattr(graph_engines, "engines", three)
    proof, _ = graph_proof.prove_file(graph(), setup_of(run), first)
    assert (True, "sound") == (proof.passed, proof.engine)


@pytest.mark.target("ov")
def test_every_engine_computes_the_same() -> None:
    feed = {"image": np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)}
    outputs = {engine.title: engine.open(graph())(feed)["output"] for engine in graph_engines.engines()}
    assert 4 == len(outputs)
    for title, value in outputs.items():
        np.testing.assert_allclose(value, model(feed)["0"], atol=1e-5, err_msg=title)


def test_without_torch_other_engines_run_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_engines, "installed", lambda package: package != "torch")
    monkeypatch.setattr(graph_proof, "installed", lambda package: package != "torch")
    monkeypatch.setattr(graph_engines, "interpreter", None)
    first, run = graph_proof.reference_engine(graph(), {"image": np.zeros((1, 3, 8, 8), np.float32)})
    proof, rounding = graph_proof.prove_file(graph(), setup_of(run), first)
    assert (True, True, {}) == (proof.passed, proof.independent, rounding)


def test_the_reference_evaluator_stops_at_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    from onnx.reference import ReferenceEvaluator

    monkeypatch.setattr(graph_engines, "EVALUATOR_S", 0.05)
    monkeypatch.setattr(ReferenceEvaluator, "run", lambda *_: [sum(1 for _ in iter(int, 1))])
    run = graph_engines.evaluator(graph())
    with pytest.raises(ConversionError, match=r"more than 0.05 s for one run"):
        run({"image": np.zeros((1, 3, 8, 8), np.float32)})


def test_an_engine_that_fails_while_it_runs_is_no_crash() -> None:
    nodes = [helper.make_node("MatMul", ["image", "weight"], ["output"])]
    for engine in graph_engines.engines():
        with pytest.raises(ConversionError):
            engine.open(small(nodes, WEIGHT))({"image": np.zeros((1, 3, 8, 8), np.float32)})


@pytest.mark.parametrize("value", [np.nan, 1.0])
def test_an_undefined_reference_is_a_fidelity_failure(value: float) -> None:
    outputs = {"fine": np.ones((2, 3)), "integers": np.ones(2, int), "odd": np.array([[1, 2], [3, value]])}
    if value == 1.0:
        graph_proof.check_defined(outputs)
        return
    with pytest.raises(FidelityError, match=r"'odd' is NaN at \[1, 1\] \(1 of 4 values\)"):
        graph_proof.check_defined(outputs)


def test_rows_that_are_padded_are_not_undefined() -> None:
    lengths = iter((2, 3))

    def growing(feeds: Mapping[str, Any]) -> dict[str, Any]:
        return {"rows": np.ones((1, next(lengths), 4), np.float32)}

    outputs = fidelity.run_all(graph_proof.defined(growing), [{"x": np.zeros(1)}, {"x": np.zeros(1)}])
    assert (2, 3, 4) == outputs["rows"].shape
    assert np.isnan(outputs["rows"]).any()
    with pytest.raises(FidelityError, match="NaN"):
        graph_proof.defined(lambda feeds: {"y": np.array([np.nan])})({})


@pytest.mark.parametrize("jump", [0.0, 1e-6, 0.5])
def test_a_model_that_changes_between_runs_is_unverifiable(jump: float) -> None:
    runs = iter([0.0, jump])

    def changing(feeds: Mapping[str, Any]) -> dict[str, Any]:
        return {"output": np.array([[1.0, np.inf]]) + next(runs)}

    if jump < 1e-3:
        graph_proof.check_repeatable(changing, {})
        return
    with pytest.raises(UnverifiableError, match=r"'output': 1, then 1.5 at \[0, 0\]") as caught:
        graph_proof.check_repeatable(changing, {})
    assert 3 == caught.value.exit_code


FACTORIES = '''
import torch
from torch import nn


class Flat(nn.Module):
    """Outputs that differ by rounding alone between images."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, stride=2)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return 1 + 1e-9 * self.head(self.stem(x).mean((2, 3)))


class Damaged(Flat):
    """Its fusion loses a weight."""

    def forward(self, x):
        return self.head(self.stem(x).mean((2, 3)))

    def fused(self):
        with torch.no_grad():
            self.head.weight[0] *= 2
        return self
'''


def exported(folder: Path, monkeypatch: pytest.MonkeyPatch, factory: str, *targets: str) -> list[Cell]:
    (folder / "proof_factories.py").write_text(FACTORIES)
    monkeypatch.syspath_prepend(folder)
    return export(f"proof_factories:{factory}", targets, [16], precision="fp32", out=folder / "runs", reduce_s=0)


@pytest.mark.usefixtures("inline")
def test_an_artifact_of_a_model_that_nothing_can_tell_is_unverifiable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = exported(tmp_path, monkeypatch, "Flat", "ort", "trt")
    assert [(Status.UNVERIFIABLE, 3)] * 2 == [(cell.status, cell.exit_code) for cell in cells], cells
    assert all("do not depend on the image" in cell.reason for cell in cells)
    artifact = bundle.load(Path(cells[0].artifact))
    assert artifact.subject.fidelity_passed is None
    assert artifact.graph_fidelity is not None
    assert artifact.graph_fidelity.unverifiable


@pytest.mark.usefixtures("inline")
def test_nothing_is_made_of_a_wrong_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = exported(tmp_path, monkeypatch, "Damaged", "ort", "trt")
    assert [(Status.FAILED, 1)] * 2 == [(cell.status, cell.exit_code) for cell in cells], cells
    assert all("folding its BatchNorms changed it" in cell.reason for cell in cells)
    assert not list(bundle.artifacts(tmp_path / "runs"))
