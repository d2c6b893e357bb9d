from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from small_graphs import attention, graph_artifact

from effbench import deploy
from effbench.deploy import Converted
from effbench.deploy.artifact import fidelity
from effbench.errors import ConversionError, DataError, UsageError
from effbench.schema import Artifact

TARGET = deploy.get("coreml")
needs_toolkit = pytest.mark.target("coreml")


def converted(graph: Artifact, folder: Path, options: dict[str, str] | None = None) -> tuple[Artifact, Converted]:
    out = folder / "out"
    out.mkdir()
    result = TARGET.convert(graph, out, options or {})
    subject = replace(graph.subject, target="coreml", storage_precision=result.storage_precision)
    return replace(graph, folder=out, entry=result.entry, subject=subject), result


def verified(graph: Artifact, artifact: Artifact, options: dict[str, str] | None = None) -> Any:
    session = TARGET.open(artifact, 1, options or {})
    reference = fidelity.load_reference(graph.folder / fidelity.REFERENCE)
    precision = artifact.subject.storage_precision
    return fidelity.check(session, fidelity.Setup(reference, 1, artifact.inputs, artifact.preprocessing, precision))


@needs_toolkit
@pytest.mark.skipif(sys.platform == "darwin", reason="a Mac measures")
def test_without_a_mac_a_package_is_written_but_not_measured() -> None:
    assert TARGET.available() is None
    assert "Apple's systems only" in str(TARGET.measurable())


@needs_toolkit
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("accumulate", ["float32", "float16"])
def test_a_package_is_the_same_model(precision: str, accumulate: str, tmp_path: Path) -> None:
    graph = graph_artifact(tmp_path, attention(), precision)
    artifact, result = converted(graph, tmp_path)
    assert result.placement["declared"] == precision
    record = verified(graph, artifact, {"accumulate": accumulate})
    assert record.passed, record.reasons


@needs_toolkit
def test_a_package_of_another_graph_fails_verification(tmp_path: Path) -> None:
    graph = graph_artifact(tmp_path, attention(extra="Relu"), expected=attention())
    artifact, _ = converted(graph, tmp_path)
    assert not verified(graph, artifact).passed


@needs_toolkit
def test_a_session_without_a_mac_is_simulated(tmp_path: Path) -> None:
    artifact, _ = converted(graph_artifact(tmp_path, attention()), tmp_path)
    session = TARGET.open(artifact, 1, {})
    assert session.simulated
    assert session.placement()["devices"] == ["simulated in torch"]
    session.close()


@needs_toolkit
def test_the_same_graph_gives_the_same_bytes(tmp_path: Path) -> None:
    graph = graph_artifact(tmp_path, attention())
    packages = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        artifact, _ = converted(graph, tmp_path / name)
        files = sorted(path for path in artifact.path.rglob("*") if path.is_file())
        packages.append({str(path.relative_to(artifact.path)): path.read_bytes() for path in files})
    assert packages[0] == packages[1]
    assert len(packages[0]) == 3


@needs_toolkit
def test_an_image_input_includes_the_normalization(tmp_path: Path) -> None:
    from effbench.deploy.targets.coreml.package import read

    graph = graph_artifact(tmp_path, attention())
    artifact, result = converted(graph, tmp_path, {"input": "image"})
    assert result.notes == ("image input",)
    assert verified(graph, artifact).passed
    package = read(artifact.path)
    assert package.features_in[0].kind == "image"
    pixels = np.full((1, 3, 16, 16), 128, np.float32)
    plain = (pixels / 255 - np.reshape([0.485, 0.456, 0.406], (3, 1, 1))) / np.reshape([0.229, 0.224, 0.225], (3, 1, 1))
    from effbench.deploy.targets.coreml.evaluator import Evaluator

    from_pixels = Evaluator(package)({"image": pixels})["output"]
    from_values = TARGET.open(artifact, 1, {})({"image": plain.astype(np.float32)})["output"]
    np.testing.assert_allclose(from_pixels, from_values, rtol=1e-4, atol=1e-5)


@needs_toolkit
def test_labels_name_the_best_class(tmp_path: Path) -> None:
    from effbench.deploy.targets.coreml.evaluator import Evaluator
    from effbench.deploy.targets.coreml.package import read

    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(f"class {i}" for i in range(10)) + "\n")
    graph = graph_artifact(tmp_path, attention())
    artifact, _ = converted(graph, tmp_path, {"labels": str(labels)})
    assert verified(graph, artifact).passed
    package = read(artifact.path)
    assert [feature.kind for feature in package.features_out] == ["string", "dictionary", "multiarray"]
    feeds = {"image": np.random.default_rng(1).standard_normal((1, 3, 16, 16)).astype(np.float32)}
    outputs = Evaluator(package)(feeds)
    assert outputs["classLabel"] == f"class {int(outputs['output'].argmax())}"
    assert outputs["classLabel_probs"].sum() == pytest.approx(1, abs=1e-5)


@needs_toolkit
@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"input": "video"}, UsageError, "video"),
        ({"deployment_target": "iOS3"}, UsageError, "iOS3"),
        ({"labels": "no/such/file"}, DataError, "no/such/file"),
    ],
)
def test_an_invalid_option_is_refused(
    options: dict[str, str], error: type[Exception], text: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=text):
        converted(graph_artifact(tmp_path, attention()), tmp_path, options)


@needs_toolkit
def test_preprocessing_that_nobody_declared_is_not_built_in(tmp_path: Path) -> None:
    graph = graph_artifact(tmp_path, attention())
    graph = replace(graph, preprocessing=replace(graph.preprocessing, assumed=True))
    with pytest.raises(UsageError, match="nobody declared"):
        converted(graph, tmp_path, {"input": "image"})


@needs_toolkit
def test_too_few_labels_are_refused(tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("only one\n")
    with pytest.raises(UsageError, match="1 class labels for 10 scores"):
        converted(graph_artifact(tmp_path, attention()), tmp_path, {"labels": str(labels)})


@needs_toolkit
def test_an_open_batch_is_refused_with_a_hint(tmp_path: Path) -> None:
    graph = graph_artifact(tmp_path, attention())
    import onnx

    onnx.save(attention(batch=None), graph.path)
    with pytest.raises(ConversionError) as caught:
        converted(graph, tmp_path)
    assert "batch" in str(caught.value.hint)


@needs_toolkit
def test_netron_reads_the_specification(tmp_path: Path) -> None:
    """Netron parses ``model.mlmodel`` with the published protobuf schema and reads the weights by their offsets."""
    import coremltools as ct

    artifact, _ = converted(graph_artifact(tmp_path, attention()), tmp_path)
    spec = ct.utils.load_spec(str(artifact.path))
    names = {op.type for op in spec.mlProgram.functions["main"].block_specializations["CoreML6"].operations}
    assert {"conv", "gelu", "matmul", "linear"} <= names
    assert [item.name for item in spec.description.input] == ["image"]


class MLNeuralEngineComputeDevice:
    """Named like the class of coremltools for the Neural Engine."""


class MLCPUComputeDevice:
    """Named like the class of coremltools for the CPU."""


@dataclass
class Plan:
    """The two methods of an ``MLComputePlan`` that are read, by operator name."""

    units: dict[str, Any]

    def get_compute_device_usage_for_mlprogram_operation(self, operation: Any) -> Any:
        unit = self.units[operation.operator_name]
        return None if unit is None else SimpleNamespace(preferred_compute_device=unit())

    def get_estimated_cost_for_mlprogram_operation(self, operation: Any) -> Any:
        return SimpleNamespace(weight=0.25)


def test_a_compute_plan_is_summarized_by_unit() -> None:
    pytest.importorskip("coremltools")
    from effbench.deploy.targets.coreml.session import summarize

    def operation(kind: str) -> Any:
        return SimpleNamespace(operator_name=kind, outputs=[SimpleNamespace(name=f"{kind}_out")])

    plan = Plan({"const": None, "conv": MLNeuralEngineComputeDevice, "gather": MLCPUComputeDevice})
    summary = summarize(plan, [operation(kind) for kind in ("const", "conv", "conv", "gather")])
    assert summary == {
        "operations_by_unit": {"NeuralEngine": 2, "CPU": 1},
        "cost_by_unit": {"NeuralEngine": 0.5, "CPU": 0.25},
        "not_on_neural_engine": ["gather gather_out"],
    }
