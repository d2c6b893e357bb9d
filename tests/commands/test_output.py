"""What every command prints: one JSON document with ``--json``, an error included, and its exit code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from effbench import cli
from effbench.codec import document
from effbench.schema import FORMAT_VERSION

COMMANDS = sorted(cli.cli.commands)


def run(*arguments: str) -> int:
    """Run the command line in this process and return its exit code."""
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    return int(end.value.code or 0)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
def test_a_usage_error_is_one_document(command: str, capsys: pytest.CaptureFixture[str]):
    assert 2 == run(command, "--json", "--nonsense")
    output = capsys.readouterr()
    answer = json.loads(output.out)
    assert {"format", "error"} == answer.keys()
    assert FORMAT_VERSION == answer["format"]
    assert {"message", "hint", "exit_code"} == answer["error"].keys()
    assert 2 == answer["error"]["exit_code"]
    assert "--nonsense" in answer["error"]["message"]
    assert "--nonsense" in output.err


@pytest.mark.parametrize(
    ("arguments", "code", "hint"),
    [
        (("models", "regla_x"), 2, "Did you mean"),
        (("exprot", "regla_m"), 2, "Did you mean export"),
        (("report",), 2, "effbench profile"),
        (("doctor", "--device", "nowhere"), 2, "Valid"),
        (("kit", "regla_m"), 2, None),
    ],
)
def test_an_error_is_one_document(
    arguments: tuple[str, ...], code: int, hint: str | None, capsys: pytest.CaptureFixture[str]
):
    assert code == run(*arguments, "--json")
    error = json.loads(capsys.readouterr().out)["error"]
    assert code == error["exit_code"]
    assert hint is None if error["hint"] is None else str(hint) in error["hint"]


def test_without_json_an_error_prints_nothing_on_standard_output(capsys: pytest.CaptureFixture[str]):
    assert 2 == run("models", "regla_x")
    assert "" == capsys.readouterr().out


def raises(error: BaseException):
    def call(*_: object, **__: object):
        raise error

    return call


@pytest.mark.parametrize(("error", "code"), [(ValueError("odd"), 5), (KeyboardInterrupt(), 130)])
def test_what_is_no_effbench_error_is_one_document_too(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("effbench.api.devices.catalogue.targets", raises(error))
    assert code == run("targets", "--json")
    assert code == json.loads(capsys.readouterr().out)["error"]["exit_code"]


def test_claims_are_one_document(capsys: pytest.CaptureFixture[str], folder: Path):
    assert 0 == run("claims", "iformer-m-params", "--json", "--page", "page.md")
    data = json.loads(capsys.readouterr().out)["data"]
    assert ["iformer-m-params"] == [finding["name"] for finding in data["findings"]]
    assert ["page.md"] == data["files"]


def test_a_document_holds_no_number_that_json_lacks():
    text = document({"snr_db": float("inf"), "rows": [float("nan"), 1.5], "file": Path("a") / "b"})
    assert {"snr_db": None, "rows": [None, 1.5], "file": str(Path("a") / "b")} == json.loads(text)["data"]
    assert "Infinity" not in text
