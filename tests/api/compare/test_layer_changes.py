"""Which layers a slowdown is blamed on: matched by structure, and only if their paired times differ."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from effbench.api.compare.layer_changes import Layer, changed, joined, matched
from effbench.profiles.layers import measure_layers

PROCESSES = 8


def layer(name: str, structure: str, *, us: float = 10.0, shifts: Sequence[float] = (0.0,) * PROCESSES) -> Layer:
    """Return a layer of eight processes with three runs each; ``structure`` begins with the operator."""
    runs = tuple((us + shift, us + shift + 1, us + shift - 1) for shift in shifts)
    return Layer(name, structure.split()[0], structure, runs)


def names(left: Sequence[Layer], right: Sequence[Layer]) -> set[tuple[str | None, str | None]]:
    return {(a and a.name, b and b.name) for a, b in matched(left, right)}


def test_a_layer_whose_number_another_one_took_is_found_by_its_structure():
    # Conv_1 was added: the name of the second convolution now belongs to it.
    left = [layer("Conv_0", "Conv 8"), layer("Conv_1", "Conv 16"), layer("ReduceMean_2", "ReduceMean 16")]
    right = [
        layer("Conv_0", "Conv 8"),
        layer("Conv_1", "Conv 4"),
        layer("Conv_2", "Conv 16"),
        layer("ReduceMean_3", "ReduceMean 16"),
    ]
    expected = {("Conv_0", "Conv_0"), (None, "Conv_1"), ("Conv_1", "Conv_2"), ("ReduceMean_2", "ReduceMean_3")}
    assert expected == names(left, right)


def test_reordered_and_reshaped_layers_are_the_same_layers():
    before = {"a": "Conv 3x3", "b": "Gelu 8", "c": "Add 8", "d": "Conv 5x5", "e": "Mul 8"}
    after = {"c": "Add 8", "a": "Conv 3x3", "b": "Gelu 8", "d": "Conv 9x9", "f": "Erf 8"}
    left, right = ([layer(*item) for item in side.items()] for side in (before, after))
    assert {("a", "a"), ("b", "b"), ("c", "c"), ("d", "d"), ("e", None), (None, "f")} == names(left, right)


def test_one_more_of_many_equal_layers_is_one_new_layer():
    left = [layer(f"Conv_{index}", "Conv 8") for index in range(5)]
    right = [layer(f"Conv_{index}", "Conv 8") for index in range(6)]
    pairs = names(left, right)
    assert (6, 1) == (len(pairs), sum(a is None for a, _ in pairs))


def test_only_layers_whose_paired_times_differ_in_all_processes_are_listed():
    left = [layer("slow", "Conv 8", us=20), layer("same", "Add 8", us=21), layer("lucky", "Mul 8", us=22)]
    right = [
        layer("slow", "Conv 8", us=25),
        layer("same", "Add 8", us=21, shifts=(1, -1, 2, -2, 1, -1, 1, -1)),
        # Slower in seven of eight processes, by where its memory lies.
        layer("lucky", "Mul 8", us=22, shifts=(1, 1, 1, 1, 1, 1, 1, -1)),
        layer("extra", "Erf 8", us=3),
    ]
    listed = [(item.name, item.a_us, item.b_us) for item in changed(left, right)]
    assert [("slow", 20.0, 25.0), ("extra", 0.0, 3.0)] == listed


def test_a_change_below_a_hundredth_explains_nothing():
    left = [layer("big", "Conv 8", us=100), layer("tiny", "Add 8", us=10)]
    right = [layer("big", "Conv 8", us=300), layer("tiny", "Add 8", us=11)]
    assert ["big"] == [item.name for item in changed(left, right)]


def test_a_few_processes_show_no_change():
    few = (0.0,) * 5
    assert () == changed([layer("a", "Conv", us=1, shifts=few)], [layer("a", "Conv", us=9, shifts=few)])


def test_a_layer_that_one_process_lacks_is_left_out():
    one, other = {"a": ["Conv", [1, 2], "s"], "b": ["Add", [3, 4], "t"]}, {"a": ["Conv", [5, 6], "s"]}
    assert [Layer("a", "Conv", "s", ((1, 2), (5, 6)))] == joined([one, other])


def write(path: Path, extra: bool) -> Path:
    """Write two convolutions, numbered; with another one between them, the number of the second changes."""
    rng, nodes, weights, tensor = np.random.default_rng(0), [], [], "image"
    for index, kernel in enumerate((3, 1, 5) if extra else (3, 5)):
        shape = (3, 3, kernel, kernel)
        weights.append(numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), f"w{index}"))
        output = f"t{index}"
        pads = [kernel // 2] * 4
        nodes.append(helper.make_node("Conv", [tensor, f"w{index}"], [output], name=f"Conv_{index}", pads=pads))
        tensor = output
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 3, 16, 16)) for name in ("image", tensor)]
    graph = helper.make_graph(nodes, "g", value[:1], value[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, path)
    return path


@pytest.mark.target("ort")
def test_a_renumbered_layer_of_a_real_profile_keeps_its_partner(tmp_path: Path):
    models = [write(tmp_path / "a.onnx", extra=False), write(tmp_path / "b.onnx", extra=True)]
    timed = measure_layers(models, seed=0, runs=3, threads=1)
    left, right = (joined([side["layers"]]) for side in timed)
    convolutions = {
        (a and a.name.removesuffix("_nchwc"), b and b.name.removesuffix("_nchwc"))
        for a, b in matched(left, right)
        if "Conv" in (a or b or left[0]).operator
    }
    numbers = {tuple(name and name[-1] for name in pair) for pair in convolutions}
    assert {("0", "0"), ("1", "2"), (None, "1")} == numbers
