"""A build is skipped only if its dependencies are unchanged, and a graph of equal content is kept once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from effbench.api.export.dependencies.builds import MOST_BUILDS, Builds, files_of
from effbench.api.export.dependencies.record import Places, file_state
from effbench.api.export.source import option_files, request_of, resolve
from effbench.deploy.artifact import bundle
from effbench.schema import Artifact, InputShapes, Preprocessing, Subject, Weights


class Project:
    """A project of one file whose graph is the file's first line, as a child process would build it."""

    def __init__(self, root: Path) -> None:
        self.root, self.built = root, 0
        self.file = root / "net.py"
        self.preprocessing = Preprocessing()

    def builds(self, home: Path) -> Builds:
        return Builds(home, "net-64-b1-fp32-onnx", {"model": "net:net"}, Places(self.root, self.root))

    def make(self, folder: Path) -> list[dict[str, Any]]:
        self.built += 1

        def write(draft: Path) -> Artifact:
            (draft / "model.onnx").write_text(self.file.read_text().splitlines()[0])
            subject = Subject("net", "user", Weights(), InputShapes((64, 64)), 1, "onnx", "fp32")
            fields = {"folder": draft, "key": "request", "digest": "", "subject": subject, "inputs": (), "outputs": ()}
            return Artifact(**fields, files={}, entry="model.onnx", preprocessing=self.preprocessing)  # type: ignore[arg-type]

        bundle.write(folder, write)
        files = {"project:net.py": file_state(self.file)}
        traced = {"files": files, "folders": {}, "variables": ["KIND"], "packages": {}}
        return [{"event": "result", "dependencies": traced}]

    def graph(self, home: Path) -> Artifact:
        """Return the graph, built if that is due."""
        builds = self.builds(home)
        return builds.find()[0] or builds.add(self.make)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.delenv("KIND", raising=False)
    (tmp_path / "tree").mkdir()
    project = Project(tmp_path / "tree")
    project.file.write_text("depth 4\n")
    return project


def test_an_unchanged_project_is_not_built_again(project: Project, tmp_path: Path):
    graph = project.graph(tmp_path)
    assert graph.digest == project.graph(tmp_path).digest
    project.file.touch()
    project.graph(tmp_path)
    assert 1 == project.built


def test_a_comment_builds_the_same_graph_under_the_same_key(project: Project, tmp_path: Path):
    before = project.graph(tmp_path)
    project.file.write_text("depth 4\n# a comment\n")
    after = project.graph(tmp_path)
    assert 2 == project.built
    assert (before.key, before.folder) == (after.key, after.folder)
    assert 1 == len([*bundle.artifacts(tmp_path)])


def test_another_network_has_another_key_and_both_states_are_remembered(project: Project, tmp_path: Path):
    shallow = project.graph(tmp_path)
    project.file.write_text("depth 6\n")
    graph, changes = project.builds(tmp_path).find()
    assert (None, (f"{project.file} changed",)) == (graph, changes)
    deep = project.graph(tmp_path)
    assert shallow.key != deep.key
    project.file.write_text("depth 4\n")
    assert shallow.key == project.graph(tmp_path).key
    assert 2 == project.built


def test_a_variable_is_compared_with_the_environment_of_the_export(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    project.graph(tmp_path)
    monkeypatch.setenv("KIND", "secret")
    assert ("the variable KIND changed",) == project.builds(tmp_path).find()[1]
    project.graph(tmp_path)
    project.graph(tmp_path)
    assert 2 == project.built
    assert not [path for path in (tmp_path / "builds").glob("*/*") if "secret" in path.read_text()]


def test_equal_files_with_another_preprocessing_are_another_graph(project: Project, tmp_path: Path):
    first = project.graph(tmp_path)
    project.preprocessing = replace(Preprocessing(), channel_order="BGR")
    project.file.write_text("depth 4\n# another declaration\n")
    second = project.graph(tmp_path)
    assert first.digest == second.digest
    assert first.key != second.key


def test_a_damaged_graph_or_record_is_built_again(project: Project, tmp_path: Path):
    graph = project.graph(tmp_path)
    (record,) = (tmp_path / "builds").glob("*/*.json")
    record.write_text(record.read_text()[:40])
    assert graph.key == project.graph(tmp_path).key
    (graph.folder / bundle.MANIFEST).unlink()
    assert graph.key == project.graph(tmp_path).key
    assert 3 == project.built


def test_old_records_are_removed(project: Project, tmp_path: Path):
    for depth in range(MOST_BUILDS + 3):
        project.file.write_text(f"depth {depth}\n")
        project.builds(tmp_path).add(project.make)
    assert MOST_BUILDS == len([*(tmp_path / "builds").glob("*/*.json")])


def test_the_files_of_a_graph_are_known_whoever_built_it(project: Project, tmp_path: Path):
    assert {"project:net.py"} == files_of(project.graph(tmp_path))


def test_a_build_that_fails_leaves_nothing(project: Project, tmp_path: Path):
    def fail(folder: Path) -> list[dict[str, Any]]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        project.builds(tmp_path).add(fail)
    assert [] == [path for path in tmp_path.rglob("*") if path.is_file() and path != project.file]
    assert [] == [*(tmp_path / "artifacts").iterdir()]


def test_external_data_of_any_name_is_part_of_the_request(tmp_path: Path):
    import onnx
    from small_graphs import chain

    path, data = tmp_path / "net.onnx", tmp_path / "tensors.blob"
    onnx.save(chain(2), path, save_as_external_data=True, location=data.name, size_threshold=0)
    (tmp_path / "net.onnx.data").write_text("a file that the graph does not name")
    before = request_of(resolve(str(path)))
    assert [data.name] == list(before["data"])
    data.write_bytes(data.read_bytes()[:-1] + b"\1")
    assert before != request_of(resolve(str(path)))


def test_external_data_outside_the_folder_is_not_read(tmp_path: Path):
    import onnx
    from small_graphs import chain

    (tmp_path / "model").mkdir()
    path = tmp_path / "model" / "net.onnx"
    onnx.save(chain(1), path, save_as_external_data=True, location="blob", size_threshold=0)
    path.write_bytes(path.read_bytes().replace(b"blob", b"../s"))
    (tmp_path / "s").write_text("secret")
    assert {"../s": "refused"} == request_of(resolve(str(path)))["data"]


def test_a_file_that_an_option_names_counts_with_its_content(tmp_path: Path):
    labels = tmp_path / "labels.txt"
    labels.write_text("cat\n")
    options = {"labels": str(labels), "device": "CPU", "folder": str(tmp_path), "long": "x" * 5000}
    before = option_files(options)
    assert ["labels"] == list(before)
    labels.write_text("dog\n")
    assert before != option_files(options)
