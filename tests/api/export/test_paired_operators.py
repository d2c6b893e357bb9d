"""A quantized graph is compared with its float graph when it is written; an operator that is wrong fails the cell."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from effbench.api.export.request import ExportRequest
from effbench.api.export.run import export, prepared
from effbench.api.export.verification import verify
from effbench.api.export.worker_precision import _paired
from effbench.deploy.artifact import bundle
from effbench.deploy.graph import onnx_file
from effbench.deploy.precision import int8_noise, mix, pairing
from effbench.deploy.precision.mix import Mix
from effbench.errors import FidelityError
from effbench.schema import Artifact, OperatorFault, Status

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


def network() -> onnx.ModelProto:
    """Return a convolution, a ReLU and a classifier."""
    model = parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 20]> g (float[1, 3, 16, 16] image) => (float[1, 10] output) {
            [stem] a = Conv <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]> (image, w, b)
            [act] c = Relu (a)
            [flat] d = Flatten (c)
            [head] output = Gemm <transB = 1> (d, v, u)
        }""")
    for name, shape, gain in (("w", (16, 3, 3, 3), 5), ("b", (16,), 1), ("v", (10, 1024), 32), ("u", (10,), 1)):
        value = RNG.normal(size=shape).astype(np.float32) / np.float32(gain)
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    return onnx_file.infer_shapes(model, "net")


def test_a_right_graph_is_recorded_without_a_note() -> None:
    assert _paired(graph(WEIGHT), graph(WEIGHT), FEEDS, "int8") == ({"paired_operators": 2}, ())


def test_a_wrong_operator_is_named_with_expected_and_observed_values() -> None:
    with pytest.raises(FidelityError) as raised:
        _paired(graph(WEIGHT), graph(WEIGHT * np.float32(1.02)), FEEDS, "a16w8")
    start = "The a16w8 graph is not its float graph, by more than quantization explains: Conv stem: input 1: a constant"
    assert raised.value.message.startswith(f"{start} that is not quantized differs, element [")
    assert ": expected " in raised.value.message
    assert ", observed " in raised.value.message


def test_a_poor_choice_of_the_quantizer_is_a_note_and_fails_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A range of least error may clip many values, and GPTQ may move a weight by several levels."""
    poor = OperatorFault("stem", "Conv", "its values differ by 11.4 steps on average", poor=True)
    monkeypatch.setattr(pairing, "pair", lambda *_: pairing.Pairing(2, (), (poor,)))
    entries, (note,) = _paired(graph(WEIGHT), graph(WEIGHT), FEEDS, "int8")
    assert (entries, note) == ({"paired_operators": 2}, f"quantized poorly: {poor}")


def test_a_graph_that_the_interpreter_lacks_an_operator_of_is_not_compared() -> None:
    entries, (note,) = _paired(graph(WEIGHT, "NoSuchOperator"), graph(WEIGHT), FEEDS, "int8")
    assert entries == {}
    assert note.startswith("not compared operator by operator: ")


def with_scale_off(quantize: Callable[..., Any]) -> Callable[..., Any]:
    """Return a quantizer whose first weight is 2 % too large, which is below the noise of int8 at the outputs."""

    def wrong(*arguments: Any, **options: Any) -> Any:
        result = quantize(*arguments, **options)
        model = getattr(result, "model", result)
        constants = {tensor.name: tensor for tensor in model.graph.initializer}
        node = next(n for n in model.graph.node if n.op_type == "DequantizeLinear" and n.input[0] in constants)
        scale = constants[node.input[1]]
        scale.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scale) * np.float32(1.02), scale.name))
        return result

    return wrong


@pytest.mark.target("ort")
@pytest.mark.usefixtures("inline")
def test_a_cell_with_a_wrong_operator_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx.save(network(), tmp_path / "net.onnx")
    monkeypatch.setattr(int8_noise, "to_mixed_int8", with_scale_off(int8_noise.to_mixed_int8))
    (cell,) = export(
        str(tmp_path / "net.onnx"), ["ort"], [16], precision="int8", images="synthetic", out=tmp_path / "runs"
    )
    assert (cell.status, cell.exit_code) == (Status.FAILED, 1), cell
    assert "Conv stem: input 1: its values are 1.0" in cell.reason
    assert ": expected " in cell.reason
    assert not list(bundle.artifacts(tmp_path / "runs"))[1:]  # the fp32 graph alone


@pytest.mark.target("ort")
@pytest.mark.usefixtures("inline")
@pytest.mark.parametrize("broken", [False, True])
def test_a_mix_is_compared_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: bool) -> None:
    onnx.save(network(), tmp_path / "net.onnx")
    request = ExportRequest(
        str(tmp_path / "net.onnx"), ("ort",), (16,), precision="int8", images="synthetic", out=tmp_path / "runs"
    )
    exporter, ((shapes, _),) = prepared(request, whole_int8=True)
    exporter.in_precision(shapes, "int8")
    exporter.mixes[shapes] = Mix(("output",), "fp16", "mix: 1 operator in float")
    if broken:
        monkeypatch.setattr(mix, "mixed", with_scale_off(mix.mixed))
    cell = exporter.cell(shapes, "ort", "int8", verify=True)
    assert cell.status is (Status.FAILED if broken else Status.OK), cell
    assert ("Conv stem: input 1: its values are 1.0" in cell.reason) is broken


@pytest.mark.usefixtures("inline")
@pytest.mark.parametrize(("target", "file"), [("ort", "model.onnx"), ("ov", "model.bin")])
def test_a_runtime_with_one_wrong_weight_fails(tmp_path: Path, target: str, file: str) -> None:
    """The artifact's weights are 2 % too large: far below the noise of int8 at the outputs, and named all the same."""
    pytest.importorskip("openvino" if target == "ov" else "onnxruntime")
    onnx.save(network(), tmp_path / "net.onnx")
    (cell,) = export(
        str(tmp_path / "net.onnx"), [target], [16], precision="int8", images="synthetic", out=tmp_path / "runs"
    )
    assert cell.status is Status.OK, cell
    assert cell.fidelity is not None
    assert cell.fidelity.paired == 3
    assert not any("smaller than the noise" in text for text in cell.fidelity.blind_to)

    def wrong(draft: Path) -> Artifact:
        right = bundle.load(Path(cell.artifact))
        for name in right.files:
            shutil.copyfile(right.folder / name, draft / name)
        content = (draft / file).read_bytes()
        scale = next(
            numpy_helper.to_array(t) for t in onnx.load(quantized.path).graph.initializer if t.name == weight_scale
        )
        assert content.count(scale.tobytes()) == 1
        (draft / file).write_bytes(content.replace(scale.tobytes(), (scale * np.float32(1.02)).tobytes()))
        return replace(right, folder=draft, fidelity=None)

    quantized = next(g for g in bundle.artifacts(tmp_path / "runs") if g.subject.target == "onnx" and g.graph_digest)
    model = onnx.load(quantized.path)
    (stem,) = (node for node in model.graph.node if node.name == "stem")
    (border,) = (node for node in model.graph.node if node.output[0] == stem.input[1])
    weight_scale = border.input[1]
    folder = Path(cell.artifact).with_name("net-16-b1-int8-wrong")
    bundle.write(folder, wrong)
    (again,) = verify([str(folder)], out=tmp_path / "runs")
    assert (again.status, again.exit_code) == (Status.FAILED, 1), again
    assert "the runtime does not compute its quantized graph: QuantizeLinear" in again.reason
    assert ", observed " in again.reason
