"""docs/tutorial/gate.md taken at its word: from an empty repository to the first verdict, and the pytest fixture."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
from places import ROOT

PAGE = (ROOT / "docs" / "tutorial" / "gate.md").read_text()
WHO = {f"GIT_{role}_{what}": "a@example.org" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
FIVE_MINUTES_S = 300


def files() -> dict[str, str]:
    """Return the files that the page tells the reader to write."""
    return dict(re.findall(r"<!-- file: (\S+) -->\n```\w+\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))


def commands() -> list[str]:
    """Return the lines that the page tells the reader to type."""
    blocks = re.findall(r"^```shell\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


def call(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {key: value for key, value in os.environ.items() if not key.startswith("EFFBENCH_")}
    env |= {**WHO, "PATH": path}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=280, check=False)


def test_the_page_has_files_and_commands():
    assert {"tiny/__init__.py", "effbench.toml", ".gitignore"} == set(files())
    assert 2 == sum(line.startswith("effbench gate") for line in commands())


def test_every_format_and_file_of_the_page_exists():
    from effbench.reports.gate import FORMATS

    for name, (file, _) in FORMATS.items():
        if name != "terminal":
            assert f"`{file}`" in PAGE
            assert re.search(rf"[`| ]{name}[`|]", PAGE)


def test_the_workflow_and_the_action_name_options_that_exist():
    from effbench.commands.gate import gate

    known = {option for parameter in gate.params for option in parameter.opts}
    for path in ("action.yml", "examples/workflow-gate.yml", "docs/tutorial/gate.md"):
        lines = [
            line for line in (ROOT / path).read_text().splitlines() if "effbench gate" in line or "--format" in line
        ]
        assert set(re.findall(r"(--[a-z][a-z-]*)", "\n".join(lines))) <= known | {"--latency-base"}
    inputs = re.findall(r"^  ([a-z-]+):$", (ROOT / "action.yml").read_text().split("outputs:")[0], re.MULTILINE)
    assert {"models", "base", "inconclusive"} <= set(inputs)


@pytest.mark.slow
def test_from_an_empty_repository_to_a_verdict_in_five_minutes(tmp_path: Path):
    for name, text in files().items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    start, first = time.monotonic(), None
    said = []
    for line in commands():
        done = call(shlex.split(line), tmp_path)
        said.append((done.returncode, done.stdout))
        expected = 1 if line.startswith("effbench gate") and "--format" in line else 0
        assert expected == done.returncode, done.stdout + done.stderr
        if line.startswith("effbench gate") and first is None:
            first = time.monotonic() - start
            assert "unchanged (identical)" in done.stdout
    assert first is not None
    assert first < FIVE_MINUTES_S
    assert "slower" in said[-1][1]
    assert "### Latency gate: 1 slower" in (tmp_path / "runs" / "gate.md").read_text()


def test_the_fixture_is_there_and_skips_without_a_base(tmp_path: Path):
    (tmp_path / "test_it.py").write_text("def test_it(latency_gate):\n    latency_gate('tiny:net')\n")
    done = call([sys.executable, "-m", "pytest", "-q", "-rs", "test_it.py"], tmp_path)
    assert 0 == done.returncode, done.stdout + done.stderr
    assert "give --latency-base REF" in done.stdout


@pytest.mark.slow
def test_the_fixture_fails_with_the_table(tmp_path: Path):
    for name, text in files().items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "test_it.py").write_text("def test_it(latency_gate):\n    latency_gate()\n")
    for line in ("git init -q", "git add .", "git commit -q -m one"):
        assert 0 == call(shlex.split(line), tmp_path).returncode
    text = (tmp_path / "tiny" / "__init__.py").read_text()
    (tmp_path / "tiny" / "__init__.py").write_text(text.replace("DEPTH = 8", "DEPTH = 10"))
    arguments = ["-q", "--latency-base", "HEAD", "--latency-budget", "150", "test_it.py"]
    done = call([sys.executable, "-m", "pytest", *arguments], tmp_path)
    assert 1 == done.returncode, done.stdout + done.stderr
    assert "latency gate: 1 slower" in done.stdout
    assert "typical" in done.stdout
