"""The gate: exports that are proved to come from their trees, budgets, baselines, and unrelated changes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from effbench.api.compare import budgets
from effbench.api.compare.baseline import judge_measurements
from effbench.api.compare.worktree import commit_of, module_folders_of, worktree
from effbench.errors import EffbenchError, UsageError
from effbench.schema import Artifact, Fidelity, InputShapes, Measurement, Round, Samples, Subject, Weights
from effbench.statistics.sequential import Rules
from effbench.statistics.verdict import Verdict

MODEL = """
import torch
from torch import nn

DEPTH = {depth}


def net():
    layers = [nn.Conv2d(3, 16, 3, 2, 1), nn.GELU()]
    for _ in range(DEPTH):
        layers += [nn.Conv2d(16, 16, 3, 1, 1), nn.GELU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
"""
SUITE = '[suite]\nmodels = ["tiny:net"]\nresolutions = [64]\n'
WHO = {
    "GIT_AUTHOR_NAME": "a",
    "GIT_AUTHOR_EMAIL": "a@example.org",
    "GIT_COMMITTER_NAME": "a",
    "GIT_COMMITTER_EMAIL": "a@example.org",
}


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=folder, env={**os.environ, **WHO}, check=True, capture_output=True)


def repository(folder: Path, package: str = "src/tiny") -> Path:
    """Make a repository with one commit: a model of four layers, and a suite."""
    (folder / package).mkdir(parents=True)
    (folder / package / "__init__.py").write_text(MODEL.format(depth=4))
    (folder / "effbench.toml").write_text(SUITE)
    (folder / ".gitignore").write_text("runs/\n__pycache__/\n*.egg-info/\n")
    git(folder, "init", "--quiet", "--initial-branch", "main")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", "one")
    return folder


def gate(folder: Path, *arguments: str, python: str = sys.executable) -> tuple[int, dict, str]:
    """Run the gate as a user would; returns the exit code, the report and what it wrote to standard error."""
    command = [python, "-m", "effbench.cli", "gate", *arguments, "--json"]
    env = {key: value for key, value in os.environ.items() if not key.startswith("EFFBENCH_")}
    result = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=280, check=False)
    return result.returncode, json.loads(result.stdout).get("data", {}) if result.stdout else {}, result.stderr


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    return repository(tmp_path / "repo")


def test_a_shallow_clone_is_told_how_to_fetch_the_base(repo: Path, tmp_path: Path):
    git(repo, "commit", "--quiet", "--allow-empty", "--message", "two")
    git(tmp_path, "clone", "--quiet", "--depth", "1", f"file://{repo}", "shallow")
    with pytest.raises(UsageError, match="git fetch --depth=1 origin base"):
        commit_of("origin/base", tmp_path / "shallow")
    with pytest.raises(UsageError, match="shallow"):
        commit_of("HEAD~1", tmp_path / "shallow")


def test_an_unknown_ref_is_refused(repo: Path):
    with pytest.raises(UsageError, match="git knows no 'nothing'"):
        commit_of("nothing", repo)


def test_a_worktree_is_removed_at_the_end(repo: Path):
    with worktree("HEAD", repo) as tree:
        assert (tree / "src" / "tiny" / "__init__.py").is_file()
    assert not tree.exists()
    listed = subprocess.run(["git", "worktree", "list"], cwd=repo, capture_output=True, text=True, check=True).stdout
    assert 1 == len(listed.splitlines())


def test_the_tree_comes_first_on_the_module_path(repo: Path):
    assert [str(repo / "lib"), str(repo / "src"), str(repo)] == module_folders_of(repo, ["lib"])


def test_a_factory_outside_the_tree_ends_with_5(repo: Path):
    code, _, stderr = gate(repo, "json:loads", "--base", "HEAD")
    assert 5 == code
    assert "outside" in stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "needs a base"),
        (("--base", "HEAD", "--baseline", "x"), "needs a base"),
        (("--base", "nothing"), "git knows no"),
    ],
)
def test_an_invalid_gate_ends_with_2(repo: Path, arguments: tuple[str, ...], words: str):
    code, _, stderr = gate(repo, *arguments)
    assert 2 == code
    assert words in stderr


@pytest.mark.slow
def test_most_changes_cost_nothing_and_a_slowdown_is_explained(repo: Path):
    code, report, stderr = gate(repo, "--base", "HEAD")
    assert (0, True, 0) == (code, report["verdicts"][0]["identical"], report["compared"]), stderr
    (repo / "README.md").write_text("words")
    start = time.monotonic()
    code, report, _ = gate(repo, "--base", "HEAD")
    assert (0, True) == (code, report["verdicts"][0]["identical"])
    assert time.monotonic() - start < 60
    (repo / "src" / "tiny" / "__init__.py").write_text(MODEL.format(depth=6))
    code, report, stderr = gate(repo, "--base", "HEAD", "--budget", "150")
    verdict = report["verdicts"][0]
    assert (1, "slower") == (code, verdict["outcome"]), stderr
    assert 2 == verdict["why"]["operators"]["Conv"]
    assert "Conv" == max(verdict["why"]["layers"], key=lambda layer: layer["b_us"] - layer["a_us"])["operator"]


@pytest.mark.slow
def test_both_trees_alternate_inside_an_agent_of_a_device(repo: Path, tmp_path: Path, pipe: Any):
    (repo / "effbench.toml").write_text(SUITE + pipe("bench", tmp_path))
    code, _, stderr = gate(repo, "--base", "HEAD", "--device", "bench")
    assert (2, True) == (code, "Unknown device 'bench'" in stderr), stderr  # devices are those of the base
    git(repo, "commit", "--quiet", "--all", "--message", "a device")
    code, report, stderr = gate(repo, "--base", "HEAD", "--device", "bench")
    assert (0, True) == (code, report["verdicts"][0]["identical"]), stderr
    assert not (tmp_path / "home").exists(), "identical files need no device"
    (repo / "src" / "tiny" / "__init__.py").write_text(MODEL.format(depth=8))
    code, report, stderr = gate(repo, "--base", "HEAD", "--device", "bench", "--budget", "150")
    assert (1, "slower") == (code, report["verdicts"][0]["outcome"]), stderr
    assert [] == list((tmp_path / "home").glob("sessions/*"))
    code, _, stderr = gate(repo, "--base", "HEAD", "--device", "bench", "--base-python", sys.executable)
    assert 2 == code
    assert "interpreter of this machine" in stderr


@pytest.mark.slow
def test_a_model_that_only_moved_its_random_numbers_is_identical(repo: Path):
    text = MODEL.format(depth=4).replace("    layers = [", "    torch.rand(3)\n    layers = [")
    (repo / "src" / "tiny" / "__init__.py").write_text(text)
    code, report, stderr = gate(repo, "--base", "HEAD")
    assert (0, True) == (code, report["verdicts"][0]["identical"]), stderr


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sibling", "cfg"])
def test_a_network_that_a_module_or_file_beside_it_makes_deeper_is_timed(repo: Path, kind: str):
    """The factory's own file and package stay as they are."""
    model = MODEL.replace("DEPTH = {depth}", "import json\nfrom pathlib import Path\nimport beside").replace(
        "range(DEPTH)", "range(beside.DEPTH + json.loads(Path('cfg.json').read_text()))"
    )
    (repo / "src" / "tiny" / "__init__.py").write_text(model)
    (repo / "src" / "beside.py").write_text("DEPTH = 1\n")
    (repo / "cfg.json").write_text("1")
    git(repo, "add", ".")
    git(repo, "commit", "--quiet", "--message", "two")
    code, report, stderr = gate(repo, "--base", "HEAD")
    assert (0, True) == (code, report["verdicts"][0]["identical"]), stderr
    (repo / "src" / "beside.py").write_text("DEPTH = 12\n") if kind == "sibling" else (repo / "cfg.json").write_text(
        "12"
    )
    code, report, stderr = gate(repo, "--base", "HEAD", "--budget", "60")
    verdict = report["verdicts"][0]
    assert (False, 1) == (verdict["identical"], report["compared"]), stderr
    assert verdict["identity"]["graph and weights"][0] != verdict["identity"]["graph and weights"][1]
    assert (1, "slower") == (code, verdict["outcome"]), stderr


@pytest.mark.slow
def test_an_editable_install_does_not_hide_the_base(tmp_path: Path):
    """Install the working tree in editable mode and make it slower; the gate still detects it."""
    repo = repository(tmp_path / "repo")
    (repo / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
        '[project]\nname = "tiny"\nversion = "1"\n'
    )
    git(repo, "add", ".")
    git(repo, "commit", "--quiet", "--message", "two")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    packages = {sysconfig.get_paths()["purelib"], str(Path(budgets.__file__).parents[3])}
    find = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    site_packages = subprocess.run([python, "-c", find], capture_output=True, text=True, check=True).stdout.strip()
    (Path(site_packages) / "effbench.pth").write_text("\n".join(sorted(packages)) + "\n")
    pip = [sys.executable, "-m", "pip", "--python", python]
    install = [*pip, "install", "--quiet", "--no-deps", "--no-build-isolation", "--editable", str(repo)]
    subprocess.run(install, check=True, capture_output=True)
    imported = subprocess.run(
        [python, "-c", "import tiny; print(tiny.__file__)"], capture_output=True, text=True, check=True
    )
    assert str(repo / "src" / "tiny") in imported.stdout
    (repo / "src" / "tiny" / "__init__.py").write_text(MODEL.format(depth=7))
    code, report, stderr = gate(repo, "--base", "HEAD", "--budget", "150", python=python)
    assert (1, "slower") == (code, report["verdicts"][0]["outcome"]), stderr


def artifact(**changes: object) -> Artifact:
    subject = Subject(
        "tiny.net",
        "user",
        Weights(),
        InputShapes((64, 64)),
        1,
        "ort",
        "fp32",
        params=1000,
        macs=5_000,
        size_bytes=2**20,
    )
    fields = {"folder": Path("x"), "key": "k", "digest": "d", "subject": subject, "inputs": (), "outputs": ()}
    return Artifact(**{**fields, "files": {}, "entry": "model.onnx", **changes})  # type: ignore[arg-type]


def measurement(ms: float, rounds: int = 10, digest: str = "d", **before: object) -> Measurement:
    samples = tuple(
        Round(tuple(int(1e6 * (ms + 0.001 * i + 0.0005 * j)) for i in range(30)), 5, True, 1.0, 1.0, 2**20 * 100)
        for j in range(rounds)
    )
    state = {"cpu_model": "x", **before}
    subject = artifact().subject
    return Measurement(digest, subject, "local", {"threads": "1"}, Samples(samples), state, state, "now")


def test_counted_figures_gate_exactly():
    budget = budgets.Budget(
        {"model": "tiny.net"}, {"macs": 5_000, "params": 999, "size_mib": 1.0, "operators": {"Conv": 4}}
    )
    statuses = {
        check.quantity: check.status for check in budgets.check([budget], artifact(), {"Conv": 5}, None, "local")
    }
    assert {"macs": "passed", "params": "missed", "size MiB": "passed", "operators Conv": "missed"} == statuses


@pytest.mark.parametrize(("limit", "status"), [(20.0, "passed"), (5.0, "missed"), (10.0167, "open")])
def test_a_latency_is_held_to_its_budget_by_its_interval(limit: float, status: str):
    budget = budgets.Budget({}, {"latency_ms": limit})
    assert [status] == [check.status for check in budgets.check([budget], artifact(), {}, measurement(10.0), "local")]


def test_an_unknown_figure_is_open_and_a_budget_of_other_artifacts_does_not_apply():
    listed = [
        budgets.Budget({}, {"fidelity": True, "accelerator_share": 0.9}),
        budgets.Budget({"resolution": 512}, {"macs": 1}),
    ]
    assert ["open", "open"] == [check.status for check in budgets.check(listed, artifact(), {}, None, "local")]
    fidelity = Fidelity(True, "x", 1, 0, 0, 1, 1, True, True, {})
    verified = artifact(fidelity=fidelity, placement={"accelerator_share": 0.5})
    assert ["passed", "missed"] == [check.status for check in budgets.check(listed, verified, {}, None, "local")]
    open_case = artifact(fidelity=replace(fidelity, passed=False, unverifiable="its outputs are constant"))
    (check,) = budgets.check(listed[:1], open_case, {}, None, "local")[:1]
    assert (check.status, check.note) == ("open", "its outputs are constant")


def test_a_suite_file_with_a_wrong_key_is_refused(tmp_path: Path):
    (tmp_path / "effbench.toml").write_text("[gate]\nmargn_pct = 3\n")
    with pytest.raises(UsageError, match="margin_pct"):
        budgets.read_suite(tmp_path)
    (tmp_path / "effbench.toml").unlink()
    (tmp_path / "pyproject.toml").write_text('[tool.effbench.suite]\nmodels = ["a:b"]\n')
    assert ["a:b"] == budgets.read_suite(tmp_path).suite["models"]


BLANK = Verdict("tiny.net", "inconclusive")


def test_a_baseline_of_another_machine_is_not_compared():
    verdict = judge_measurements(BLANK, measurement(10.0, cpu_model="y"), measurement(12.0, digest="e"), Rules())
    assert "inconclusive" == verdict.outcome
    assert "'cpu_model'" in verdict.reason


@pytest.mark.parametrize(
    ("ms", "outcome", "fails"), [(12.0, "slower", True), (8.0, "faster", False), (10.02, "unchanged", False)]
)
def test_a_baseline_of_this_machine_is_compared(ms: float, outcome: str, fails: bool):
    verdict = judge_measurements(BLANK, measurement(10.0), measurement(ms, digest="e"), Rules())
    assert (outcome, fails) == (verdict.outcome, verdict.fails)
    assert (outcome, ms / 10) == (verdict.ratios[0].outcome, pytest.approx(verdict.ratios[0].ratio, rel=0.01))


def test_equal_digests_need_no_measuring():
    assert judge_measurements(BLANK, measurement(10.0), measurement(30.0), Rules()).identical


def test_a_proof_names_the_file_and_the_tree(tmp_path: Path):
    from effbench.api.compare.tree_worker import prove_inside

    prove_inside([tmp_path / "a" / "b.py"], tmp_path / "a", "m")
    with pytest.raises(EffbenchError, match=r"outside .*/a") as caught:
        prove_inside([tmp_path / "b.py"], tmp_path / "a", "m")
    assert 5 == caught.value.exit_code
    link = tmp_path / "a" / "c.py"
    link.parent.mkdir()
    link.symlink_to(tmp_path / "b.py")
    with pytest.raises(EffbenchError):
        prove_inside([link], tmp_path / "a", "m")
