"""However a command fails, it ends with one sentence and its exit code; with ``--json`` also with one document."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from effbench import errors
from effbench.cli import cli, main
from effbench.codec import document
from effbench.schema import FORMAT_VERSION
from effbench.store import BadLineWarning

EXPECTED: dict[str, tuple[Callable[[], BaseException], int, str]] = {
    "usage": (lambda: errors.UsageError("no such thing"), 2, "no such thing"),
    "data": (lambda: errors.DataError("a bad file"), 2, "a bad file"),
    "missing": (lambda: errors.MissingDependencyError("It", "onnx", "ort"), 4, "needs the package"),
    "unsupported": (lambda: errors.UnsupportedError("never"), 4, "never"),
    "conversion": (lambda: errors.ConversionError("translate", "no"), 5, "translate failed"),
    "fidelity": (lambda: errors.FidelityError("another model"), 1, "another model"),
    "device": (lambda: errors.DeviceError("lost"), 4, "lost"),
    "measurement": (lambda: errors.MeasurementError("cut short"), 5, "cut short"),
    "click": (lambda: click.UsageError("no such option"), 2, "no such option"),
    "abort": (click.Abort, 130, "interrupted"),
    "interrupt": (KeyboardInterrupt, 130, "interrupted"),
    "memory": (MemoryError, 5, "memory"),
    "recursion": (lambda: RecursionError("too deep"), 5, "RecursionError: too deep"),
    "key": (lambda: KeyError("digest"), 5, "KeyError"),
    "value": (lambda: ValueError("half \ud800"), 5, "ValueError: half"),
    "text": (lambda: UnicodeEncodeError("ascii", "é", 0, 1, "no"), 5, "UnicodeEncodeError"),
    "many lines": (lambda: RuntimeError("one\ntwo"), 5, "RuntimeError: one"),
    "assertion": (AssertionError, 5, "AssertionError"),
    "permission": (lambda: PermissionError(errno.EACCES, "Permission denied", "secret.txt"), 2, "secret.txt: Perm"),
    "full disk": (lambda: OSError(errno.ENOSPC, "No space left on device", "runs/x"), 2, "runs/x: No space"),
    "no file": (lambda: OSError("without a number"), 5, "OSError: without a number"),
}


@pytest.fixture
def ended(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[[str, BaseException], tuple[int, str, str]]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def run(name: str, error: BaseException) -> tuple[int, str, str]:
        def fail(*_: object) -> None:
            raise error

        command = cli.commands[name]
        monkeypatch.setattr(command, "parse_args", lambda *_: [])
        monkeypatch.setattr(command, "invoke", fail)
        with pytest.raises(SystemExit) as caught:
            main([name, "--json"])
        return int(str(caught.value.code)), *capsys.readouterr()

    return run


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_every_error_of_every_command_is_a_sentence_and_a_document(name: str, ended: Any):
    for make, code, message in EXPECTED.values():
        ended_with, out, err = ended(name, make())
        shown = json.loads(out)
        assert (code, code) == (ended_with, shown["error"]["exit_code"])
        assert {"format": FORMAT_VERSION, "error": shown["error"]} == shown
        assert message in err
        assert message in shown["error"]["message"]
        assert "Traceback" not in err


def test_a_fault_of_effbench_leaves_a_log_and_says_where(ended: Any, tmp_path: Path):
    _, _, err = ended("models", ZeroDivisionError("by zero"))
    (log,) = (tmp_path / "effbench" / "errors").glob("*.log")
    assert str(log) in err
    assert "Please report it" in err
    text = log.read_text()
    assert "effbench models --json" in text
    assert "ZeroDivisionError: by zero" in text
    for index in range(30):
        (log.parent / f"2020-{index}.log").write_text("old")
    ended("models", ZeroDivisionError("by zero"))
    assert 20 == len(list(log.parent.glob("*.log")))


def test_without_a_folder_for_the_log_it_is_shown(ended: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    code, _, err = ended("models", ZeroDivisionError("by zero"))
    assert (5, True) == (code, "Traceback" in err)


def test_a_warning_of_effbench_is_a_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    command = cli.commands["models"]
    monkeypatch.setattr(command, "parse_args", lambda *_: [])
    monkeypatch.setattr(command, "invoke", lambda *_: warnings.warn(BadLineWarning("x:3: bad."), stacklevel=1))
    warnings.simplefilter("always")  # pytest restores the filters
    with pytest.raises(SystemExit):
        main(["models"])
    assert "effbench: x:3: bad.\n" == capsys.readouterr().err


def test_a_document_holds_whatever_a_result_holds():
    import numpy as np

    data = {"f": main, "n": np.float32(1.5), "s": {"b", "a"}, "p": Path("x"), "nan": float("nan"), "l": lambda: 0}
    shown = json.loads(document(data))["data"]
    assert ("effbench.cli:main", 1.5, ["a", "b"], "x", None) == tuple(shown[key] for key in ("f", "n", "s", "p", "nan"))


def shell(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = line.replace("effbench", f"{sys.executable} -m effbench.cli")
    return subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_output_that_cannot_be_written(tmp_path: Path):
    full = shell("effbench models > /dev/full", tmp_path)
    assert (5, "effbench: the output cannot be written: No space left on device.\n") == (full.returncode, full.stderr)


def test_a_reader_that_leaves_ends_it_with_141(tmp_path: Path):
    for line in ("effbench models --json | true", "effbench nonsense --json | true", "effbench --help | true"):
        closed = shell(f"{line}; echo ${{PIPESTATUS[0]}}", tmp_path)
        assert closed.stdout == "141\n"
        assert "Traceback" not in closed.stderr
        assert "BrokenPipe" not in closed.stderr


def test_a_name_that_is_no_text_is_printed(tmp_path: Path):
    env = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "effbench.cli", "verify", b"n\xff\xc3\xa9"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, check=False)
    assert (2, b"") == (done.returncode, done.stdout)
    assert b"Unknown artifact" in done.stderr


def test_a_message_lists_no_more_names_than_one_reads():
    error = errors.unknown_name("node_149x", [f"node_{number}" for number in range(150)], "node")
    assert "node_149" in (error.hint or "")
    assert (error.hint or "").endswith(f" and {150 - errors.MOST_NAMES} more.")
    assert "more" not in (errors.unknown_name("c", ["a", "b"], "node").hint or "")
