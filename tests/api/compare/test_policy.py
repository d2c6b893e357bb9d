"""A change cannot set the terms that it is judged by."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from effbench.api.compare import run_gate
from effbench.api.compare.budgets import read_suite
from effbench.api.compare.gate_plan import gate_plan
from effbench.api.compare.policy import NO_FILE, policy_of
from effbench.api.compare.request import GateRequest
from effbench.api.compare.worktree import module_folders_of, refuse_tracked
from effbench.deploy.artifact import bundle
from effbench.errors import DataError, UsageError
from effbench.profiles import devices
from effbench.schema import Artifact, Cell, InputShapes, InputSpec, Subject, Weights

BASE = """
[suite]
models = ["a:net", "b:net"]
threads = 1
devices = ["local"]
[gate]
margin_pct = 5.0
path = ["lib"]
[[budget]]
latency_ms = 5.0
[model."x.onnx"]
outputs = { y = "probabilities" }
"""
CHANGE = """
[suite]
models = ["b:net", "c:net"]
threads = 8
devices = ["fast"]
images = "easy"
[gate]
margin_pct = 500.0
inconclusive = "pass"
path = ["new"]
[[budget]]
latency_ms = 500.0
[model."x.onnx"]
outputs = { y = "features" }
[devices.fast]
transport = "pipe"
connection = { command = ["touch", "escaped"] }
"""


def git(folder: Path, *words: str) -> None:
    own = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *own, *words], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working tree whose project file differs from that of its commit, in a subfolder."""
    folder = tmp_path / "top" / "sub"
    folder.mkdir(parents=True)
    (folder / "effbench.toml").write_text(BASE)
    git(folder.parent, "init", "-q")
    git(folder.parent, "add", "-A")
    git(folder.parent, "commit", "-qm", "base")
    (folder / "effbench.toml").write_text(CHANGE)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("EFFBENCH_ALLOW_PROJECT", raising=False)
    return folder


def test_the_terms_are_the_bases_and_each_change_of_them_is_reported(repo: Path) -> None:
    plan = gate_plan(GateRequest(base="HEAD", folder=repo))
    assert (1, 5.0, "local", "code") == (plan.settings.threads, plan.rules.margin_pct, plan.device, plan.inconclusive)
    assert [{"latency_ms": 5.0}] == [budget.limits for budget in plan.budgets]
    assert None is plan.exports.images
    assert {"x.onnx": {"outputs": {"y": "probabilities"}}} == plan.exports.job("x.onnx")["declared"]
    assert ("a:net", "b:net", "c:net") == plan.models  # none can be removed, and new ones are compared
    assert ("lib", "new") == plan.path
    text = "\n".join(plan.policy.changes)
    for key in (
        "suite.threads: 1 in the base, 8",
        "gate.margin_pct",
        "budget.1.latency_ms",
        "suite.models: ['a:net'] removed",
        "model.x.onnx.outputs.y: probabilities in the base, features",
    ):
        assert key in text
    for key in ("suite.devices", "suite.images", "gate.inconclusive", "devices.fast"):
        assert key in text


def test_arguments_still_win(repo: Path) -> None:
    plan = gate_plan(GateRequest(["x:net"], base="HEAD", folder=repo, threads=2))
    assert (("x:net",), 2) == (plan.models, plan.settings.threads)


def test_the_devices_are_the_bases(repo: Path) -> None:
    policy = policy_of(repo, "HEAD", read_suite(repo))
    with policy.in_force():
        assert "fast" not in devices.devices()
        with pytest.raises(UsageError, match="Unknown device 'fast'"):
            devices.get("fast")
    with pytest.raises(UsageError, match="not allowed it"):
        devices.get("fast")


def test_a_base_without_a_suite_leaves_that_of_the_change_which_connects_to_nothing(repo: Path) -> None:
    git(repo.parent, "checkout", "-q", "--orphan", "empty")
    git(repo.parent, "rm", "-rqf", "--cached", ".")
    git(repo.parent, "commit", "-qm", "nothing", "--allow-empty")
    policy = policy_of(repo, "HEAD", read_suite(repo))
    assert ((NO_FILE,), False) == (policy.changes, policy.of_base)
    with policy.in_force(), pytest.raises(UsageError, match="not allowed it"):
        devices.get("fast")


def test_an_equal_file_changes_nothing(repo: Path) -> None:
    (repo / "effbench.toml").write_text(BASE)
    assert () == policy_of(repo, "HEAD", read_suite(repo)).changes


def test_artifacts_of_the_repository_are_not_taken_for_cached_ones(repo: Path) -> None:
    refuse_tracked(repo / "runs", repo.parent)
    (repo / "runs" / "artifacts").mkdir(parents=True)
    (repo / "runs" / "artifacts" / "fast").write_text("x")
    refuse_tracked(repo / "runs", repo.parent)  # made here, as by an earlier run
    git(repo.parent, "add", "-f", "sub/runs")
    with pytest.raises(UsageError, match=r"holds files of the repository \(sub/runs/artifacts/fast\)"):
        refuse_tracked(repo / "runs", repo.parent)


def test_an_artifact_that_the_other_tree_replaced_is_refused(tmp_path: Path) -> None:
    subject = Subject("toy", "user", Weights(), InputShapes((8, 8)), 1, "ort", "fp32")
    image = InputSpec("image", "float32", (1, 3, 8, 8))
    (tmp_path / "model.onnx").write_bytes(b"slow")

    def build(draft: Path) -> Artifact:
        (draft / "model.onnx").write_bytes(b"slow")
        return Artifact(draft, "key", "", subject, (image,), (), {}, "model.onnx")

    artifact = bundle.write(tmp_path / "one", build)
    cell = Cell.of("toy", InputShapes((8, 8)), "fp32", "ort", artifact, reason="not verified")
    loaded = run_gate._artifact(cell)
    assert loaded is not None
    assert artifact.digest == loaded.digest
    with pytest.raises(DataError, match="not the artifact that was exported"):
        run_gate._artifact(replace(cell, digest="0" * 64))


def test_a_folder_of_modules_lies_in_the_tree(repo: Path) -> None:
    for path in ("../..", "/etc"):
        with pytest.raises(UsageError, match="outside the tree"):
            module_folders_of(repo, [path])


def test_a_folder_of_modules_does_not_stand_for_two(repo: Path, tmp_path: Path) -> None:
    """The folders reach the child in one variable; the name of one inside the tree could hold one outside."""
    with pytest.raises(UsageError, match="cannot be in the name"):
        module_folders_of(repo, [f"x{os.pathsep}{tmp_path}"])
