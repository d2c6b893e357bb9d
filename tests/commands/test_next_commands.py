"""Commands that effbench proposes: each parses, names what exists, and runs."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import click
import pytest
from places import ROOT

from effbench.cli import cli
from effbench.commands.text import next_command
from effbench.deploy.artifact import bundle
from effbench.schema import Cell, InputShapes, Status

SOURCE = ROOT / "src" / "effbench"
PROPOSED = re.compile(r"\beffbench (\w+)((?: [\w./=-]+)*)")


def parsed(line: str) -> click.Context:
    """Parse a proposed command without running it; an unknown command, option or value raises."""
    words = shlex.split(line.removeprefix("next: "))
    assert "effbench" == words[0]
    return cli.commands[words[1]].make_context(words[1], words[2:])


def last_line(result: Any) -> str:
    return str(result.stdout.rstrip().splitlines()[-1])


@pytest.mark.xdist_group("export")
def test_each_proposed_command_runs_up_to_the_comparison(own: Any):
    """Export, then type what the last line says."""
    first = own("export", "toy:net", "--res", "64", "-t", "ort", "-t", "ov")
    proposals = [last_line(first)]
    for command in ("profile", "report", "compare"):
        assert command == parsed(proposals[-1]).info_name
        words = shlex.split(proposals[-1].removeprefix("next: effbench "))
        quick = {"profile": ["--rounds", "1", "--budget", "2"], "compare": ["--budget", "3", "--inconclusive", "pass"]}
        result = own(*words, *quick.get(command, []))
        assert result.returncode in ((0, 1) if command == "compare" else (0,)), result.stdout + result.stderr
        proposals.append(last_line(result))
    assert ["toy.net-64-b1-fp32-ort", "toy.net-64-b1-fp32-ov"] == list(parsed(proposals[0]).params["names"])


@pytest.mark.xdist_group("export")
def test_another_folder_stays_in_the_proposal(own: Any):
    folder = "a folder"
    (own.folder / "runs").rename(own.folder / folder)
    result = own("verify", "toy.net-64-b1-fp32-ort", "--out", folder)
    context = parsed(last_line(result))
    assert (("toy.net-64-b1-fp32-ort",), folder) == (context.params["names"], context.params["out"])


def artifact(own: Any, target: str) -> Any:
    return next(item for item in bundle.artifacts(own.folder / "runs") if item.subject.target == target)


def cell(own: Any, target: str, named: str | None = None) -> Cell:
    item = artifact(own, target)
    return Cell.of("toy.net", item.subject.shapes, "fp32", named or target, item)


@pytest.mark.parametrize(
    ("target", "named", "device", "expected"),
    [
        ("ort", None, None, "effbench profile toy.net-64-b1-fp32-ort"),
        ("ort", None, "local", "effbench profile toy.net-64-b1-fp32-ort"),
        ("ort", None, "raspberry-pi-5", "effbench kit toy.net-64-b1-fp32-ort --device raspberry-pi-5"),
        ("ort", None, "bench", "effbench profile toy.net-64-b1-fp32-ort --device bench"),
        ("ort", None, "iphone-13", "effbench devices"),
        ("ort", "qnn", None, "effbench devices"),
    ],
)
def test_the_proposal_fits_the_target_and_the_device(
    own: Any,
    pipe: Any,
    monkeypatch: pytest.MonkeyPatch,
    target: str,
    named: str | None,
    device: str | None,
    expected: str,
):
    monkeypatch.chdir(own.folder)
    (own.folder / "effbench.toml").write_text(pipe("bench", own.folder) + 'targets = ["ort"]\n')
    line = next_command.after_export([cell(own, target, named)], device, None)
    assert f"next: {expected}" == line
    parsed(str(line))


def test_a_beginning_of_two_names_is_not_proposed(own: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(own.folder)
    item = artifact(own, "ort")
    item.folder.with_name(f"{item.name[:-2]}xx").mkdir()
    assert f"next: effbench profile {item.name}" == next_command.after_export([cell(own, "ort")], None, None)


def test_many_artifacts_are_not_all_named(own: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(own.folder)
    monkeypatch.setattr(next_command, "MOST_NAMES", 1)
    cells = [cell(own, "ort"), cell(own, "ov")]
    assert "next: effbench profile" == next_command.after_export(cells, None, None)
    assert "next: effbench profile toy.net-64-b1-fp32-ov" == next_command.after_export(cells[1:], None, None)


@pytest.mark.xdist_group("export")
def test_an_evaluation_is_measured_before_it_is_reported(own: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(own.folder)
    evaluation = SimpleNamespace(evaluation=SimpleNamespace(digest=artifact(own, "ort").digest))
    result: Any = SimpleNamespace(results=[evaluation])
    assert "next: effbench profile toy.net-64-b1-fp32-ort" == next_command.after_evaluate(result, "local", None)
    assert 0 == own("profile", "-t", "ort", "--rounds", "1", "--budget", "2").returncode
    assert "next: effbench report" == next_command.after_evaluate(result, "local", None)
    assert next_command.after_evaluate(cast(Any, SimpleNamespace(results=[])), "local", None) is None


@pytest.mark.xdist_group("export")
def test_a_model_that_only_its_user_can_name_is_not_named(own: Any):
    """The artifact is called toy.net, which no command takes; the user exported toy:net."""
    result = own("profile", "--res", "96", "-t", "ort")
    assert 4 == result.returncode, result.stdout + result.stderr
    (line,) = [line.strip() for line in result.stdout.splitlines() if line.strip().startswith("effbench export")]
    assert "effbench export MODEL --res 96 --target ort --precision fp32" == line
    parsed(line)


def test_nothing_follows_where_nothing_was_exported():
    failed = Cell("toy", InputShapes((64, 64)), "fp32", "ort", Status.FAILED, reason="no memory")
    graph = Cell("toy", InputShapes((64, 64)), "fp32", "onnx", Status.BUILT, reason="not verified", artifact="toy")
    assert next_command.after_export([failed, graph], None, None) is None


def strings() -> Iterator[tuple[Path, str]]:
    """Yield the strings that the package prints or raises; docstrings count, and an f-string's values are ``X``."""
    for path in sorted(SOURCE.rglob("*.py")):
        inside = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                inside |= {id(value) for value in node.values}
                parts = (str(v.value) if isinstance(v, ast.Constant) else "X" for v in node.values)
                yield path.relative_to(ROOT), "".join(parts)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
                yield path.relative_to(ROOT), node.value


def test_every_command_in_a_message_exists():
    """Check the name and the options of each command that a message or a docstring mentions."""
    proposals = [(path, *match) for path, text in strings() for match in PROPOSED.findall(text)]
    commands = [(path, name, words.split()) for path, name, words in proposals if name in cli.commands]
    assert {"kit", "export", "profile", "doctor"} <= {name for _, name, _ in commands}
    wrong = []
    for path, name, words in commands:
        known = {option for parameter in cli.commands[name].params for option in parameter.opts} | {"--help"}
        unknown = [word for word in words if word.startswith("-") and word.partition("=")[0] not in known]
        wrong += [f"{path}: effbench {name} {' '.join(unknown)}"] if unknown else []
    assert [] == wrong
