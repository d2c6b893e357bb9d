from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from places import ROOT
from small_graphs import SIDE, attention, converted, graph_artifact, product

from effbench.deploy.artifact import fidelity, placement, synthetic
from effbench.deploy.precision.a16w8 import to_a16w8
from effbench.deploy.targets.qnn import snapdragon
from effbench.deploy.targets.qnn.htp import prepare
from effbench.deploy.targets.qnn.target import ENTRY, TARGET, compile_context
from effbench.errors import ConversionError, DataError, EffbenchError, UnavailableError, UnsupportedError, UsageError
from effbench.schema import Artifact, InputShapes

pytestmark = pytest.mark.target("qnn")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("qnn")


@pytest.fixture(scope="module")
def context(home: Path) -> Artifact:
    return converted(graph_artifact(home, attention(), "fp16"), TARGET)


@pytest.fixture
def copy(context: Artifact, tmp_path: Path) -> Artifact:
    """A copy of the context binary, to be damaged."""
    for name in context.files:
        (tmp_path / name).write_bytes((context.folder / name).read_bytes())
    return replace(context, folder=tmp_path)


def test_linear_attention_is_one_context_with_nothing_on_the_cpu(context: Artifact) -> None:
    assert sorted(context.files) == ["model.onnx", "model_qnn.bin"]
    assert context.subject.compute_precision == "fp16"
    assert context.placement["contexts"] == context.placement["partitions"] == 1
    assert context.placement["cpu_operators"] == []
    assert context.placement["operators"]["HTP"]["MatMul"] == 3
    assert context.placement["soc"] == "SM8650"


@pytest.mark.skipif(not snapdragon.simulated(), reason="a real HTP may be here")
def test_a_simulated_session_is_the_same_model_and_marked(context: Artifact) -> None:
    session = TARGET.open(context, 1, {})
    assert session.simulated is True
    assert session.placement()["simulated"] is True
    reference = fidelity.load_reference(context.folder.with_name("small-fp16") / fidelity.REFERENCE)
    record = fidelity.check(session, fidelity.Setup(reference, 1, context.inputs, context.preprocessing, "fp16"))
    assert record.cosine > 0.9999
    assert record.finite
    assert record.repeatable
    session.close()
    assert "simulator" in str(TARGET.measurable())


def test_operators_are_decomposed_unless_native_ones_are_set(home: Path, context: Artifact) -> None:
    native = converted(graph_artifact(home / "native", attention(), "fp16"), TARGET, operators="native")
    decomposed, whole = (item.placement["operators"]["HTP"] for item in (context, native))
    assert (decomposed.get("Gelu", 0), whole["Gelu"]) == (0, 1)
    assert decomposed["Tanh"] == 1
    assert "1 Gelu" in context.subject.notes[0]
    assert native.subject.notes == ()


def test_integers_at_the_border_are_no_fallback(tmp_path: Path) -> None:
    """Only QuantizeLinear and DequantizeLinear of the float input and output run on the CPU."""
    model = attention()
    rng = np.random.default_rng(0)
    feeds = [{"image": rng.normal(size=(1, 3, SIDE, SIDE)).astype(np.float32)} for _ in range(4)]
    graph = graph_artifact(tmp_path, to_a16w8(model, feeds), "a16w8", model)
    artifact = converted(graph, TARGET)
    assert len(artifact.placement["border_operators"]) == 2
    assert artifact.placement["fallback"] == {}
    assert artifact.placement["partitions"] == 1
    placement.check(artifact.placement, artifact.name)


@pytest.mark.skipif(not snapdragon.simulated(), reason="a real HTP may be here")
@pytest.mark.parametrize(("htp", "improvement"), [("v68", 1.5), ("v75", 3)])
def test_products_of_activations_keep_16_bits(tmp_path: Path, htp: str, improvement: float) -> None:
    model = product(-4.0, 4.0, "com.microsoft")
    rng = np.random.default_rng(0)
    feeds = {"a": rng.normal(size=(2, 5, 16)), "b": rng.uniform(-4, 4, (2, 16, 7))}
    feeds = {name: value.astype(np.float32) for name, value in feeds.items()}
    errors = {}
    for exact in (True, False):
        source, out = tmp_path / f"{exact}.onnx", tmp_path / str(exact)
        out.mkdir()
        onnx.save(prepare(model, exact), source)
        compile_context(source, out, htp)
        session = ort.InferenceSession(str(out / ENTRY), snapdragon.session_options(htp, {}))
        errors[exact] = np.abs(session.run(None, feeds)[0] - feeds["a"] @ feeds["b"]).max()
    assert errors[True] < errors[False] / improvement


def test_each_architecture_has_its_own_binary(home: Path, context: Artifact) -> None:
    other = converted(graph_artifact(home, attention(), "fp16"), TARGET, htp="v68")
    assert other.placement["htp"] == "v68"
    assert other.files["model_qnn.bin"] != context.files["model_qnn.bin"]


@pytest.mark.parametrize("soc", snapdragon.SOCS, ids=[soc.name for soc in snapdragon.SOCS])
def test_qnn_compiles_half_precision_for_the_chips_listed_with_it(soc: snapdragon.Soc, home: Path) -> None:
    source, out = graph_artifact(home / soc.name, attention(), "fp16").path, home / f"{soc.name}-context"
    out.mkdir()
    if soc.half:
        assert compile_context(source, out, soc.name)["cpu_operators"] == []
    else:
        with pytest.raises(ConversionError):
            compile_context(source, out, soc.name)


def test_a_chip_without_half_precision_takes_a16w8(home: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="QCM6490 has no half precision"):
        converted(graph_artifact(home, attention(), "fp16"), TARGET, htp="QCM6490")
    feeds = [{"image": np.random.default_rng(0).normal(size=(1, 3, SIDE, SIDE)).astype(np.float32)}]
    graph = graph_artifact(tmp_path, to_a16w8(attention(), feeds), "a16w8", attention())
    artifact = converted(graph, TARGET, htp="QCM6490")
    assert (artifact.placement["htp"], artifact.placement["soc"]) == ("v68", "QCM6490")
    assert TARGET.open(artifact, 1, {})(feeds[0])["output"].shape == (1, 10)


def test_a_note_states_that_islands_are_computed_in_half(home: Path) -> None:
    graph = graph_artifact(home, attention(), "fp16")
    note = "the HTP has no fp32 and computes the fp32 islands in half precision"
    assert note in converted(replace(graph, placement={"fp32_islands": ["x"]}), TARGET).subject.notes
    assert note not in converted(graph, TARGET).subject.notes


@pytest.mark.parametrize(
    "options", [{"htp": "v74"}, {"htp": "SM0000"}, {"htp": "75"}, {"fallback": "perhaps"}, {"operators": "fast"}]
)
def test_invalid_options_are_refused(context: Artifact, options: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        TARGET.convert(context, tmp_path, options)


def test_what_the_htp_lacks_is_unsupported(home: Path, tmp_path: Path) -> None:
    for precision in ("fp32", "int8"):
        with pytest.raises(UnsupportedError, match=TARGET.refuses[precision]):
            TARGET.convert(graph_artifact(home, attention(), precision), tmp_path, {})
    with pytest.raises(UnsupportedError, match="fixed shapes"):
        TARGET.convert(graph_artifact(home, attention(batch=None), "fp16"), tmp_path, {})


def test_an_operator_on_the_cpu_is_refused_unless_allowed(tmp_path: Path) -> None:
    graph = graph_artifact(tmp_path, attention(extra="Asinh"), "fp16")
    with pytest.raises(ConversionError, match=r"1 operators run on the CPU: odd_one \(Asinh\) \(2 contexts"):
        converted(graph, TARGET)
    artifact = converted(graph, TARGET, fallback="yes")
    assert artifact.placement["cpu_operators"] == ["odd_one (Asinh)"]
    assert artifact.placement["operators"]["CPU"] == {"Asinh": 1}
    feeds = {"image": np.ones((1, 3, SIDE, SIDE), np.float32)}
    assert TARGET.open(artifact, 1, {})(feeds)["output"].shape == (1, 10)


@pytest.mark.parametrize("size", [0, 1000])
def test_a_truncated_context_binary_is_refused(copy: Artifact, size: int) -> None:
    binary = copy.folder / "model_qnn.bin"
    binary.write_bytes(binary.read_bytes()[:size])
    with pytest.raises(DataError, match="QNN does not load it"):
        TARGET.open(copy, 1, {})


def test_a_missing_context_binary_is_refused(copy: Artifact) -> None:
    (copy.folder / "model_qnn.bin").unlink()
    with pytest.raises(EffbenchError, match="QNN does not load it"):
        TARGET.open(copy, 1, {})


def test_a_context_of_a_newer_sdk_is_not_loaded(context: Artifact) -> None:
    newer = replace(context, placement={**context.placement, "sdk": "99.0.0"})
    with pytest.raises(UnavailableError, match=r"was built by QNN 99\.0\.0; the installed QNN .* is older"):
        TARGET.open(newer, 1, {})


@pytest.mark.parametrize(
    ("version", "than", "expected"),
    [("2.51.0", "2.51.0", False), ("2.9.0", "2.51.0", True), ("2.51.0", "2.9.0", False), ("2.51.0", "0", False)],
)
def test_versions_are_compared_by_their_numbers(version: str, than: str, expected: bool) -> None:
    assert snapdragon.is_older(version, than) is expected


def test_the_license_is_named_and_not_in_the_repository() -> None:
    path = snapdragon.license_path()
    assert path is not None
    assert path.is_file()
    assert str(path) in str(TARGET.license)
    root = ROOT
    tracked = subprocess.run(["git", "ls-files"], cwd=root, capture_output=True, text=True, check=True).stdout
    assert "Qualcomm_LICENSE" not in tracked
    assert "libQnn" not in tracked


def test_a_check_on_the_simulator_runs_a_few_images(context: Artifact) -> None:
    session = TARGET.open(context, 1, {})
    images = synthetic.reference_images(9, 3, (SIDE, SIDE))
    reference = fidelity.Reference({"image": images}, {"output": np.arange(90.0).reshape(9, 10)}, "engine")
    few, outputs, engine, *_ = fidelity.first(reference, session.max_images, 1)
    assert len(few) == len(outputs["output"]) == session.max_images == 4
    assert engine == "engine"
    assert len(fidelity.first(reference, 4, 3)[0]) == 6  # full batches
    large = replace(context, subject=replace(context.subject, shapes=InputShapes((512, 512))))
    assert TARGET.open(large, 1, {}).max_images == 2
    assert fidelity.first(reference, None, 1) is reference
