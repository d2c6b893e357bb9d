from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_graphs import attention, converted, graph_artifact

from effbench.deploy.artifact import bundle as folders
from effbench.deploy.artifact import fidelity
from effbench.deploy.graph import onnx_file
from effbench.deploy.interpreter import run_model
from effbench.deploy.targets.tensorrt import bundle
from effbench.deploy.targets.tensorrt.library import RTX, TENSORRT
from effbench.deploy.targets.trt import TARGET
from effbench.errors import DataError, MissingDependencyError, UnavailableError, UsageError
from effbench.schema import Artifact

bare = pytest.mark.skipif(bundle.missing() is None, reason="TensorRT and a GPU are here, so engines are built")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trt")


@pytest.fixture(scope="module")
def graph(home: Path) -> Artifact:
    return graph_artifact(home, attention(), "fp16")


@pytest.fixture
def unfinished(graph: Artifact) -> Artifact:
    return converted(graph, TARGET, dla="0", fallback="yes")


@bare
def test_without_tensorrt_a_complete_bundle_is_written(unfinished: Artifact, graph: Artifact) -> None:
    assert unfinished.entry == "model.onnx"
    assert sorted(unfinished.files) == ["model.onnx", "recipe.json", "reference.npz"]
    recipe = bundle.read_recipe(unfinished.folder)
    assert recipe["strongly_typed"] is True
    assert recipe["tf32"] is False
    assert recipe["options"] == {"dla": "0", "fallback": "yes"}
    assert unfinished.files["reference.npz"].sha256 == graph.files["reference.npz"].sha256
    assert unfinished.subject.notes[0].startswith("unfinished: ")
    assert "effbench export --finish" in unfinished.subject.notes[0]


@bare
def test_the_model_of_a_bundle_is_still_the_same_model(unfinished: Artifact) -> None:
    model = onnx_file.load(unfinished.path)
    reference = fidelity.load_reference(unfinished.folder / fidelity.REFERENCE)
    checked = fidelity.check(
        lambda feeds: run_model(model, feeds),
        fidelity.Setup(reference, 1, unfinished.inputs, unfinished.preprocessing, "fp16"),
    )
    assert checked.passed, checked.reasons


@bare
@pytest.mark.target("trt-rtx")
def test_a_preflight_names_the_library_of_its_parser(unfinished: Artifact) -> None:
    if TENSORRT.missing() is None:
        pytest.skip("TensorRT's own parser is here and is taken")
    preflight = unfinished.placement["preflight"]
    assert preflight == {"parser": f"TensorRT for RTX {RTX.load().__version__}", "outcome": "accepted"}


@bare
def test_a_bundle_is_finished_elsewhere_and_not_opened_here(unfinished: Artifact, tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="cannot be finished here: ") as caught:
        bundle.finish(unfinished.folder, tmp_path)
    assert caught.value.exit_code == 4
    assert not (tmp_path / "artifacts").exists()
    with pytest.raises(UnavailableError, match="is a bundle"):
        TARGET.open(unfinished, 1, {})
    assert TARGET.available() is None
    assert TARGET.measurable() is not None


@bare
@pytest.mark.skipif(TENSORRT.missing() is None, reason="TensorRT is installed")
def test_an_engine_without_tensorrt_names_the_package(unfinished: Artifact) -> None:
    with pytest.raises(MissingDependencyError, match="tensorrt"):
        TARGET.open(replace(unfinished, entry=bundle.ENGINE), 1, {})


@bare
def test_a_damaged_bundle_is_not_finished(unfinished: Artifact, tmp_path: Path) -> None:
    unfinished.path.write_bytes(unfinished.path.read_bytes()[:-1] + b"\0")
    with pytest.raises(DataError, match="altered since it was exported"):
        bundle.finish(unfinished.folder, tmp_path)
    unfinished.path.unlink()
    with pytest.raises(DataError, match="missing"):
        bundle.finish(unfinished.folder, tmp_path)


def test_only_a_bundle_can_be_finished(graph: Artifact, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not an unfinished bundle"):
        bundle.finish(graph.folder, tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "not valid JSON"), ("[]", "not a recipe of format 1"), (json.dumps({"format": 2}), "not a recipe")],
)
def test_a_recipe_is_checked(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match="No such file"):
        bundle.read_recipe(tmp_path)
    (tmp_path / "recipe.json").write_text(text)
    with pytest.raises(DataError, match=message):
        bundle.read_recipe(tmp_path)


@pytest.mark.parametrize("options", [{"dla": "2"}, {"dla": "yes"}, {"fallback": "maybe"}, {"batch": "8:1:1"}])
def test_invalid_options_fail_before_the_device(graph: Artifact, options: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        TARGET.convert(graph, tmp_path, options)


def test_a_graph_without_expected_outputs_gives_no_bundle(graph: Artifact, tmp_path: Path) -> None:
    incomplete = tmp_path / "incomplete"
    incomplete.mkdir()
    (incomplete / "model.onnx").write_bytes(graph.path.read_bytes())
    with pytest.raises(DataError, match="reference"):
        TARGET.convert(replace(graph, folder=incomplete), tmp_path, {})


def test_a_bundle_of_an_open_batch_carries_its_profile(home: Path, tmp_path: Path) -> None:
    open_graph = graph_artifact(home, attention(batch=None), "fp16")
    TARGET.convert(open_graph, tmp_path, {"batch": "1:2:4"})
    profile = bundle.read_recipe(tmp_path)["profile"]
    assert profile == {"image": [[1, 3, 16, 16], [2, 3, 16, 16], [4, 3, 16, 16]]}


@pytest.mark.target("trt-rtx")
def test_a_missing_dla_core_is_named() -> None:
    # The two libraries share this part of their API, so TensorRT for RTX stands in for TensorRT.
    trt = RTX.load()
    from effbench.deploy.targets.tensorrt.build import parse

    builder, network, parser, log = parse(RTX, attention().SerializeToString())
    config = builder.create_builder_config()
    assert bundle.place_on_dla(trt, builder, network, config, {}) == {"status": "not requested"}
    with pytest.raises(UnavailableError, match="this device has 0"):
        bundle.place_on_dla(trt, builder, network, config, {"dla": "0"})
    del parser, log


@pytest.mark.gpu
@pytest.mark.target("trt")
def test_on_a_device_a_finished_engine_is_the_same_model(graph: Artifact, tmp_path: Path) -> None:
    if bundle.missing() is not None:
        pytest.skip(str(bundle.missing()))
    finished = converted(graph, TARGET, timing_cache=str(tmp_path / "timing.cache"))
    assert sorted(finished.files) == sorted(
        ["model.onnx", "model.engine", "recipe.json", "reference.npz", "timing.cache", "inspector.json"]
    )
    session = TARGET.open(folders.load(finished.folder), 1, {})
    reference = fidelity.load_reference(finished.folder / fidelity.REFERENCE)
    record = fidelity.check(session, fidelity.Setup(reference, 1, finished.inputs, finished.preprocessing, "fp16"))
    assert record.passed, record.reasons
    assert min(session.phases({"image": np.zeros((1, 3, 16, 16), np.float32)}).values()) > 0
    session.close()
