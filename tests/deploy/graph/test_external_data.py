"""Every file that an .onnx file names as external data is found, wherever onnx.proto allows a tensor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from effbench.api.export import source
from effbench.deploy.graph import onnx_file
from effbench.deploy.graph.external_data import external_files
from effbench.errors import DataError


def external(name: str, location: str) -> TensorProto:
    tensor = numpy_helper.from_array(np.zeros(2, np.float32), name)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("offset", "0"), ("location", location), ("length", "8")):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    return tensor


def graph(name: str, nodes: list[onnx.NodeProto] | None = None, **fields: object) -> onnx.GraphProto:
    return helper.make_graph(nodes or [], name, [], [helper.make_tensor_value_info("y", 1, [2])], **fields)


def everywhere() -> tuple[onnx.ModelProto, set[str]]:
    """Return a model with external data in every place, and the files that it names."""
    sparse = helper.make_sparse_tensor(
        external("values", "sparse values"), external("indices", "sparse indices.bin"), [4]
    )
    inner = graph("then", [helper.make_node("Constant", [], ["y"], value=external("c", "in a subgraph"))])
    condition = helper.make_node("If", ["b"], ["y"], then_branch=inner, else_branch=graph("else"))
    lists = helper.make_node("Custom", [], ["z"], domain="user")
    lists.attribute.add(name="tensors", type=onnx.AttributeProto.TENSORS).tensors.append(external("t", "in a list"))
    lists.attribute.add(name="graphs", type=onnx.AttributeProto.GRAPHS).graphs.append(
        graph("g", initializer=[external("i", "in a list of graphs")])
    )
    lists.attribute.add(name="sparse", type=onnx.AttributeProto.SPARSE_TENSOR).sparse_tensor.CopyFrom(
        helper.make_sparse_tensor(external("v", "attribute values"), external("x", "attribute indices"), [4])
    )
    main = graph("main", [condition, lists], initializer=[external("w", "weights/blob"), external("v", "weights/blob")])
    main.sparse_initializer.append(sparse)
    constant = helper.make_node("Constant", [], ["y"], value=external("f", "in a function"))
    function = helper.make_function("user", "F", [], ["y"], [constant], [helper.make_opsetid("", 20)])
    default = function.attribute_proto.add(name="d", type=onnx.AttributeProto.TENSOR)
    default.t.CopyFrom(external("d", "default of a function"))
    model = helper.make_model(main, functions=[function], producer_name="location")
    training = model.training_info.add()
    training.initialization.CopyFrom(graph("init", initializer=[external("t0", "training weights")]))
    training.algorithm.CopyFrom(graph("algorithm", initializer=[external("t1", "training step")]))
    files = {
        "weights/blob",
        "sparse values",
        "sparse indices.bin",
        "in a subgraph",
        "in a list",
        "in a list of graphs",
        "attribute values",
        "attribute indices",
        "in a function",
        "default of a function",
        "training weights",
        "training step",
    }
    return model, files


def test_external_data_is_found_wherever_a_tensor_may_be(tmp_path: Path):
    model, files = everywhere()
    path = tmp_path / "net.onnx"
    path.write_bytes(model.SerializeToString())
    assert files == set(external_files(path))


def test_a_file_with_its_weights_inside_names_none(tmp_path: Path):
    path = tmp_path / "net.onnx"
    inline = numpy_helper.from_array(np.zeros(2, np.float32), "w")
    path.write_bytes(helper.make_model(graph("main", initializer=[inline])).SerializeToString())
    assert () == external_files(path)


@pytest.mark.parametrize("content", [b"", b"\xff" * 40, b"\x3a\xff\xff\xff\xff\x0f", b"words, not protobuf"])
def test_a_damaged_file_is_left_to_the_loader(tmp_path: Path, content: bytes):
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    assert () == external_files(path)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_file_that_is_cut_short_names_no_other_files(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject):
    model, files = everywhere()
    content = model.SerializeToString()
    path = tmp_path_factory.mktemp("cut") / "net.onnx"
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    assert set(external_files(path)) <= files


@pytest.mark.parametrize("location", ["a\0b", "\0", "../a\0", "x" * 5000, ""])
def test_a_location_that_is_no_path_is_refused(tmp_path: Path, location: str):
    add = helper.make_node("Add", ["x", "w"], ["y"])
    model = helper.make_model(graph("g", [add], initializer=[external("w", location)]))
    path = tmp_path / "net.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(DataError, match="outside the model's folder"):
        onnx_file.load(path)
    assert set(source._external_hashes(path).values()) <= {"refused"}
