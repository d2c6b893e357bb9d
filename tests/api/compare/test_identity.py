"""Two sides are identical only if graph, weights, files, target, options and interpreter are."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from effbench.api.compare import identity
from effbench.api.compare.gate_plan import gate_plan
from effbench.api.compare.request import GateRequest
from effbench.api.compare.rounds import RoundSettings
from effbench.api.compare.tree_worker import prove_apart
from effbench.deploy.artifact import bundle
from effbench.errors import EffbenchError, UsageError
from effbench.schema import Artifact, InputShapes, Subject, Weights


def written(home: Path, name: str, content: str, target: str = "onnx", graph: str | None = None) -> Artifact:
    subject = Subject("net", "user", Weights(), InputShapes((64, 64)), 1, target, "fp32")

    def build(draft: Path) -> Artifact:
        (draft / "model.onnx").write_text(content)
        return Artifact(draft, name, "", subject, (), (), {}, "model.onnx", graph_digest=graph)

    return bundle.write(home / "artifacts" / name, build)


def pair(home: Path) -> tuple[Artifact, Artifact]:
    """Return two artifacts of equal files, made from two graphs of equal content."""
    graphs = [written(home, f"graph-{side}", "graph") for side in "ab"]
    a, b = (written(home, f"ort-{graph.name}", "files", "ort", graph.digest) for graph in graphs)
    return a, b


def is_identical(a: Artifact, b: Artifact, settings: RoundSettings | None = None) -> bool:
    return identity.identical(identity.compared(a, b, settings or RoundSettings()))


def test_equal_sides_are_identical_and_the_sentence_says_what_was_compared(tmp_path: Path):
    compared = identity.compared(*pair(tmp_path), RoundSettings())
    assert identity.identical(compared)
    sentence = identity.sentence(compared)
    for word in ("graph and weights", "files", "target ort", "options none", "onnxruntime "):
        assert word in sentence


def test_each_difference_counts(tmp_path: Path):
    a, b = pair(tmp_path)
    graph = written(tmp_path, "graph-c", "a deeper graph")
    assert not is_identical(a, replace(b, graph_digest=graph.digest))
    assert not is_identical(a, replace(b, digest="other"))
    assert not is_identical(a, replace(b, options={"provider": "CUDAExecutionProvider"}))
    assert not is_identical(a, replace(b, subject=replace(b.subject, target="ov")))
    assert not is_identical(a, b, RoundSettings(python=(("python3.10",), (sys.executable,))))


def test_where_the_graph_is_not_kept_the_files_decide(tmp_path: Path):
    a, b = pair(tmp_path)
    assert is_identical(replace(a, graph_digest="gone"), b)
    assert not is_identical(replace(a, graph_digest="gone", digest="other"), b)


def test_the_torch_target_is_not_gated(tmp_path: Path):
    with pytest.raises(UsageError, match="both sides would run the same code"):
        gate_plan(GateRequest(["a:b"], base="HEAD", targets=["torch"], folder=tmp_path))


def test_code_and_tracked_data_of_the_other_tree_are_refused(tmp_path: Path):
    from test_gate import git

    tree = tmp_path / "tree"
    tree.mkdir()
    git(tree, "init", "--quiet")
    for name in ("net.py", "cfg.json", "weights.bin"):
        (tree / name).write_text("0")
    git(tree, "add", "cfg.json")
    prove_apart([tree / "weights.bin", tmp_path / "net.py"], tree, "net:net")
    for name in ("net.py", "cfg.json"):
        with pytest.raises(EffbenchError, match=rf"{name}, which is in the working tree") as caught:
            prove_apart([tree / name], tree, "net:net")
        assert 5 == caught.value.exit_code
