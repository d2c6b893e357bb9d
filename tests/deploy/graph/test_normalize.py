"""Files of any writer in one form: the same function, the steps named, and what every reader behind it relies on."""

from pathlib import Path

import field_models
import numpy as np
import onnx
import pytest
from onnx import helper

from effbench.deploy.graph import normalize, onnx_file
from effbench.deploy.graph.run_ort import runner
from effbench.errors import DataError

TYPES = {1: np.float32, 2: np.uint8, 6: np.int32, 10: np.float16}


def feeds(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    values = {}
    for value in model.graph.input:
        if value.name in {tensor.name for tensor in model.graph.initializer}:
            continue
        shape = [dim.dim_value if dim.dim_value > 0 else 64 if dim.dim_param == "width" else 1 for dim in dims(value)]
        kind = TYPES[value.type.tensor_type.elem_type]
        values[value.name] = (rng.uniform(size=shape) * (1 if np.dtype(kind).kind == "f" else 99)).astype(kind)
    return values


def dims(value: onnx.ValueInfoProto) -> list[onnx.TensorShapeProto.Dimension]:
    return list(value.type.tensor_type.shape.dim)


@pytest.mark.target("ort")
@pytest.mark.parametrize("name", field_models.MODELS)
def test_the_function_stays_the_same(name: str, tmp_path: Path):
    original = field_models.MODELS[name]()
    onnx.save(original, tmp_path / "model.onnx")
    model, steps = normalize.load(tmp_path / "model.onnx")
    expected, actual = runner(original)(feeds(original)), runner(model)(feeds(original))
    assert list(expected) == list(actual)
    for output, value in expected.items():
        np.testing.assert_allclose(actual[output], value, rtol=1e-5, atol=1e-6)
    assert all(dims(value) for value in model.graph.output), steps
    assert normalize.normalized(model) == (model, ()), "a second time changes nothing"


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("constant_weights", "weights in 6 Constant nodes made initializers"),
        ("initializers_as_inputs", "6 initializers taken from the list of inputs"),
        ("out_of_order", "nodes put in topological order, 6 were not"),
    ],
)
def test_each_step_is_named(name: str, step: str):
    _, steps = normalize.normalized(field_models.MODELS[name]())
    assert step in steps


def test_a_graph_in_the_form_is_not_touched():
    model = onnx.shape_inference.infer_shapes(field_models.plain())
    assert normalize.normalized(model) == (model, ())


def test_functions_are_inlined():
    body = helper.make_function("own", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])],
                                [helper.make_opsetid("", 17)])  # fmt: skip
    model = field_models.plain()
    model.functions.append(body)
    model.opset_import.append(helper.make_opsetid("own", 1))
    model.graph.node.append(helper.make_node("Twice", ["logits"], ["twice"], domain="own"))
    model.graph.output.append(helper.make_tensor_value_info("twice", 1, [1, 10]))
    inlined, steps = normalize.normalized(model)
    assert "1 functions inlined" in steps
    assert "Twice" not in {node.op_type for node in inlined.graph.node}


def test_an_open_dimension_may_be_written_as_minus_one():
    model, _ = normalize.normalized(field_models.constant_weights())
    assert (None, 3, 64, 64) == onnx_file.inputs(model)[0].shape


def test_external_data_in_a_file_of_any_name(tmp_path: Path):
    path = field_models.external(tmp_path)
    assert not (tmp_path / "external.onnx.data").exists()
    model, _ = normalize.load(path)
    assert 1000 < onnx_file.count_params(model)


def test_initializers_that_only_branches_read_survive_tidying():
    model = onnx_file.tidy(field_models.captured_weights())
    assert "only_inside" in {tensor.name for tensor in model.graph.initializer}


def test_parameters_count_wherever_the_weights_stand():
    counts = {
        onnx_file.count_params(normalize.normalized(field_models.MODELS[name]())[0])
        for name in ("plain", "constant_weights", "initializers_as_inputs", "out_of_order")
    }
    assert 1 == len(counts)
    assert 0 not in counts


def test_products_of_a_value_of_unknown_rank_are_not_counted():
    model = field_models.plain()
    del model.graph.value_info[:]
    model.graph.value_info.append(helper.make_tensor_value_info("flat", 1, None))
    assert onnx_file.count_macs(model) is None


def test_an_output_of_unknown_rank_is_no_reason_to_refuse_a_file(tmp_path: Path):
    model = field_models.plain()
    assert not model.graph.output[0].type.tensor_type.HasField("shape")
    onnx.save(model, tmp_path / "model.onnx")
    assert not onnx_file.load(tmp_path / "model.onnx").graph.output[0].type.tensor_type.HasField("shape")


def test_a_graph_that_is_not_valid_is_a_sentence(tmp_path: Path):
    broken = field_models.plain()
    broken.graph.node[2].input[0] = "nothing"
    onnx.save(broken, tmp_path / "broken.onnx")
    with pytest.raises(DataError, match=r"not a valid ONNX model|cannot be read") as caught:
        normalize.load(tmp_path / "broken.onnx")
    assert "nothing" in str(caught.value)
    circle = field_models.plain()
    circle.graph.node[0].input[0] = "f2"
    onnx.save(circle, tmp_path / "circle.onnx")
    with pytest.raises(DataError, match=r"circle\.onnx"):
        normalize.load(tmp_path / "circle.onnx")
