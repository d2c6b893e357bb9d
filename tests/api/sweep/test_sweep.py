"""A matrix is done once: graphs, cells, and what a kill left."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conftest import Run as Shell
from effbench.api.export import exporter
from effbench.api.export.dependencies.builds import Builds
from effbench.api.export.dependencies.record import Places, file_state
from effbench.api.export.source import code_hashes
from effbench.api.export.stage import EXPORT_WORKER
from effbench.api.sweep import jobs
from effbench.api.sweep.jobs import CellJob, Journal
from effbench.api.sweep.run import Run, graphs, split
from effbench.codec import file_sha256, from_json, to_json
from effbench.deploy.artifact import bundle
from effbench.deploy.precision import quantize
from effbench.errors import DataError, EffbenchError, UsageError
from effbench.schema import CALIBRATED, Artifact, Cell, InputShapes, Subject, Weights
from effbench.store import TornLineWarning

PLAN = jobs.plan(["iformer_t"], ["ort", "ov"], [64, 96], ["fp32", "fp16"])


def failed(job: CellJob, record: str = "") -> Cell:
    """Return the cell of a job that failed."""
    return replace(jobs.cell_of(job, EffbenchError("r")), record=record)


def test_a_job_is_plain_json_and_known_by_what_decides_its_result():
    assert [from_json(CellJob, json.loads(json.dumps(to_json(job))), "job") for job in PLAN] == PLAN
    assert 8 == len({jobs.identity(job) for job in PLAN})
    elsewhere = replace(PLAN[0], out="other", time_limit_s=1.0, memory_limit_bytes=5)
    assert jobs.identity(PLAN[0]) == jobs.identity(elsewhere)


@pytest.mark.parametrize("change", [{"seed": 1}, {"batch": 2}, {"options": {"a": "b"}}, {"allow_fallback": True}])
def test_what_changes_the_result_is_another_job(change: dict[str, Any]):
    assert jobs.identity(PLAN[0]) != jobs.identity(replace(PLAN[0], **change))


def test_a_job_with_an_unknown_field_is_refused():
    with pytest.raises(DataError, match="unknown field 'prescision' in CellJob"):
        jobs.run({**to_json(PLAN[0]), "prescision": "fp16"})


@pytest.mark.parametrize(("table", "precision"), [("WRITERS", "int8"), ("SEARCHES", "fp16")])
def test_the_code_behind_a_precision_counts_for_its_cells_alone(
    table: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed, other = (replace(PLAN[0], precision=name) for name in (precision, "fp32"))
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


def test_one_stage_may_take_all_the_time_of_its_cell() -> None:
    (job,) = jobs.plan(["iformer_t"], ["ort"], [64], ["fp32"], allow_fallback=False, time_limit_s=1800.0)
    assert 1800.0 == job.request().time_limit_s == job.request().cell_limit_s


def test_one_cell_of_a_graph_goes_first_and_everything_ends(tmp_path: Path):
    order: list[CellJob] = []
    run = Run(PLAN, Journal(tmp_path), lambda text: None, len(PLAN))

    def execute(job: CellJob) -> Cell:
        assert [other for other in order if graphs(other)[0] == graphs(job)[0]] or job.precision == "fp32"
        order.append(job)
        return failed(job)

    assert False is run.go(3, execute)
    assert sorted(map(str, PLAN)) == sorted(map(str, order))
    assert len(PLAN) == len(Journal(tmp_path).read())


def test_a_failed_graph_is_tried_once(tmp_path: Path):
    record = tmp_path / "failures" / "g-graph"
    record.mkdir(parents=True)
    (record / "failure.json").write_text(json.dumps({"module": EXPORT_WORKER, "job": {"op": "graph"}}))
    tried: list[CellJob] = []
    run = Run(PLAN, Journal(tmp_path), lambda text: None, len(PLAN))

    def execute(job: CellJob) -> Cell:
        tried.append(job)
        return failed(job, str(record))

    run.go(1, execute)
    assert ["64", "96"] == [job.resolution for job in tried]
    assert {"r"} == {cell.reason for cell in run.ended.values()}
    assert 8 == len(run.ended)


def test_recorded_cells_are_not_run_again_but_a_torn_line_is(tmp_path: Path):
    journal = Journal(tmp_path)
    for job in PLAN[:2]:
        journal.append(job, failed(job))
    with journal.path.open("a") as stream:
        stream.write('{"id": "cut sh')
    with pytest.warns(TornLineWarning, match=r"cells\.jsonl:3"):
        recorded = journal.read()
    cells, waiting = split(PLAN, recorded)
    assert (2, PLAN[2:]) == (len(cells), waiting)
    assert PLAN == split(PLAN, recorded, retry=True)[1]


def test_a_recorded_cell_runs_again_if_a_file_that_its_factory_reads_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kept_net.py").write_text("def net(): ...\n")
    (tmp_path / "cfg.json").write_text("1")
    planned = jobs.plan(["kept_net:net"], ["ort"], [64], ["fp32"], out=str(tmp_path))
    subject = Subject("kept_net.net", "user", Weights(), InputShapes((64, 64)), 1, "onnx", "fp32")

    def write(draft: Path, target: str, graph: str | None = None) -> Artifact:
        (draft / "model.onnx").write_text(target)
        own = replace(subject, target=target)
        return Artifact(draft, target, "", own, (), (), {}, "model.onnx", graph_digest=graph)

    def make(folder: Path) -> list[dict[str, object]]:
        bundle.write(folder, lambda draft: write(draft, "onnx"))
        files = {"cwd:cfg.json": file_state(tmp_path / "cfg.json")}
        return [{"dependencies": {"files": files, "folders": {}, "variables": [], "packages": {}}}]

    graph = Builds(tmp_path, "kept_net.net-64-b1-fp32-onnx", {}, Places(tmp_path, tmp_path)).add(make)
    artifact = bundle.write(tmp_path / "artifacts" / "ort", lambda draft: write(draft, "ort", graph.digest))
    recorded = {jobs.identity(planned[0]): Cell.of("kept_net.net", subject.shapes, "fp32", "ort", artifact)}
    assert [] == split(planned, recorded)[1]
    (tmp_path / "cfg.json").write_text("2")
    assert planned == split(planned, recorded)[1]


def test_images_go_to_the_precisions_that_are_calibrated():
    planned = jobs.plan(["iformer_t"], ["ort"], [64], ["fp32", "fp16", "int8"], images="synthetic")
    assert [None, None, "synthetic"] == [job.images for job in planned]


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
    by_cell = {(cell["model"], cell["target"]): cell for cell in json.loads(first.stdout)["data"]["cells"]}
    assert ["failed", "failed", "ok", "ok"] == sorted(cell["status"] for cell in by_cell.values())
    assert "forward pass" in by_cell["toy.broken", "ov"]["reason"]
    again = run(*line, "--no-profile", "--json", EFFBENCH_PROGRESS="1")
    assert "4 of them recorded already" in again.stderr
    assert first.stdout == again.stdout
