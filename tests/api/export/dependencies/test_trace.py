"""Each kind of change that a factory can depend on is seen by the record of its build, and no other change is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import dependency_kinds
import pytest
from dependency_kinds import Kind, Project
from places import SUPPORT

from effbench.api.export.dependencies.record import ABSENT, Dependencies, Places, observed

KINDS = [kind for kind in dependency_kinds.kinds() if not kind.torch]


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, Dependencies]:
    """Return a project, and what a fresh process recorded of its factory."""
    project = dependency_kinds.write_project(tmp_path_factory.mktemp("home") / "project", torch=False)
    environment = project.variables(os.environ)
    command = [sys.executable, str(SUPPORT / "dependency_kinds.py"), str(project.root)]
    result = subprocess.run(command, cwd=project.root, env=environment, capture_output=True, text=True, check=False)
    assert 0 == result.returncode, result.stderr
    return project, observed(json.loads(result.stdout.splitlines()[-1]), environment)


@pytest.fixture
def project(traced: tuple[Project, Dependencies], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """Give the project, and put it back as it was."""
    original, _ = traced
    folder = original.root.parent
    copy = shutil.copytree(folder, tmp_path / "copy")
    monkeypatch.syspath_prepend(str(original.site))
    yield deepcopy(original)
    shutil.rmtree(folder)
    shutil.copytree(copy, folder)


def changes(project: Project, dependencies: Dependencies) -> list[str]:
    return list(dependencies.changes(Places(project.root, project.root), project.variables(os.environ)))


def test_the_record_names_what_the_factory_used_and_nothing_installed(traced: tuple[Project, Dependencies]):
    _, dependencies = traced
    assert {"KIND_DEPTH", "KIND_OPTIONAL", "KIND_FILE"} <= set(dependencies.variables)
    assert {"numpy", "thirdparty"} <= set(dependencies.packages)
    assert ABSENT == dependencies.files["project:later.json"]
    outside = [name for name in dependencies.files if name.startswith("/") and "elsewhere" not in name]
    assert ["data.txt", "dependency_kinds.py"] == sorted(Path(name).name for name in outside)
    assert {"project:parts"} == set(dependencies.folders)


def test_secrets_are_not_kept(traced: tuple[Project, Dependencies]):
    _, dependencies = traced
    assert "named.raw" not in dependencies.variables.values()
    assert all(len(value) == 64 or value == ABSENT for value in dependencies.variables.values())


def test_an_unchanged_project_has_no_changes(project: Project, traced: tuple[Project, Dependencies]):
    assert [] == changes(project, traced[1])


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_change_is_seen(project: Project, traced: tuple[Project, Dependencies], kind: Kind):
    kind.change(project)
    assert 1 <= len(changes(project, traced[1])) <= 2


@pytest.mark.parametrize("name", dependency_kinds.unrelated())
def test_an_unrelated_change_is_not(project: Project, traced: tuple[Project, Dependencies], name: str):
    dependency_kinds.unrelated()[name](project)
    assert [] == changes(project, traced[1])


def test_a_record_holds_in_another_checkout(traced: tuple[Project, Dependencies], tmp_path: Path):
    """The files of the project are named from its root: a gate builds one project in two folders."""
    project, dependencies = traced
    other = tmp_path / "other"
    other.mkdir()
    for path in project.root.rglob("*"):
        target = other / path.relative_to(project.root)
        target.mkdir(exist_ok=True) if path.is_dir() else target.write_bytes(path.read_bytes())
    files = Dependencies(files=dependencies.files, folders=dependencies.folders)
    assert [] == list(files.changes(Places(other, other), {}))
    (other / "sibling.py").write_text("VALUE = 2\n")
    assert [f"{other / 'sibling.py'} changed"] == list(files.changes(Places(other, other), {}))


def test_from_another_folder_only_relative_names_are_other_files(traced: tuple[Project, Dependencies], tmp_path: Path):
    project, dependencies = traced
    changed = [*Dependencies(files=dependencies.files).changes(Places(project.root, tmp_path), {})]
    assert {f"{tmp_path / name} is missing" for name in ("cfg.json", "named.raw")} == set(changed)
