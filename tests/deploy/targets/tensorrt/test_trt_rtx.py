from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from places import BENCHMARKS
from small_graphs import attention, converted, graph_artifact

from effbench.deploy.artifact import bundle, fidelity
from effbench.deploy.targets import trt_rtx
from effbench.deploy.targets.tensorrt import build, cuda, rewrite
from effbench.deploy.targets.tensorrt.library import RTX
from effbench.deploy.targets.tensorrt.session import check_capability
from effbench.deploy.targets.trt_rtx import TARGET
from effbench.errors import ConversionError, DataError, EffbenchError, UnavailableError, UsageError
from effbench.schema import Artifact, InputSpec

pytestmark = pytest.mark.target("trt-rtx")
needs_no_gpu = pytest.mark.skipif(cuda.missing() is None, reason="a GPU answers here")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rtx")


@pytest.fixture(scope="module")
def engine(home: Path) -> Artifact:
    return converted(graph_artifact(home, attention(), "fp16"), TARGET, cc="89")


@pytest.fixture
def copy(engine: Artifact, tmp_path: Path) -> Artifact:
    """A copy of the engine, to be damaged."""
    for name in engine.files:
        (tmp_path / name).write_bytes((engine.folder / name).read_bytes())
    return replace(engine, folder=tmp_path)


def test_an_engine_is_built_ahead_of_time_in_the_precision_of_the_graph(engine: Artifact, home: Path) -> None:
    assert engine.subject.compute_precision == "fp16"
    assert engine.placement["compute_capabilities"] == ["89"]
    assert engine.placement["network"]["products"] == {"half": 5}
    assert engine.path.stat().st_size > 10_000
    fp32 = converted(graph_artifact(home, attention()), TARGET)
    assert fp32.subject.compute_precision == "fp32"
    assert fp32.placement["tf32"] is False  # the library's default is on, which is not fp32


def test_all_leaves_out_capabilities_that_cannot_be_built_with_a_note(home: Path) -> None:
    half = converted(graph_artifact(home, attention(), "fp16"), TARGET)
    assert half.placement["compute_capabilities"] == ["75", "80", "86", "89", "120", "121"]
    assert half.subject.notes == ()
    single = converted(graph_artifact(home, attention()), TARGET)
    assert single.placement["compute_capabilities"] == ["80", "86", "89", "120", "121"]
    assert "FP32 GEMM is not supported" in single.subject.notes[0]
    with pytest.raises(ConversionError, match="FP32 GEMM is not supported"):
        converted(graph_artifact(home, attention()), TARGET, cc="75")


def test_a_failure_that_turing_does_not_cause_is_the_first_one(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    errors = iter([ConversionError("build", "first"), ConversionError("build", "second")])

    def fails(*_: object) -> None:
        raise next(errors)

    monkeypatch.setattr(trt_rtx, "_build", fails)
    with pytest.raises(ConversionError, match="first"):
        converted(graph_artifact(home, attention()), TARGET)


@pytest.mark.parametrize("cc", ["90", "89,90", "", "none"])
def test_a_refused_capability_lists_the_supported_ones(engine: Artifact, cc: str) -> None:
    with pytest.raises(UsageError, match=r"It builds for 75, 80, 86, 89, 120, 121"):
        TARGET.convert(engine, engine.folder, {"cc": cc})


def test_several_capabilities_share_one_engine(home: Path) -> None:
    artifact = converted(graph_artifact(home, attention(), "fp16"), TARGET, cc="12.0, 80")
    assert artifact.placement["compute_capabilities"] == ["80", "120"]


def test_an_unknown_operator_is_named_with_its_node(home: Path) -> None:
    model = attention()
    node = next(node for node in model.graph.node if node.op_type == "Gelu")
    node.op_type, node.name = "Det", "odd_one"
    with pytest.raises(ConversionError, match="odd_one") as caught:
        build.parse(RTX, model.SerializeToString())
    assert caught.value.op == "Det"


def test_a_preflight_reports_outcome_and_parser() -> None:
    assert build.preflight(RTX, attention().SerializeToString())["outcome"] == "accepted"
    preflight = build.preflight(RTX, b"no model")
    assert preflight["outcome"] == "refused"
    assert preflight["reason"]
    assert preflight["parser"].startswith("TensorRT for RTX ")


def test_rewritten_sums_compute_the_same() -> None:
    plain, rewritten = attention(), attention()
    assert rewrite.unsqueeze_sums_by_reshape(rewritten) == 1
    assert "Unsqueeze" not in {node.op_type for node in rewritten.graph.node}
    onnx.checker.check_model(rewritten, full_check=True)
    assert rewrite.unsqueeze_sums_by_reshape(rewritten) == 0
    ort = pytest.importorskip("onnxruntime")
    feeds = {"image": np.random.default_rng(1).standard_normal((1, 3, 16, 16), dtype=np.float32)}
    runs = [ort.InferenceSession(model.SerializeToString()).run(None, feeds)[0] for model in (plain, rewritten)]
    assert np.array_equal(runs[0], runs[1])


def test_sums_of_an_open_batch_are_rewritten() -> None:
    model = attention(batch=None)
    assert rewrite.unsqueeze_sums_by_reshape(model) == 1
    feeds = {"image": np.ones((3, 3, 16, 16), np.float32)}
    ort = pytest.importorskip("onnxruntime")
    assert ort.InferenceSession(model.SerializeToString()).run(None, feeds)[0].shape == (3, 10)


def test_an_open_batch_becomes_a_profile(home: Path) -> None:
    artifact = converted(graph_artifact(home, attention(batch=None), "fp16"), TARGET, cc="89", batch="1:2:4")
    assert artifact.path.stat().st_size > 10_000


def test_profiles_cover_the_open_dimensions() -> None:
    fixed = InputSpec("image", "float32", (1, 3, 64, 64))
    batch = replace(fixed, shape=(None, 3, 64, 64))
    both = replace(fixed, shape=(None, 3, None, None))
    assert build.profile([fixed], (1, 1, 8), (), (64, 64)) == {}
    assert build.profile([batch], (1, 2, 8), (), (64, 64))["image"] == ((1, 3, 64, 64), (2, 3, 64, 64), (8, 3, 64, 64))
    assert build.profile([both], (1, 1, 1), (), (48, 64))["image"][2] == (1, 3, 48, 64)
    assert build.profile([both], (1, 1, 2), (32, 64, 96), (64, 64))["image"][2] == (2, 3, 96, 96)
    with pytest.raises(UsageError, match="needs a graph of open size"):
        build.profile([fixed], (1, 1, 1), (32, 64, 96), (64, 64))


@pytest.mark.parametrize("text", ["1", "1:2", "4:2:8", "0:1:2", "a:b:c", "1:2:3:4"])
def test_a_profile_is_three_ascending_numbers(text: str) -> None:
    with pytest.raises(UsageError, match="smallest:usual:largest"):
        build.parse_triple(text, "batch")


@needs_no_gpu
def test_without_a_gpu_the_reason_is_cudas_text(engine: Artifact) -> None:
    reason = TARGET.measurable()
    assert TARGET.available() is None
    assert reason is not None
    assert "CUDA" in reason or "cuda" in reason
    with pytest.raises(UnavailableError, match="needs an NVIDIA GPU"):
        TARGET.open(engine, 1, {})


@pytest.mark.parametrize(
    ("recorded", "message"),
    [
        ({"version": "1.6.0.1"}, r"built by TensorRT for RTX 1\.6\.0\.1; installed here is TensorRT for RTX"),
        ({"library": "TensorRT"}, "loads only in the library that built it"),
        ({"version": None}, "loads only in the version that built it"),
    ],
)
def test_an_engine_of_another_version_or_library_is_not_loaded(
    engine: Artifact, recorded: dict[str, str], message: str
) -> None:
    with pytest.raises(UnavailableError, match=message):
        TARGET.open(replace(engine, placement={**engine.placement, **recorded}), 1, {})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda plan: b"\0" * 64 + plan[64:], "its header is not an engine's"),
        (lambda plan: plan[:20], "20 bytes is no engine"),
        (lambda plan: b"", "0 bytes is no engine"),
    ],
)
def test_a_damaged_plan_is_refused_by_its_header(copy: Artifact, damage: object, message: str) -> None:
    copy.path.write_bytes(damage(copy.path.read_bytes()))  # type: ignore[operator]
    with pytest.raises(DataError, match=message):
        TARGET.open(copy, 1, {})


def test_a_tampered_plan_does_not_pass_its_manifest(copy: Artifact) -> None:
    bundle.save_manifest(copy)
    plan = bytearray(copy.path.read_bytes())
    plan[5000] ^= 1
    copy.path.write_bytes(bytes(plan))
    with pytest.raises(DataError, match="altered since it was exported"):
        bundle.load(copy.folder)


def test_an_engine_for_other_gpus_is_not_loaded(engine: Artifact) -> None:
    check_capability(engine, cuda.Gpu("NVIDIA L4", (8, 9), "13.0", "13.0"))
    with pytest.raises(UnavailableError, match="built for compute capability 89; NVIDIA H200 is 90"):
        check_capability(engine, cuda.Gpu("NVIDIA H200", (9, 0), "13.0", "13.0"))


def test_cuda_errors_carry_cudas_text() -> None:
    pytest.importorskip("cuda.bindings.runtime")
    with pytest.raises(EffbenchError, match=r"cudaFree: .* \(cuda"):
        cuda.call("cudaFree", 1)


@needs_no_gpu
def test_gpu_check_without_a_gpu_is_one_sentence() -> None:
    script = BENCHMARKS / "gpu_check.py"
    process = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert process.returncode == 4
    assert process.stdout.startswith("Nothing was checked: no NVIDIA GPU answers")
    assert process.stdout.count("\n") == 1
    assert process.stderr == ""


@pytest.mark.gpu
def test_on_a_gpu_the_engine_is_still_the_same_model(home: Path) -> None:
    if TARGET.measurable() is not None:
        pytest.skip(str(TARGET.measurable()))
    graph = graph_artifact(home, attention(), "fp16")
    session = TARGET.open(converted(graph, TARGET), 1, {})
    reference = fidelity.load_reference(graph.folder / fidelity.REFERENCE)
    record = fidelity.check(session, fidelity.Setup(reference, 1, graph.inputs, graph.preprocessing, "fp16"))
    assert record.passed, record.reasons
    phases = session.phases({"image": np.zeros((1, 3, 16, 16), np.float32)})
    assert min(phases.values()) > 0
    session.close()


@pytest.mark.slow
def test_a_network_of_rgma_blocks_builds_without_a_gpu(run: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    # Without the rewriting, its normalizers crash the compiler of TensorRT for RTX 1.7.1.
    process = run("export", "regla_t", "--res", "224", "-t", "trt-rtx", "-t", "trt", "--json")
    assert process.returncode == 0, process.stdout + process.stderr
    cells = json.loads(process.stdout)["data"]
    assert [cell["status"] for cell in cells] == ["ok", "ok"]
    assert {cell["precision"] for cell in cells} == {"fp16"}
