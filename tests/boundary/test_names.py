"""Names and paths from outside stay inside, and mean themselves in a shell."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from effbench.boundary.names import cache_file, check_name, check_relative, inside, printable
from effbench.errors import DataError


@pytest.mark.parametrize("name", ["raspberry-pi-5", "toy.net-64-b1-fp32-ort-0123", "_x", "größe", "a+b"])
def test_a_name_is_one_word_of_a_shell_and_one_component_of_a_path(name: str) -> None:
    assert name == check_name(name, "a name")
    assert (name, name) == (Path(name).name, shlex.split(name)[0])


BAD = (
    "",
    ".",
    "..",
    "../up",
    "/etc",
    "a/b",
    "a b",
    "-rf",
    "a;b",
    "$(x)",
    "`x`",
    'a"""b',
    "a'b",
    "a\nb",
    "a\0b",
    "~",
    "a" * 999,
)


@pytest.mark.parametrize("name", [*BAD, 3, None])
def test_anything_else_is_refused(name: str) -> None:
    with pytest.raises(DataError, match="cannot be a name"):
        check_name(name, "a name")


@pytest.mark.parametrize(
    "path", ["", "/etc/passwd", "../x", "a/../../x", "a//b", "./a", "a/", "a\\..\\b", "a\nb", "a\0", None]
)
def test_a_path_that_could_lead_out_is_refused(path: str) -> None:
    with pytest.raises(DataError, match="cannot be a file"):
        check_relative(path, "a file")


def test_links_are_followed_before_a_path_counts_as_inside(tmp_path: Path) -> None:
    (tmp_path / "away").mkdir()
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path / "away")
    assert folder / "sub" / "x" == inside(folder, "sub/x")
    with pytest.raises(DataError, match="leads out"):
        inside(folder, "link/x")


def test_control_characters_are_written_out() -> None:
    attack = "\x1b]0;title\x07name\x1b[2J\r\x9b31m\u202eevil"
    shown = printable(f"a\tb\n{attack}")
    assert shown.startswith("a\tb\n\\x1b]0;title\\x07name")
    assert not {character for character in shown if not character.isprintable()} - {"\t", "\n"}


def test_a_cache_is_a_name_below_the_folder_of_effbench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EFFBENCH_CACHE", str(tmp_path))
    assert tmp_path / "timing_cache" / "mine" == cache_file("timing_cache", "mine")
    with pytest.raises(DataError, match="timing_cache"):
        cache_file("timing_cache", "/home/user/.bashrc")
