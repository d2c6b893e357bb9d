"""A measurement of which every round was lost is no success: it ends with the code of its reason."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from effbench.api.profile.run import profile
from effbench.api.remote import Remote, RoundAnswer
from effbench.commands._shared import exit_code
from effbench.deploy.artifact import bundle
from effbench.errors import DataError, EffbenchError, MeasurementError
from effbench.lab import engine, measure
from effbench.lab.job import LabJob
from effbench.lab.results import Results
from effbench.process import CRASHED, ChildFailure, single
from effbench.profiles.transports.channel import LostError
from effbench.schema import FORMAT_VERSION, Artifact, InputShapes, InputSpec, Subject, Weights
from effbench.store import Store

ROUND = {
    "format": FORMAT_VERSION,
    "samples_ns": [1000, 1001],
    "warmup": 1,
    "stationary": True,
    "load_ms": 1.0,
    "first_ms": 1.0,
    "peak_rss_bytes": 1,
}
ANSWER = {"event": "round", "round": ROUND, "batch": 1, "before": {}, "after": {}, "compute_precision": None}


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    def make(draft: Path) -> Artifact:
        (draft / "model.onnx").write_bytes(b"x")
        subject = Subject("net", "user", Weights(), InputShapes((64, 64)), 1, "ort", "fp32")
        return Artifact(draft, "k", "", subject, (InputSpec("image", "float32", (1, 3, 64, 64)),), (), {}, "model.onnx")

    folder = tmp_path / "runs" / "artifacts" / "net-64"
    bundle.write(folder, make)
    return folder


@pytest.mark.target("ort")
@pytest.mark.parametrize(
    ("error", "code", "has_record"),
    [
        (LostError("the cable"), 4, True),
        (MeasurementError("its clock jumped"), 5, True),
        (ChildFailure(CRASHED, "measure ended with SIGSEGV", "measure", "a log", -11), 5, True),
        (DataError("altered since it was exported"), 2, False),
    ],
)
def test_a_profile_without_any_round_fails(
    monkeypatch: pytest.MonkeyPatch, artifact: Path, error: EffbenchError, code: int, has_record: bool
):
    def lose(*_: Any, **__: Any) -> Iterator[dict[str, Any]]:
        raise error
        yield

    monkeypatch.setattr(Remote, "run", lose)
    home = artifact.parent.parent
    result = profile([str(artifact)], rounds=2, budget_s=1, out=home)
    assert ((), 1) == (result.measurements, len(result.cells))
    assert (code, error.message) == (exit_code(result.cells), result.cells[0].reason)
    assert has_record == bool(result.cells[0].record)
    assert not has_record or (Path(result.cells[0].record) / "log.txt").exists()
    assert [] == list(Store(home))


@pytest.mark.target("ort")
def test_one_round_of_two_is_a_measurement(monkeypatch: pytest.MonkeyPatch, artifact: Path):
    answers = iter([LostError("the cable"), ANSWER])

    def sometimes(*_: Any, **__: Any) -> Iterator[dict[str, Any]]:
        answer = next(answers)
        if isinstance(answer, LostError):
            raise answer
        yield answer

    monkeypatch.setattr(Remote, "run", sometimes)
    (measured,) = profile([str(artifact)], rounds=2, budget_s=1, out=artifact.parent.parent).measurements
    assert ("1 round lost: the cable",) == measured.notes


@pytest.mark.target("ort")
@pytest.mark.parametrize(("rounds", "cold"), [(3, [True, True, False]), (1, [False])])
def test_the_first_round_that_is_measured_starts_cold(
    monkeypatch: pytest.MonkeyPatch, artifact: Path, rounds: int, cold: list[bool]
):
    jobs: list[Any] = []

    def run(_: Remote, __: str, job: Any, **___: Any) -> Iterator[dict[str, Any]]:
        jobs.append(job)
        if len(jobs) == 1 and rounds > 1:
            raise LostError("the cable")
        yield ANSWER

    monkeypatch.setattr(Remote, "run", run)
    profile([str(artifact)], rounds=rounds, budget_s=1, out=artifact.parent.parent)
    assert cold == [job["cold_start"] for job in jobs]


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"event": "round"},
        {**ANSWER, "round": 5},
        {**ANSWER, "round": {**ROUND, "samples_ns": "many"}},
        {**ANSWER, "round": {**ROUND, "samples_ns": [1, 2.5]}},
        {**ANSWER, "round": {**ROUND, "samples_ns": [10**18]}},
        {**ANSWER, "round": {**ROUND, "samples_ns": []}},
        {**ANSWER, "round": {**ROUND, "format": 99}},
        {**ANSWER, "after": 5},
        {**ANSWER, "before": {"temperature_c": "hot"}},
        {**ANSWER, "agent_s": "long"},
        {**ANSWER, "batch": "1"},
        {**ANSWER, "notes": "none"},
        {**ANSWER, "more": 1},
    ],
)
@pytest.mark.target("ort")
def test_a_malformed_answer_loses_its_round_only(monkeypatch: pytest.MonkeyPatch, artifact: Path, answer: Any):
    answers = iter([answer, ANSWER])
    monkeypatch.setattr(Remote, "run", lambda *_, **__: iter([next(answers)]))
    home = artifact.parent.parent
    result = profile([str(artifact)], rounds=2, budget_s=1, out=home)
    assert len(list(Store(home))) == len(result.measurements)
    assert [5] == [cell.exit_code for cell in result.cells]
    assert "answer of 'local'" in result.cells[0].reason


def test_an_agent_answers_once():
    assert ANSWER == single([ANSWER])
    for events in ([], [ANSWER, ANSWER]):
        with pytest.raises(MeasurementError, match=r"without an answer|more than once"):
            single(events)
    assert 1 == RoundAnswer.of(ANSWER, "here").batch


@pytest.mark.parametrize(
    "wrong", [{"batch": 0}, {"batch": -5}, {"batch": 10**18}, {"agent_s": -1.0}, {"agent_s": float("nan")}]
)
def test_an_answer_with_an_impossible_number_is_refused(wrong: dict[str, Any]):
    with pytest.raises(DataError):
        RoundAnswer.of({**ANSWER, **wrong}, "here")


class _Here:
    """A pool of one unit that answers at once."""

    def __init__(self, answer: dict[str, Any]) -> None:
        self.answer, self.started = answer, 0

    def units(self) -> dict[str, str]:
        return {"unit": "orin"}

    def start(self, job: LabJob, unit: str, store: str | None) -> None:
        self.started += 1

    def finished(self, timeout_s: float) -> list[tuple[str, dict[str, Any]]]:
        return [("unit", self.answer)]

    def abandon(self, unit: str) -> None: ...

    def close(self) -> None: ...


@pytest.mark.parametrize("stored", [{"run": "r", "rounds": 0}, {"rounds": 2}, [], {"run": "r", "rounds": 2}])
def test_a_lab_runs_a_job_again_that_stored_no_round(tmp_path: Path, stored: Any):
    job = LabJob("orin", "effbench.lab.measure:measure")
    Results(tmp_path).add(job.key, stored)
    pool = _Here({"status": "ok", "result": {"run": "r", "rounds": 2}})
    (outcome,) = engine.JobEngine(pool, str(tmp_path), lambda _: None, usable=measure.has_rounds).run([job])
    assert ({"run": "r", "rounds": 2}, "ok") == (outcome.result, outcome.status)
    assert (stored != {"run": "r", "rounds": 2}) == pool.started


def test_a_damaged_result_of_a_lab_runs_again(tmp_path: Path):
    job = LabJob("orin", "effbench.lab.measure:measure")
    (tmp_path / f"{job.key}.json").write_text("{")
    pool = _Here({"status": "ok", "result": {"run": "r", "rounds": 2}})
    (outcome,) = engine.JobEngine(pool, str(tmp_path), lambda _: None, usable=measure.has_rounds).run([job])
    assert 1 == pool.started
    assert "ok" == outcome.status
