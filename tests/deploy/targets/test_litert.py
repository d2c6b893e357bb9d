"""LiteRT: where operators run, for lists of nodes and for converted files."""

import json
import os
import sys
from dataclasses import replace

import numpy as np
import pytest
from small_graphs import SIDE, attention, converted, graph_artifact

from effbench.deploy.targets import litert
from effbench.errors import DataError, UnavailableError, UnsupportedError, UsageError


def node(index, name, inputs, outputs):
    return {"index": index, "op_name": name, "inputs": inputs, "outputs": outputs}


def test_the_delegate_runs_the_nodes_between_a_partitions_inputs_and_outputs():
    # 0 -CONV-> 1 -ODD-> 2 -CONV-> 3 -ADD(1)-> 4, in two partitions around the odd one.
    operators = [
        node(0, "CONV_2D", [0, 10], [1]),
        node(1, "ODD", [1], [2]),
        node(2, "CONV_2D", [2, 11], [3]),
        node(3, "ADD", [3, 1], [4]),
    ]
    partitions = [node(4, "DELEGATE", [0, 10], [1]), node(5, "DELEGATE", [2, 11, 1], [4])]
    expected = {
        "operators": {"XNNPACK": {"ADD": 1, "CONV_2D": 2}, "CPU": {"ODD": 1}},
        "partitions": 2,
        "cpu_operators": ["ODD (1)"],
    }
    assert expected == litert.assignment([*operators, *partitions])


def test_without_a_delegate_all_operators_run_on_the_cpu():
    expected = {"operators": {"CPU": {"ADD": 1}}, "partitions": 0, "cpu_operators": ["ADD (0)"]}
    assert expected == litert.assignment([node(0, "ADD", [0, 1], [2])])


def test_the_converter_is_set_by_option_or_environment(monkeypatch):
    monkeypatch.setenv(litert.VARIABLE, "/somewhere/python")
    assert "/somewhere/python" == litert.converter({})
    assert "/else/python" == litert.converter({"python": "/else/python"})
    assert not litert.TARGET.on_request
    monkeypatch.delenv(litert.VARIABLE)
    monkeypatch.setattr(litert, "find_spec", lambda name: None)
    assert litert.TARGET.on_request


@pytest.mark.parametrize(
    ("python", "error", "text"),
    [("/no/such/python", UsageError, "there is no such file"), ("/bin/sh", UnavailableError, "has no onnx2tf")],
)
def test_an_interpreter_that_cannot_convert_is_named(tmp_path, python, error, text):
    if python == "/bin/sh":
        python = str(tmp_path / "python")
        # This interpreter without its packages, where onnx2tf cannot be.
        (tmp_path / "python").write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
        (tmp_path / "python").chmod(0o755)
    graph = graph_artifact(tmp_path, attention())
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(error, match=text):
        litert.TARGET.convert(graph, out, {"python": python})
    assert [] == list(out.iterdir())


def test_the_path_of_an_interpreter_may_be_relative_to_the_users_folder(tmp_path, monkeypatch):
    bare = tmp_path / "environment" / "python"
    bare.parent.mkdir()
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    bare.chmod(0o755)
    graph = graph_artifact(tmp_path, attention())
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnavailableError, match="has no onnx2tf"):
        litert.TARGET.convert(graph, tmp_path / "out", {"python": "environment/python"})


def test_other_precisions_are_unsupported_on_any_machine(own):
    done = own("export", "toy:net", "--res", "64", "-t", "litert", "--precision", "fp16", "--json")
    (cell,) = json.loads(done.stdout)["data"]
    assert (4, "unsupported", "It takes fp32.") == (done.returncode, cell["status"], cell["next_step"])
    assert "Target 'litert' takes no fp16: effbench converts fp32 graphs only" in cell["reason"]


def test_an_open_batch_is_unsupported_on_any_machine(tmp_path):
    graph = graph_artifact(tmp_path, attention())
    (spec,) = graph.inputs
    graph = replace(graph, inputs=(replace(spec, shape=(None, *spec.shape[1:])),))
    with pytest.raises(UnsupportedError, match="takes fixed shapes"):
        litert.TARGET.convert(graph, tmp_path, {})


@pytest.mark.target("litert")
def test_a_damaged_file_is_named(tmp_path):
    artifact = replace(graph_artifact(tmp_path, attention()), entry="broken.tflite")
    (artifact.folder / "broken.tflite").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"broken\.tflite: LiteRT does not load it"):
        litert.TARGET.open(artifact, 1, {})


def require_converter():
    if not os.environ.get(litert.VARIABLE):
        if "onnx2tf" in os.environ.get("EFFBENCH_REQUIRE", "").split(","):
            pytest.fail(f"onnx2tf is required here, but {litert.VARIABLE} names no interpreter")
        pytest.skip(f"no interpreter with onnx2tf is named by {litert.VARIABLE}")


@pytest.mark.slow
@pytest.mark.target("litert")
def test_a_converted_graph_computes_the_same(tmp_path):
    require_converter()
    import onnxruntime as ort

    model = attention()
    before = model.SerializeToString()
    graph = graph_artifact(tmp_path, model)
    artifact = converted(graph, litert.TARGET)
    assert before == graph.path.read_bytes(), "the converter wrote into the graph"
    assert ["model.tflite"] == sorted(path.name for path in artifact.folder.glob("model*"))
    session = litert.TARGET.open(artifact, 1, {})
    value = np.random.default_rng(0).standard_normal((1, 3, SIDE, SIDE)).astype(np.float32)
    name = graph.inputs[0].name
    (expected,) = ort.InferenceSession(before, providers=["CPUExecutionProvider"]).run(None, {name: value})
    (output,) = session({name: value}).values()
    np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-5)
    placement = session.placement()
    assert placement["partitions"] >= 1
    session.close()
    built_in = litert.TARGET.open(artifact, 1, {"delegate": "none"})
    assert 0 == built_in.placement()["partitions"]
    np.testing.assert_allclose(next(iter(built_in({name: value}).values())), expected, rtol=1e-4, atol=1e-5)
