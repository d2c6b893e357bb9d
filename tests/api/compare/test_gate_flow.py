"""The gate from two git trees to its report: real exports and budgets, with scripted or few rounds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from small_graphs import SIDE, chain
from test_gate import MODEL, git, repository

from effbench.api.compare import comparison
from effbench.api.compare.rounds import RoundSettings
from effbench.api.compare.run_gate import gate
from effbench.profiles.paired import PairedRound
from effbench.reports.gate.text import markdown, terminal
from effbench.schema import Artifact
from effbench.statistics.verdict import ComparisonReport

Write = Callable[[int], None]


def onnx_file(repo: Path) -> tuple[str, int, Write]:
    """Return a repository's .onnx file as model argument, its size, and the function that writes it with some depth."""
    return "net.onnx", SIDE, lambda depth: onnx.save(chain(depth), repo / "net.onnx")


def factory(repo: Path) -> tuple[str, int, Write]:
    """Return a repository's PyTorch factory as model argument, its size, and the function that writes it."""
    file = repo / "src" / "tiny" / "__init__.py"
    return "tiny:net", 64, lambda depth: file.write_text(MODEL.format(depth=depth - 1)) and None


def run_gate(folder: Path, **options: object) -> ComparisonReport:
    return gate(base="HEAD", folder=folder, out=folder / "runs", **options)  # type: ignore[arg-type]


def statuses(report: ComparisonReport) -> dict[str, str]:
    return {check.quantity: check.status for check in report.verdicts[0].budgets}


def slower(a: Artifact, b: Artifact, settings: RoundSettings, seed: int) -> PairedRound:
    """Return a round in which B takes half as long again."""
    return PairedRound((10_000,) * 12, (15_000,) * 12, (0,) * 12, (0,) * 12)


@pytest.mark.xdist_group("export")
@pytest.mark.target("ort")
@pytest.mark.parametrize("kind", [onnx_file, pytest.param(factory, marks=pytest.mark.slow)])
def test_a_gate_from_two_trees_to_its_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Callable):
    repo = repository(tmp_path / "repo")
    model, size, write = kind(repo)
    write(3)
    (repo / "effbench.toml").write_text(
        f'[suite]\nmodels = ["{model}"]\nresolutions = [{size}]\n'
        "[[budget]]\nfidelity = true\nsize_mib = 1.0\noperators = { Conv = 4 }\n"
    )
    git(repo, "add", ".")
    git(repo, "commit", "--quiet", "--message", "a model and its budgets")

    write(5)
    with monkeypatch.context() as scripted:
        scripted.setattr(comparison, "run_round", slower)
        report = run_gate(repo)
    (verdict,) = report.verdicts
    assert (1, "slower", 1) == (report.exit_code(), verdict.outcome, report.compared), verdict.reason
    assert 1.5 == pytest.approx(verdict.ratios[0].ratio)
    assert {"fidelity": "passed", "size MiB": "passed", "operators Conv": "missed"} == statuses(report)
    assert verdict.why is not None
    assert 2 == verdict.why.operators["Conv"]
    assert "Conv" in {layer.operator for layer in verdict.why.layers}
    assert "| slower" in markdown(report)

    # The same trees again, one real round: the artifacts are cached, and known to be verified.
    report = run_gate(repo, budget_s=0.1)
    (verdict,) = report.verdicts
    assert ("inconclusive", 1) == (verdict.outcome, verdict.rounds), verdict.reason
    assert "too few" in verdict.reason
    assert "passed" == statuses(report)["fidelity"]

    write(3)
    report = run_gate(repo)
    (verdict,) = report.verdicts
    assert (0, True, 0) == (report.exit_code(), verdict.identical, report.compared)
    base, candidate = verdict.identity["graph and weights"]
    assert base == candidate
    assert f"identical: equal on both sides: graph and weights {base[:12]}" in terminal(report)

    monkeypatch.setattr(comparison, "run_round", slower)
    report = run_gate(repo, always_time=True)
    assert (1, "slower", 1) == (report.exit_code(), report.verdicts[0].outcome, report.compared)


@pytest.mark.xdist_group("export")
@pytest.mark.target("ort")
@pytest.mark.slow
def test_other_weights_in_a_file_of_any_name_are_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    repo = repository(tmp_path / "repo")
    options = {"save_as_external_data": True, "location": "tensors", "size_threshold": 0}
    onnx.save(chain(2), repo / "net.onnx", **options)
    (repo / "effbench.toml").write_text(f'[suite]\nmodels = ["net.onnx"]\nresolutions = [{SIDE}]\n')
    git(repo, "add", ".")
    git(repo, "commit", "--quiet", "--message", "a model with its weights beside it")
    assert run_gate(repo).verdicts[0].identical

    weights = np.fromfile(repo / "tensors", np.float32)
    (2 * weights).tofile(repo / "tensors")
    monkeypatch.setattr(comparison, "run_round", slower)
    report = run_gate(repo)
    assert (False, 1) == (report.verdicts[0].identical, report.compared)
