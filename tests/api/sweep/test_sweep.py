"""A matrix is done once: graphs, cells, and what a kill left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from conftest import Run as Shell
from effbench.api.export import exporter
from effbench.api.export.source import code_hashes
from effbench.api.sweep import jobs
from effbench.api.sweep.jobs import Journal
from effbench.api.sweep.run import Run, graphs, split
from effbench.codec import file_sha256, to_json
from effbench.deploy.precision import quantize
from effbench.errors import UsageError
from effbench.schema import CALIBRATED, Cell, InputShapes, Proof, Status

PLAN = jobs.plan(["iformer_t"], ["ort", "ov"], [64, 96], ["fp32", "fp16"])

PX = InputShapes((64, 64))


def done(job: dict[str, Any], **more: Any) -> dict[str, Any]:
    cell = {"status": Status.FAILED, "reason": "r", **more}
    if cell["status"] == "ok":
        cell |= {"status": Status.OK, "proved_by": Proof.RUNTIME}
    return to_json(Cell(job["model"], PX, job["precision"], job["target"], **cell))


def test_a_job_is_plain_json_and_known_by_what_it_measures():
    assert PLAN == json.loads(json.dumps(PLAN))
    assert 8 == len({jobs.identity(job) for job in PLAN})
    elsewhere = {**PLAN[0], "out": "other", "time_limit_s": 1.0, "memory_limit_bytes": 5}
    assert jobs.identity(PLAN[0]) == jobs.identity(elsewhere)


@pytest.mark.parametrize("change", [{"seed": 1}, {"batch": 2}, {"options": {"a": "b"}}, {"allow_fallback": True}])
def test_what_changes_the_result_is_another_job(change: dict[str, Any]):
    assert jobs.identity(PLAN[0]) != jobs.identity({**PLAN[0], **change})


@pytest.mark.parametrize(("table", "precision"), [("WRITERS", "int8"), ("SEARCHES", "fp16")])
def test_the_code_behind_a_precision_counts_for_its_cells_alone(
    table: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed, other = ({**PLAN[0], "precision": name} for name in (precision, "fp32"))
    before = jobs.identity(changed), jobs.identity(other)
    monkeypatch.setitem(getattr(jobs, table), precision, ("effbench.codec",))
    jobs._code.cache_clear()
    assert jobs.identity(changed) != before[0]
    assert jobs.identity(other) == before[1]
    monkeypatch.undo()
    jobs._code.cache_clear()


@pytest.mark.parametrize("precision", CALIBRATED)
def test_the_quantizer_is_part_of_what_a_graph_is_known_by(precision: str) -> None:
    assert file_sha256(Path(quantize.__file__)) in code_hashes(*exporter.WRITERS[precision])


def test_one_stage_may_take_all_the_time_of_its_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def export(*_: object, **how: Any) -> list[Cell]:
        asked.update(how)
        return [Cell("toy", PX, "fp32", "ort", Status.OK, proved_by=Proof.RUNTIME)]

    monkeypatch.setattr(jobs, "export", export)
    (job,) = jobs.plan(["iformer_t"], ["ort"], [64], ["fp32"], allow_fallback=False, time_limit_s=1800.0)
    jobs.made(job)
    assert asked["time_limit_s"] == asked["cell_limit_s"] == 1800.0


def test_one_cell_of_a_graph_goes_ahead_and_everything_ends(tmp_path: Path):
    order: list[dict[str, Any]] = []
    run = Run(PLAN, Journal(tmp_path), lambda text: None, len(PLAN))

    def job(one: dict[str, Any]) -> dict[str, Any]:
        assert [other for other in order if graphs(other)[0] == graphs(one)[0]] or one["precision"] == "fp32"
        order.append(one)
        return done(one)

    assert False is run.go(3, job)
    assert sorted(map(str, PLAN)) == sorted(map(str, order))
    assert len(PLAN) == len(Journal(tmp_path).read())


def test_a_failed_graph_is_tried_once(tmp_path: Path):
    record = tmp_path / "failures" / "g-graph"
    record.mkdir(parents=True)
    (record / "failure.json").write_text(json.dumps({"job": {"op": "graph"}}))
    tried: list[dict[str, Any]] = []
    run = Run(PLAN, Journal(tmp_path), lambda text: None, len(PLAN))

    def job(one: dict[str, Any]) -> dict[str, Any]:
        tried.append(one)
        return done(one, record=str(record))

    run.go(1, job)
    assert ["64", "96"] == [one["resolution"] for one in tried]
    assert {"r"} == {cell.reason for cell in run.ended.values()}
    assert 8 == len(run.ended)


def test_what_is_recorded_is_not_done_again_and_a_torn_line_is(tmp_path: Path):
    journal = Journal(tmp_path)
    for one in PLAN[:2]:
        journal.append(one, done(one))
    with journal.path.open("a") as stream:
        stream.write('{"id": "cut sh')
    found, waiting = split(PLAN, journal.read())
    assert (2, PLAN[2:]) == (len(found), waiting)
    assert PLAN == split(PLAN, journal.read(), retry=True)[1]


def test_images_go_to_the_precisions_that_are_calibrated():
    planned = jobs.plan(["iformer_t"], ["ort"], [64], ["fp32", "fp16", "int8"], images="synthetic")
    assert [None, None, "synthetic"] == [job["calibration"] for job in planned]


def test_an_unknown_name_is_refused_before_any_work():
    with pytest.raises(UsageError, match="iformer_t"):
        jobs.plan(["iformer_x"], ["ort"], [64], [None])


@pytest.mark.slow
@pytest.mark.target("torch")
@pytest.mark.target("ort")
@pytest.mark.target("ov")
@pytest.mark.xdist_group("export")
def test_a_sweep_ends_whole_and_resumes(run: Shell):
    line = ["sweep", "toy:net", "toy:broken", "--res", "64", "-t", "ort", "-t", "ov", "--precision", "fp32"]
    first = run(*line, "--no-profile", "--json")
    assert 5 == first.returncode, first.stderr
    found = {(cell["model"], cell["target"]): cell for cell in json.loads(first.stdout)["data"]["cells"]}
    assert ["failed", "failed", "ok", "ok"] == sorted(cell["status"] for cell in found.values())
    assert "forward pass" in found["toy.broken", "ov"]["reason"]
    again = run(*line, "--no-profile", "--json", EFFBENCH_PROGRESS="1")
    assert "4 of them recorded already" in again.stderr
    assert first.stdout == again.stdout
