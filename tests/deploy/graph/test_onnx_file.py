from __future__ import annotations

from pathlib import Path

import field_models
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from effbench.deploy.graph import onnx_file
from effbench.errors import DataError


def conv_model(batch: object = 1, side: object = 8, channels: int = 3) -> onnx.ModelProto:
    weight = numpy_helper.from_array(np.ones((4, channels, 3, 3), np.float32), "w")
    head = numpy_helper.from_array(np.ones((4, 5), np.float32), "h")
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["c"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "h"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, channels, side, side])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 5])
    graph = helper.make_graph(nodes, "g", [x], [y], [weight, head])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def save(model: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


def test_macs_are_counted_as_by_hand() -> None:
    model = onnx_file.infer_shapes(conv_model(), "m")
    assert onnx_file.count_macs(model) == 8 * 8 * 4 * (3 * 9) + 5 * 4
    assert onnx_file.count_params(model) == 4 * 3 * 9 + 4 * 5


def test_unknown_shapes_give_no_count() -> None:
    assert onnx_file.count_macs(onnx_file.infer_shapes(conv_model("b", "s"), "m")) is None


def test_a_transposed_convolution_and_a_gemm_are_counted() -> None:
    weight = numpy_helper.from_array(np.ones((3, 6, 2, 2), np.float32), "w")
    gemm = numpy_helper.from_array(np.ones((7, 6), np.float32), "g")
    nodes = [
        helper.make_node("ConvTranspose", ["x", "w"], ["c"], strides=[2, 2]),
        helper.make_node("GlobalAveragePool", ["c"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "g"], ["y"], transB=1),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 4, 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 7])
    model = helper.make_model(helper.make_graph(nodes, "g", [x], [y], [weight, gemm]))
    assert onnx_file.count_macs(onnx_file.infer_shapes(model, "m")) == 3 * 16 * 6 * 4 + 7 * 6


def test_an_open_model_is_fixed_to_a_size() -> None:
    fixed = onnx_file.fix_shapes(conv_model("b", "s"), {"x": (2, 3, 16, 24)}, "m")
    assert onnx_file.inputs(fixed)[0].shape == (2, 3, 16, 24)
    assert onnx_file.specs(fixed.graph.output)[0].shape == (2, 5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no ONNX graph"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 50, "not an ONNX file|holds no ONNX graph"),
        (b"hello world, this is text", "not an ONNX file|holds no ONNX graph"),
    ],
)
def test_a_file_that_is_not_onnx_is_refused_in_one_sentence(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        onnx_file.load(path)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_a_truncated_model_is_refused(tmp_path: Path, share: float) -> None:
    data = conv_model().SerializeToString()
    path = tmp_path / "m.onnx"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(DataError, match=r"m\.onnx"):
        onnx_file.load(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        onnx_file.load(tmp_path / "none.onnx")


def external(folder: Path, location: str) -> Path:
    model = conv_model()
    weight = model.graph.initializer[0]
    raw = weight.raw_data
    (folder / "weights.data").write_bytes(raw)
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", str(len(raw)))):
        weight.external_data.add(key=key, value=value)
    return save(model, folder / "m.onnx")


def test_external_data_beside_the_model_are_read(tmp_path: Path) -> None:
    model = onnx_file.load(external(tmp_path, "weights.data"))
    assert numpy_helper.to_array(model.graph.initializer[0]).sum() == 4 * 3 * 9


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "", "a/../../secret"])
def test_external_data_elsewhere_are_refused(tmp_path: Path, location: str) -> None:
    (tmp_path / "secret").write_bytes(b"x" * 1000)
    folder = tmp_path / "model"
    folder.mkdir()
    with pytest.raises(DataError, match="outside the model's folder"):
        onnx_file.load(external(folder, location))


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"x" * 1000)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(DataError, match="outside the model's folder"):
        onnx_file.load(external(folder, "link"))


def test_missing_or_short_external_data_are_refused(tmp_path: Path) -> None:
    path = external(tmp_path, "weights.data")
    (tmp_path / "weights.data").write_bytes(b"short")
    with pytest.raises(DataError, match=r"cannot be read|not a valid|fit"):
        onnx_file.load(path)
    (tmp_path / "weights.data").unlink()
    with pytest.raises(DataError, match="missing"):
        onnx_file.load(path)


def test_tidying_removes_metadata_and_unused_initializers() -> None:
    model = conv_model()
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(3, np.float32), "unused"))
    node = model.graph.node[0]
    node.metadata_props.add(key="pkg.torch.onnx.stack_trace", value="/home/user/model.py")
    node.metadata_props.add(key="pkg.torch.onnx.name_scopes", value="['', 'stages.0', 'conv2d']")
    onnx_file.tidy(model)
    assert b"home/user" not in model.SerializeToString()
    assert [tensor.name for tensor in model.graph.initializer] == ["w", "h"]
    assert model.graph.node[0].name == "stages.0/Conv"
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)


def test_a_shape_that_a_body_states_wrongly_does_not_count():
    model = onnx_file.infer_shapes(field_models.stale_shape(), "m")
    assert (1, 10) == onnx_file.shapes(model)["logits"]


def test_shapes_that_contradict_each_other_are_refused():
    model = field_models.plain()
    model.graph.value_info.append(onnx.helper.make_tensor_value_info("pooled", 1, [1, 99, 1, 1]))
    with pytest.raises(DataError, match="its shapes do not fit together"):
        onnx_file.infer_shapes(model, "m")
