"""What is kept of a failed stage, and that the same stage fails again from it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from small_graphs import attention, graph_artifact

from effbench.api.export import failures, stage
from effbench.deploy.graph import onnx_file
from effbench.errors import ConversionError, DataError, EffbenchError, UnavailableError, UsageError
from effbench.process import CRASHED, TIME_LIMIT, ChildFailure

ODD = "Bernoulli"


def failure(home: Path) -> ConversionError:
    """A conversion to Core ML of a graph with an operator that has no translation."""
    graph = graph_artifact(home, attention(extra=ODD), expected=attention())
    job = {"op": "convert", "graph": str(graph.folder), "target": "coreml", "options": {}, "key": "k"}
    with pytest.raises(ConversionError, match="odd_one") as caught:
        stage.run(
            stage.EXPORT_WORKER, {**job, "folder": str(home / "artifacts" / "x")}, stage.Limits.of(120), home, "x"
        )
    return caught.value


@pytest.mark.target("coreml")
def test_a_failed_conversion_leaves_log_graph_and_script(tmp_path: Path) -> None:
    folder = Path(failure(tmp_path).record)
    assert folder == tmp_path / "failures" / "x-convert"
    assert sorted(path.name for path in folder.iterdir()) == ["failure.json", "log.txt", "model.onnx", "reproduce.py"]
    (graph,) = (path for path in (tmp_path / "artifacts").iterdir() if not path.name.startswith("."))
    assert f"HOME/artifacts/{graph.name}" == json.loads((folder / failures.RECORD).read_text())["job"]["graph"]
    # Moved together with its home, it still fails in the same way.
    moved = tmp_path.with_name(tmp_path.name + "-moved")
    shutil.move(tmp_path, moved)
    script = moved / folder.relative_to(tmp_path) / failures.SCRIPT
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert (1, True) == (done.returncode, "fails again: Core ML translation failed (node odd_one" in done.stdout)


@pytest.mark.slow
@pytest.mark.target("coreml")
def test_a_failing_graph_gets_smaller_and_still_fails(tmp_path: Path) -> None:
    pytest.importorskip("polygraphy")
    folder = Path(failure(tmp_path).record)
    assert failures.reduce(folder).startswith("reduced: 16 nodes to ")
    left = [node.name for node in onnx.load(folder / failures.REDUCED).graph.node]
    assert ("odd_one" in left, len(left) < 16) == (True, True)
    assert 1 == failures.again(folder, reduced=True)
    # A graph that does convert is told from one that does not.
    onnx.save(onnx_file.infer_shapes(attention(), "whole"), folder / failures.REDUCED)
    assert 0 == failures.again(folder, reduced=True)


@pytest.mark.parametrize("error", [UsageError("u"), UnavailableError("n"), DataError("d")])
def test_what_no_other_run_can_change_is_not_recorded(tmp_path: Path, error: EffbenchError) -> None:
    failures.keep(tmp_path, "x", stage.EXPORT_WORKER, {"op": "convert"}, error)
    assert ("", []) == (error.record, list(tmp_path.iterdir()))


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
def test_a_record_that_cannot_be_written_is_said_and_raises_nothing(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    error = ConversionError("stage", "words")
    failures.keep(tmp_path, "x", stage.EXPORT_WORKER, {"op": "convert"}, error)
    tmp_path.chmod(0o700)
    assert "Permission denied" in str(error.hint)


def test_signatures_tell_causes_apart_and_names_not() -> None:
    one = ConversionError("s", "no rule for 'a' of 3 inputs", node="n1", op="Foo")
    same = ConversionError("s", "no rule for 'b' of 7 inputs", node="n2", op="Foo")
    other = ConversionError("s", "no rule for 'a' of 3 inputs", node="n1", op="Bar")
    assert failures.signature(one) == failures.signature(same) != failures.signature(other)
    crash = ChildFailure(CRASHED, "convert ended badly", "convert", "", -signal.SIGSEGV)
    killed = ChildFailure(CRASHED, "convert ended badly", "convert", "", -signal.SIGKILL)
    assert "crashed: SIGSEGV (a crash in native code)" == failures.signature(crash)
    assert failures.signature(crash) != failures.signature(killed)
    late = [ChildFailure(TIME_LIMIT, f"convert was stopped after {limit} s", "convert", "") for limit in (1, 2)]
    assert failures.signature(late[0]) == failures.signature(late[1]) != failures.signature(crash)


@pytest.mark.parametrize(
    ("op", "cause", "word"), [("graph", "", "translates no graph"), ("convert", "time limit", "time limit")]
)
def test_what_cannot_be_reduced_says_why(tmp_path: Path, op: str, cause: str, word: str) -> None:
    error = ChildFailure(cause, "m", "s", "log") if cause else ConversionError("s", "m")
    failures.keep(tmp_path, "x", stage.EXPORT_WORKER, {"op": op, "graph": str(tmp_path)}, error)
    assert word in failures.reduce(Path(error.record))
    assert word in json.loads((Path(error.record) / failures.RECORD).read_text())["reduced"]


def test_a_folder_that_is_no_record_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not the record of a failure"):
        failures.read(tmp_path)


def test_limits_of_a_cell_end_all_its_stages() -> None:
    limits = stage.Limits.of(600, total_s=10)
    assert 9 < limits.seconds() <= 10
    assert 600 == stage.Limits.of(600).seconds()
    assert 0 < (limits.memory_bytes or 0) < (stage.memory_bytes() or 0)
