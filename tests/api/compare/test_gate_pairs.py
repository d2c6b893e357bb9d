"""Cells of two trees become pairs, or verdicts that need no rounds."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_graphs import attention, converted, graph_artifact

from effbench import deploy
from effbench.api.compare.gate_plan import GatePlan, gate_plan
from effbench.api.compare.pairs import Pair
from effbench.api.compare.request import GateRequest
from effbench.api.compare.run_gate import NEW, _paired
from effbench.errors import ConversionError, EffbenchError, FidelityError, UnavailableError, UnsupportedError
from effbench.schema import Artifact, Cell
from effbench.statistics.verdict import code_of


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return converted(graph_artifact(tmp_path_factory.mktemp("pairs"), attention()), deploy.get("ort"))


@pytest.fixture
def plan(tmp_path: Path) -> GatePlan:
    return gate_plan(GateRequest(["a:b"], base="HEAD", folder=tmp_path, out=tmp_path / "runs"))


def cell(artifact: Artifact, result: Artifact | EffbenchError, target: str = "ort") -> Cell:
    return Cell.of("small", artifact.subject.shapes, "fp32", target, result)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConversionError("convert", "no"), 5),
        (FidelityError("another model"), 1),
        (UnavailableError("no runtime"), 4),
        (UnsupportedError("no such precision"), 4),
    ],
)
def test_a_candidate_that_failed_has_the_exit_code_of_its_failure(
    plan: GatePlan, artifact: Artifact, error: EffbenchError, code: int
):
    decision = _paired(plan, cell(artifact, error), [artifact])
    assert ("failed", code) == (decision.verdict.outcome, code_of(decision.verdict))
    assert error.message in decision.verdict.reason


def test_a_candidate_meets_the_base_of_its_own_cell(plan: GatePlan, artifact: Artifact):
    candidate = cell(artifact, artifact)
    broken = ConversionError("convert", "no such operator")
    pair = _paired(plan, candidate, [cell(artifact, broken, "ov"), artifact])
    assert isinstance(pair, Pair)
    assert (artifact.digest, artifact.digest) == (pair.a.digest, pair.b.digest)
    assert NEW == _paired(plan, candidate, []).verdict.outcome
    # Another target's failure is no reason to fail this one.
    assert NEW == _paired(plan, candidate, [cell(artifact, broken, "ov")]).verdict.outcome
    failed = _paired(plan, candidate, [cell(artifact, broken)]).verdict
    assert ("failed", True) == (failed.outcome, "base: " in failed.reason)
