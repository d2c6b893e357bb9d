"""Two commands at once on one folder: nothing is lost, doubled, half written or refused; each test holds one open."""

from __future__ import annotations

import json
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from meanwhile import Meanwhile

from effbench import drafts, store
from effbench.api.compare import noise
from effbench.api.export import failures
from effbench.api.export.dependencies.builds import Builds
from effbench.api.export.dependencies.record import Places
from effbench.api.profile import references
from effbench.deploy.artifact import bundle
from effbench.errors import DataError, MeasurementError
from effbench.reports import figures
from effbench.schema import Artifact, InputShapes, InputSpec, Measurement, Round, Samples, Subject, Weights
from effbench.store import Store

SUBJECT = Subject("net", "user", Weights(), InputShapes((64, 64)), 1, "ort", "fp32")


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Meanwhile:
    return Meanwhile(monkeypatch)


def measurement(samples: tuple[int, ...] = (1000, 1001), run: str = "run") -> Measurement:
    item = Round(samples, 3, True, 1.0, 2.0, 1 << 20)
    return Measurement("d" * 64, SUBJECT, "local", {}, Samples((item,)), {}, {}, "2026-01-01", run)


def make(draft: Path, content: bytes = b"graph") -> Artifact:
    (draft / "model.onnx").write_bytes(content)
    spec = InputSpec("image", "float32", (1, 3, 64, 64))
    return Artifact(draft, "key", "", SUBJECT, (spec,), (), {}, "model.onnx")


def test_the_same_import_twice_is_stored_once(tmp_path: Path, meanwhile: Meanwhile):
    rounds = [measurement(), measurement((2000, 2001))]
    meanwhile.at(store, "records", lambda: Store(tmp_path).append_missing(rounds))
    Store(tmp_path).append_missing(rounds)
    meanwhile.finish()
    (one,) = Store(tmp_path)
    assert [(1000, 1001), (2000, 2001)] == [item.samples_ns for item in one.samples.rounds]


def test_an_import_that_a_kill_cut_short_is_completed(tmp_path: Path):
    rounds = [measurement(), measurement((2000, 2001)), measurement((3000, 3001))]
    Store(tmp_path).append(rounds[0])
    for _ in range(2):
        Store(tmp_path).append_missing(rounds)
    (one,) = Store(tmp_path)
    assert [item.samples for item in rounds] == [replace(one.samples, rounds=(item,)) for item in one.samples.rounds]


def test_two_annotations_are_both_there(tmp_path: Path, meanwhile: Meanwhile):
    artifact = bundle.write(tmp_path / "artifacts" / "net", make)
    meanwhile.at(bundle, "save_manifest", lambda: bundle.annotate(artifact, placement={"b": 1}, options={"x": "1"}))
    bundle.annotate(artifact, placement={"a": 1}, versions={"y": "2"})
    meanwhile.finish()
    after = bundle.load(artifact.folder)
    assert ({"a": 1, "b": 1}, {"x": "1"}, {"y": "2"}) == (after.placement, after.options, after.versions)


def test_a_result_is_not_written_into_an_artifact_of_other_files(tmp_path: Path):
    artifact = bundle.write(tmp_path / "artifacts" / "net", make)
    shutil.rmtree(artifact.folder)
    other = bundle.write(artifact.folder, lambda draft: make(draft, b"another"))
    with pytest.raises(DataError, match="another process has replaced it"):
        bundle.annotate(artifact, placement={"a": 1})
    assert other == bundle.load(artifact.folder)


def test_one_artifact_made_twice_is_one_and_the_first_stays(tmp_path: Path, meanwhile: Meanwhile):
    folder = tmp_path / "artifacts" / "net"
    first: list[Artifact] = []
    meanwhile.at(bundle, "save_manifest", lambda: first.append(bundle.write(folder, make)))
    second = bundle.write(folder, lambda draft: make(draft, b"by another thread of a converter"))
    meanwhile.finish()
    assert first == [second] == [bundle.load(folder)]
    assert [folder] == list(folder.parent.iterdir())


def test_a_damaged_artifact_is_replaced_by_two_at_once(tmp_path: Path, meanwhile: Meanwhile):
    folder = tmp_path / "artifacts" / "net"
    bundle.write(folder, make)
    (folder / "model.onnx").write_bytes(b"damaged")
    meanwhile.at(bundle, "find", lambda: bundle.write(folder, make))
    artifact = bundle.write(folder, make)
    meanwhile.finish()
    assert artifact == bundle.load(folder)
    assert [folder] == list(folder.parent.iterdir())


def test_artifacts_are_listed_while_one_is_removed(tmp_path: Path, meanwhile: Meanwhile):
    for name in "ab":
        bundle.write(tmp_path / "artifacts" / name, make)
    meanwhile.at(bundle, "load", lambda: shutil.rmtree(tmp_path / "artifacts" / "a"))
    assert ["b"] == [artifact.name for artifact in bundle.artifacts(tmp_path)]
    meanwhile.finish()


def test_a_record_of_a_build_that_another_export_removes_is_no_error(tmp_path: Path):
    builds = Builds(tmp_path, "net", {}, Places(tmp_path, tmp_path))
    builds._folder.mkdir(parents=True)
    (builds._folder / "gone.json").symlink_to(tmp_path / "nowhere")  # listed, and gone when it is looked at
    assert (None, ()) == builds.find()


def test_the_best_of_two_runs_at_once_are_both_kept(tmp_path: Path, meanwhile: Meanwhile):
    def run(device: str) -> None:
        references.with_best(tmp_path, device, "run", {}, {"reference_compute_us": 900.0})

    meanwhile.at(references, "write_atomically", lambda: run("b"))
    run("a")
    meanwhile.finish()
    assert 2 == len(json.loads((tmp_path / references.FILE).read_text()))


def test_the_noise_of_two_machines_at_once_is_kept(
    tmp_path: Path, meanwhile: Meanwhile, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(noise, "to_json", lambda entry: entry)  # what is stored does not matter here
    meanwhile.at(noise, "write_atomically", lambda: noise.save(tmp_path, "b"))  # type: ignore[arg-type]
    noise.save(tmp_path, "a")  # type: ignore[arg-type]
    meanwhile.finish()
    assert {"a", "b"} == set(json.loads((tmp_path / noise.FILE).read_text()))


def test_a_failure_recorded_twice_is_one_record(tmp_path: Path):
    errors = [MeasurementError("one"), MeasurementError("another")]

    def record(error: MeasurementError) -> None:
        failures.keep(tmp_path, "net", "effbench.api.export.worker", {"op": "convert"}, error)

    record(errors[0])
    # The other one is there again after this one has removed what was there.
    real = shutil.rmtree
    removals: list[Any] = []

    def removed(path: Any, *arguments: Any, **options: Any) -> None:
        real(path, *arguments, **options)
        if Path(path).name == "net" and not removals:
            removals.append(path)
            record(errors[0])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drafts.shutil, "rmtree", removed)
        record(errors[1])
    assert "another" == json.loads((tmp_path / "failures" / "net" / failures.RECORD).read_text())["message"]
    assert [None, None] == [error.hint for error in errors]
    assert ["net"] == [path.name for path in (tmp_path / "failures").iterdir()]


@pytest.mark.parametrize("suffix", sorted(figures.OPTIONS))
def test_a_figure_is_whole_while_another_is_drawn(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch):
    figure = pytest.importorskip("matplotlib.figure").Figure()
    path = tmp_path / f"plot{suffix}"
    figures.save(figure, path)
    whole = path.read_bytes()
    contents: list[bytes] = []
    real = figure.savefig

    def drawn(*arguments: Any, **options: Any) -> None:
        real(*arguments, **options)
        contents.append(path.read_bytes())

    monkeypatch.setattr(figure, "savefig", drawn)
    figure.text(0.5, 0.5, "more")
    figures.save(figure, path)
    assert [whole] == contents
    assert whole != path.read_bytes()


def test_a_held_folder_is_waited_for_and_not_for_ever(tmp_path: Path):
    locked, release = threading.Event(), threading.Event()

    def hold() -> None:
        with drafts.folder_lock(tmp_path, 5):
            locked.set()
            release.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    assert locked.wait(30)
    with pytest.raises(TimeoutError, match="another process has held it"), drafts.folder_lock(tmp_path, 0.05):
        pass
    release.set()
    thread.join(30)
    with drafts.folder_lock(tmp_path, 0):
        assert [] == list(tmp_path.iterdir())
