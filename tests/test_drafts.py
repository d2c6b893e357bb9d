"""Drafts are held by a lock: what a kill left is removed by the next run, what another host makes is not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from effbench import drafts

MAKER = """
import sys, time
from pathlib import Path
from effbench.drafts import draft, scratch
with draft(Path(sys.argv[1])) as path, scratch() as folder:
    path.mkdir()
    (path / "file").write_text("x")
    print(path, folder, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", None)
    return tmp_path


def test_a_draft_is_gone_at_the_end(temporary: Path):
    with drafts.draft(temporary / "a") as path:
        path.write_text("x")
    with drafts.scratch() as folder:
        (folder / "x").write_text("x")
        assert 0o700 == folder.stat().st_mode & 0o777
    assert [] == [*(temporary / "a").iterdir(), *folder.parent.iterdir()]


def test_what_a_kill_left_is_removed_and_what_is_held_stays(temporary: Path):
    """The same on another host: a lock says who holds a draft, a process number of another machine says nothing."""
    home = temporary / "home"
    command = [sys.executable, "-c", MAKER, str(home)]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as killed,
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as alive,
    ):
        assert killed.stdout is not None
        assert alive.stdout is not None
        left = [Path(word) for word in killed.stdout.readline().split()]
        held = [Path(word) for word in alive.stdout.readline().split()]
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert all(path.exists() for path in left)
        with drafts.draft(home), drafts.scratch():
            assert [] == [path for path in left if path.exists()]
            assert all(path.exists() for path in held)
        alive.kill()
    drafts.sweep(home)
    assert [] == list(home.iterdir())


def test_permissions_are_those_of_the_umask(temporary: Path):
    before = os.umask(0o027)
    try:
        with drafts.draft(temporary) as path:
            path.mkdir()
            assert 0o750 == path.stat().st_mode & 0o777
    finally:
        os.umask(before)


def test_a_scratch_folder_of_another_user_is_refused(temporary: Path):
    (temporary / "elsewhere").mkdir()
    (temporary / "tmp" / f"effbench-{os.geteuid()}").symlink_to(temporary / "elsewhere")
    with pytest.raises(OSError, match="another user"), drafts.scratch():
        pass
