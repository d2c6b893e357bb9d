"""The comparison with golden files: a changed text never passes, whether or not the update mode writes it."""

from __future__ import annotations

from pathlib import Path

import golden
import pytest

Fail = pytest.fail.Exception


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "golden.txt"
    path.write_text("old\n")
    return path


def test_an_equal_text_passes(file: Path):
    golden.check(file, "old\n")


def test_a_changed_text_fails_and_leaves_the_file(file: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("EFFBENCH_UPDATE_GOLDEN", raising=False)
    with pytest.raises(AssertionError, match="differs"):
        golden.check(file, "new\n")
    assert "old\n" == file.read_text()


@pytest.mark.parametrize("exists", [True, False])
def test_the_update_mode_writes_a_changed_text_and_fails(file: Path, exists: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EFFBENCH_UPDATE_GOLDEN", "1")
    if not exists:
        file.unlink()
    with pytest.raises(Fail, match="was written"):
        golden.check(file, "new\n")
    assert "new\n" == file.read_text()
