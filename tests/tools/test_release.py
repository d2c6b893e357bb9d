"""A release: what is refused, how version and changelog are edited, and what a run leaves in a repository."""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest
from places import ROOT

import release
from release import ReleaseError, Version

DAY = date(2026, 12, 1)
CHANGELOG = """# Changelog

## [Unreleased]

### Added

- A line.

## [0.1.0] - 2026-11-01

- The first release.
"""


@pytest.mark.parametrize("text", ["0.2.0", "1.10.0", "0.2.0rc1"])
def test_a_version_is_read(text: str):
    assert text == str(release.parse_version(text))


@pytest.mark.parametrize(
    "text", ["", "0.2", "v0.2.0", "0.2.0.0", "0.02.0", "0.2.0a1", "0.2.0.dev1", "0.2.0+local", "next"]
)
def test_another_form_of_version_is_refused(text: str):
    with pytest.raises(ReleaseError, match=r"0\.2\.0 or 0\.2\.0rc1"):
        release.parse_version(text)


def test_the_version_of_the_package_is_edited_in_its_one_line():
    source = (ROOT / release.VERSION_FILE).read_text()
    edited = release.with_version(source, Version("7.8.9"))
    assert Version("7.8.9") == release.current_version(edited)
    assert source == release.with_version(edited, release.current_version(source))


def test_a_package_without_a_version_is_an_error():
    with pytest.raises(ReleaseError, match="__version__"):
        release.current_version("version = 1\n")


def test_the_unreleased_section_moves_under_the_version_and_date():
    expected = CHANGELOG.replace("## [Unreleased]\n", "## [Unreleased]\n\n## [0.2.0] - 2026-12-01\n")
    edited = release.with_release(CHANGELOG, Version("0.2.0"), DAY)
    assert expected == edited
    assert "### Added\n\n- A line." == release.section(edited, "0.2.0")
    assert "" == release.section(edited, "Unreleased")
    assert "- The first release." == release.section(edited, "0.1.0")


@pytest.mark.parametrize(
    ("changelog", "version", "message"),
    [
        (CHANGELOG.replace("Unreleased", "0.0.9"), "0.2.0", "has no section"),
        (CHANGELOG, "0.1.0", "has a section for 0.1.0 already"),
        (CHANGELOG.replace("### Added\n\n- A line.\n", ""), "0.2.0", "nothing to release"),
    ],
)
def test_a_changelog_that_cannot_be_released_is_an_error(changelog: str, version: str, message: str):
    with pytest.raises(ReleaseError, match=message):
        release.with_release(changelog, Version(version), DAY)


def test_the_changelog_of_the_repository_can_be_released():
    changelog = (ROOT / release.CHANGELOG).read_text()
    edited = release.with_release(changelog, Version("999.0.0"), DAY)
    assert release.section(changelog, "Unreleased") == release.section(edited, "999.0.0")


def test_a_deprecation_is_overdue_from_its_version_of_removal_on():
    source = 'warn("`old` is deprecated since 0.2.0 and will be removed in 0.4.0; use `new`.")'
    assert [] == release.overdue(source, Version("0.3.9"))
    assert 1 == len(release.overdue(source, Version("0.4.0")))
    assert 1 == len(release.overdue(source, Version("1.0.0")))


def test_the_example_of_a_deprecation_in_contributing_is_recognized():
    assert release.overdue((ROOT / "CONTRIBUTING.md").read_text(), Version("999.0.0"))


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with what a release edits; its builds are files of the right names."""
    root = tmp_path / "repository"
    (root / release.VERSION_FILE).parent.mkdir(parents=True)
    (root / release.VERSION_FILE).write_text('"""A package."""\n\n__version__ = "0.1.0"\n')
    (root / release.CHANGELOG).write_text(CHANGELOG)
    (root / ".gitignore").write_text("dist/\n")
    git(root, "init", "--quiet", "--initial-branch=main")
    git(root, "config", "user.name", "Test")
    git(root, "config", "user.email", "test@example.invalid")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "--message=First")

    def built(*command: str, root: Path) -> None:
        if "build" in command:
            version = release.current_version((Path(command[-1]) / release.VERSION_FILE).read_text())
            out = Path(command[command.index("--outdir") + 1])
            out.mkdir()
            for name in (f"effbench-{version}.tar.gz", f"effbench-{version}-py3-none-any.whl"):
                (out / name).write_text(name)

    monkeypatch.setattr(release, "run", built)
    return root


def git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True).stdout.strip()


def test_a_release_is_built_committed_and_tagged(repository: Path, capsys: pytest.CaptureFixture[str]):
    assert 0 == release.main(["0.2.0"], repository)
    assert "Release 0.2.0" == git(repository, "log", "-1", "--format=%s")
    assert "" == git(repository, "status", "--porcelain")
    assert git(repository, "rev-parse", "HEAD") == git(repository, "rev-parse", "v0.2.0^{commit}")
    assert Version("0.2.0") == release.current_version((repository / release.VERSION_FILE).read_text())
    assert f"## [0.2.0] - {date.today().isoformat()}" in (repository / release.CHANGELOG).read_text()
    names = {path.name for path in (repository / "dist").iterdir()}
    assert {"effbench-0.2.0.tar.gz", "effbench-0.2.0-py3-none-any.whl"} == names
    assert "git push origin main v0.2.0" in capsys.readouterr().out
    git(repository, "tag", "--delete", "v0.2.0")
    git(repository, "reset", "--keep", "HEAD~1")
    assert CHANGELOG == (repository / release.CHANGELOG).read_text()


def test_a_dry_run_changes_nothing(repository: Path, capsys: pytest.CaptureFixture[str]):
    head = git(repository, "rev-parse", "HEAD")
    assert 0 == release.main(["0.2.0", "--dry-run"], repository)
    assert (head, "", "") == tuple(
        git(repository, *command) for command in (("rev-parse", "HEAD"), ("status", "--porcelain"), ("tag",))
    )
    assert not (repository / "dist").exists()
    output = capsys.readouterr().out
    assert "- A line." in output
    assert "effbench-0.2.0.tar.gz" in output


def test_a_step_that_fails_leaves_the_checkout_as_it_was(repository: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(*command: str, root: Path) -> None:
        raise ReleaseError("no disk")

    monkeypatch.setattr(release, "run", fail)
    assert 2 == release.main(["0.2.0"], repository)
    assert ("", "") == (git(repository, "status", "--porcelain"), git(repository, "tag"))


@pytest.mark.parametrize(
    ("prepare", "version", "message"),
    [
        (lambda root: (root / "new.txt").write_text(""), "0.2.0", r"has changes.*\n.*new\.txt"),
        (
            lambda root: git(root, "switch", "--quiet", "--create", "other"),
            "0.2.0",
            "made from 'main'; this is 'other'",
        ),
        (lambda root: git(root, "tag", "v0.2.0"), "0.2.0", "tag v0.2.0 exists"),
        (lambda root: None, "0.1.0", "not greater than the present version, 0.1.0"),
        (lambda root: None, "0.1.0rc1", "not greater"),
    ],
    ids=["changes", "branch", "tag", "same", "older"],
)
def test_a_release_is_refused(repository: Path, capsys: pytest.CaptureFixture[str], prepare, version, message):
    prepare(repository)
    assert 2 == release.main([version], repository)
    assert re.search(message, capsys.readouterr().err)


def test_an_overdue_deprecation_refuses_the_release(repository: Path, capsys: pytest.CaptureFixture[str]):
    source = (repository / release.VERSION_FILE).with_name("old.py")
    source.write_text("# deprecated since 0.1.0 and will be removed in 0.2.0; use new\n")
    git(repository, "add", ".")
    git(repository, "commit", "--quiet", "--message=Old")
    assert 2 == release.main(["0.2.0"], repository)
    assert "src/effbench/old.py: remove what is overdue in 0.2.0" in capsys.readouterr().err


def test_docs_are_built_for_the_version_where_there_is_such_a_target(repository: Path, monkeypatch: pytest.MonkeyPatch):
    commands = []
    monkeypatch.setattr(release, "run", lambda *command, root: commands.append(command))
    assert not release.build_docs(repository, Version("0.2.0"))
    (repository / "Makefile").write_text("test:\n\ndocs: test\n\ttrue\n")
    assert release.build_docs(repository, Version("0.2.0"))
    assert [("make", "docs", "SITE=site/0.2.0")] == commands


def test_the_output_of_a_step_is_shown_where_it_fails(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    release.run(sys.executable, "-c", "print('fine')", root=tmp_path)
    assert "fine" not in capfd.readouterr().out.splitlines()
    with pytest.raises(ReleaseError, match="ended with 3"):
        release.run(sys.executable, "-c", "print('bad'); raise SystemExit(3)", root=tmp_path)
    assert "bad" in capfd.readouterr().out.splitlines()
