"""What the inputs of a file are taken for, and the shapes at which it is exported."""

from __future__ import annotations

import field_models
import onnx
import pytest
from onnx import TensorProto, helper

from effbench.deploy.graph import signature
from effbench.errors import DataError, EffbenchError, UsageError
from effbench.schema import InputShapes, InputSpec, InputTerms


def graph_of(*inputs: tuple[str, int, list[object]]) -> onnx.ModelProto:
    """Return a model of these inputs, which are its outputs as well."""
    values = [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in inputs]
    nodes = [helper.make_node("Identity", [value.name], [f"{value.name}_out"]) for value in values]
    outputs = [helper.make_tensor_value_info(f"{value.name}_out", TensorProto.FLOAT, None) for value in values]
    return helper.make_model(helper.make_graph(nodes, "g", values, outputs))


FLOAT, UINT8, INT64, BOOL = TensorProto.FLOAT, TensorProto.UINT8, TensorProto.INT64, TensorProto.BOOL


@pytest.mark.parametrize(
    ("name", "kind", "shape", "words"),
    [
        ("x", FLOAT, [1, 3, 64, 96], "image NCHW"),
        ("x", FLOAT, ["n", 3, "h", "w"], "image NCHW"),
        ("x", UINT8, [1, 64, 96, 3], "image NHWC"),
        ("x", UINT8, [64, 96, 3], "image HWC"),
        ("x", FLOAT, [3, 64, 96], "image CHW"),
        ("x", FLOAT, [1, 1, 48, 320], "image NCHW"),
        ("x", FLOAT, [1, 64, 7, 7], "normal"),
        ("x", FLOAT, [1, 1, 16000], "normal"),
        ("x", FLOAT, [1, 3, 16, 64, 64], "normal"),
        ("attention_mask", INT64, [1, 12], "constant 1"),
        ("keep", BOOL, [1, 12], "constant 1"),
        ("im_shape", FLOAT, [1, 2], "size"),
        ("scale_factor", FLOAT, [1, 2], "constant 1"),
        ("sr", INT64, [], "tokens below None"),
    ],
)
def test_a_role_is_guessed(name: str, kind: int, shape: list[object], words: str) -> None:
    (spec,) = signature.guessed(graph_of((name, kind, shape)))
    assert str(spec).endswith(words), spec


def test_the_table_that_tokens_select_from_says_how_many_there_are() -> None:
    (spec,) = signature.guessed(field_models.tokens())
    assert ("tokens", 100) == (spec.role, spec.vocabulary)


def test_a_fixed_size_and_batch_are_the_defaults() -> None:
    inputs = signature.guessed(graph_of(("x", FLOAT, [4, 1, 48, 320])))
    assert 4 == signature.default_batch(inputs)
    assert InputShapes((48, 320)) == signature.default_shapes(inputs, InputTerms(), 4)


def test_an_open_dimension_that_nothing_fixes_is_asked_for() -> None:
    inputs = signature.guessed(graph_of(("x", FLOAT, [1, 3, 32, 32]), ("boxes", FLOAT, ["k", "rows", 4])))
    with pytest.raises(UsageError, match=r"'boxes' has shape 1x\?x4.*\n.*--shape boxes=1x16x4"):
        signature.default_shapes(inputs, InputTerms(), 1)
    terms = InputTerms(shapes={"boxes": (1, 7, 4)})
    assert "32,boxes=1x7x4" == str(signature.default_shapes(inputs, terms, 1))


def test_a_model_without_an_image_has_shapes_alone() -> None:
    inputs = signature.guessed(field_models.tokens())
    assert "ids=1x12" == str(signature.default_shapes(inputs, InputTerms(), 1))


@pytest.mark.parametrize(
    ("shapes", "batch", "message"),
    [
        (InputShapes((64, 64)), 1, "height of its input 'x' is fixed to 48, not 64.*\n.*--res 48x320"),
        (InputShapes((48, 64)), 1, "width of its input 'x' is fixed to 320, not 64.*\n.*--res 48x320"),
        (InputShapes((48, 320)), 2, "batch of its input 'x' is fixed to 1, not 2.*\n.*--batch 1"),
    ],
)
def test_a_hint_names_what_the_whole_input_takes(shapes: InputShapes, batch: int, message: str) -> None:
    inputs = signature.guessed(graph_of(("x", FLOAT, [1, 1, 48, 320])))
    with pytest.raises(DataError, match=message):
        signature.settled(inputs, shapes, batch, "m.onnx")


@pytest.mark.parametrize(
    ("role", "fed"),
    [
        ("image:NHWC", "image NHWC"),
        ("tokens:9", "tokens below 9"),
        ("constant:16000", "constant 16000"),
        ("uniform", "uniform"),
    ],
)
def test_a_user_word_wins_over_a_guess(role: str, fed: str) -> None:
    inputs = signature.guessed(graph_of(("x", FLOAT, [1, 8, 8, 5])))
    (spec,) = signature.stated(inputs, InputTerms(roles={"x": role}))
    assert str(spec).endswith(fed)


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        (InputTerms(roles={"y": "uniform"}), "input 'y'"),
        (InputTerms(roles={"x": "picture"}), "role of an input 'picture'"),
        (InputTerms(roles={"x": "tokens"}), "has no number of tokens"),
        (InputTerms(roles={"x": "constant:a"}), "has no number"),
        (InputTerms(roles={"x": "image:HW"}), "no layout 'HW'"),
        (InputTerms(roles={"x": "uniform:3"}), "takes no '3'"),
        (InputTerms(shapes={"y": (1,)}), "input 'y'"),
    ],
)
def test_a_word_that_means_nothing_is_refused(terms: InputTerms, message: str) -> None:
    with pytest.raises(EffbenchError, match=message):
        signature.stated(signature.guessed(graph_of(("x", FLOAT, [1, 3, 8, 8]))), terms)


def test_integers_of_unknown_range_are_asked_for() -> None:
    inputs = signature.guessed(graph_of(("ids", INT64, [1, 8])))
    with pytest.raises(UsageError, match=r"'ids' takes integers.*\n.*--vocabulary N"):
        signature.stated(inputs, InputTerms())
    (spec,) = signature.stated(inputs, InputTerms(vocabulary=7))
    assert 7 == spec.vocabulary
    (spec,) = signature.stated(inputs, InputTerms(), sampled=["ids"])
    assert spec.sampled


def test_a_model_with_another_input_is_not_an_image_model() -> None:
    with pytest.raises(DataError, match="one image input"):
        signature.image_input(graph_of(("ids", INT64, [1, 128])), "bert.onnx")


def test_an_input_that_is_an_image_needs_a_layout_of_its_rank() -> None:
    with pytest.raises(UsageError, match="has no layout 'NCHW'"):
        InputSpec("x", "float32", (1, 3, 8))
