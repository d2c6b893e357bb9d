"""The commands of docs/tutorial/gate.md as written, from an empty repository to a verdict, and the pytest fixture."""

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
WHO = {f"GIT_{role}_{field}": "a@example.org" for role in ("AUTHOR", "COMMITTER") for field in ("NAME", "EMAIL")}
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

    for name, (_, file) in FORMATS.items():
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


def test_the_action_is_named_by_a_placeholder_that_is_explained():
    for path in ("examples/workflow-gate.yml", "docs/tutorial/gate.md"):
        text = (ROOT / path).read_text()
        assert re.findall(r"uses: (\S+)/effbench@", text) == ["OWNER"]
        assert re.search(r"OWNER`? is a placeholder", text)


STUB = """#!/usr/bin/env bash
for word in "$@"; do printf '%s\\n' "$word"; done >> "$CALLS"
env | cut -d= -f1 >> "$RUNNER_TEMP/environment"
"""
WORKFLOWS = ("action.yml", "examples/workflow-gate.yml", "examples/workflow-gate-report.yml", "examples/ci-matrix.yml")


@pytest.mark.parametrize("file", WORKFLOWS)
def test_a_workflow_pins_by_commit_and_takes_no_more_rights_than_it_needs(file: str):
    text = (ROOT / file).read_text()
    for action in re.findall(r"uses: (\S+)", text):
        assert re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40}|OWNER/effbench@COMMIT", action), action
    code = "\n".join(line for line in text.splitlines() if not line.strip().startswith("#"))
    assert "pull_request_target" not in code
    if file != "action.yml":
        assert "\npermissions:\n  " in text
        assert "write" not in code.replace("pull-requests: write", "") or file.endswith("report.yml")
    if "workflow_run" in code:  # the one with rights neither checks out nor runs what the other one handed over
        assert not re.search(r"actions/checkout|^\s*run:", code, re.MULTILINE)
    if re.search(r"^on: pull_request$", code, re.MULTILINE):
        assert "contents: read" in code
        assert "persist-credentials: false" in code
        assert "secrets" not in code


def test_no_input_is_written_into_a_script():
    """An expression in a script would be replaced before a shell reads it."""
    yaml = pytest.importorskip("yaml")
    for step in yaml.safe_load((ROOT / "action.yml").read_text())["runs"]["steps"]:
        assert "${{" not in step.get("run", ""), step["name"]
        assert "set -f" in step.get("run", "set -f"), step["name"]


@pytest.mark.parametrize(
    ("models", "arguments", "expected"),
    [
        ("", "", []),
        ("a.b:c d.onnx", "--latency", ["a.b:c", "d.onnx", "--latency"]),
        ("*.onnx\n$(touch broken)", "", ["*.onnx", "$(touch", "broken)"]),
    ],
)
def test_the_action_passes_its_inputs_as_words(tmp_path: Path, models: str, arguments: str, expected: list[str]):
    """No input is expanded by the shell: neither patterns nor commands, and an empty one is no argument."""
    yaml = pytest.importorskip("yaml")
    steps = {step.get("name"): step for step in yaml.safe_load((ROOT / "action.yml").read_text())["runs"]["steps"]}
    for name in ("effbench", "python"):
        (tmp_path / name).write_text(STUB)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "other.onnx").touch()
    env = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "GITHUB_ACTION_PATH": "/the action"}
    env |= {"GITHUB_OUTPUT": str(tmp_path / "output"), "GITHUB_STEP_SUMMARY": str(tmp_path / "summary")}
    env |= {"RUNNER_TEMP": str(tmp_path), "GITHUB_ENV": "later steps", "GITHUB_TOKEN": "secret"}
    inputs = {"MODELS": models, "ARGUMENTS": arguments, "BASE": "abc", "BUDGET": "5", "INCONCLUSIVE": "pass"}
    inputs |= {"EXTRAS": "ort", "INSTALL": models}
    calls: dict[str, list[str]] = {}
    for name in ("Install", "Gate"):
        env["CALLS"] = str(tmp_path / f"{name}.txt")
        script = ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", "-c", steps[name]["run"]]
        subprocess.run(script, cwd=tmp_path, env={**env, **inputs}, check=True, capture_output=True, timeout=60)
        calls[name] = (tmp_path / f"{name}.txt").read_text().splitlines()
    words = models.split()
    assert ["-I", "-m", "pip", "install", "--quiet", "/the action[ort]", *words] == calls["Install"]
    assert ["gate", *words, "--base", "abc"] == calls["Gate"][: len(words) + 3]
    assert expected == [word for word in calls["Gate"] if word in expected]
    assert not (tmp_path / "broken").exists()
    output = (tmp_path / "output").read_text()
    assert "exit-code=0" in output
    report = Path(output.partition("report=")[2].strip())
    assert report.is_dir()
    assert calls["Gate"][calls["Gate"].index("--out") + 1] == str(report)
    assert not {"GITHUB_ENV", "GITHUB_TOKEN", "GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY"} & set(
        (tmp_path / "environment").read_text().split()
    )


def test_the_matrix_of_other_systems_says_that_it_was_not_run():
    text = (ROOT / "examples" / "ci-matrix.yml").read_text()
    assert text.startswith("# NOT RUN")
    assert {"macos-latest", "windows-latest"} <= set(re.findall(r"\w+-latest", text))
    for path in re.findall(r"tests/[\w/.]+", text):
        assert (ROOT / path).exists(), path


@pytest.mark.slow
def test_from_an_empty_repository_to_a_verdict_in_five_minutes(tmp_path: Path):
    for name, text in files().items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    start, first = time.monotonic(), None
    results = []
    for line in commands():
        result = call(shlex.split(line), tmp_path)
        results.append((result.returncode, result.stdout))
        expected = 1 if line.startswith("effbench gate") and "--format" in line else 0
        assert expected == result.returncode, result.stdout + result.stderr
        if line.startswith("effbench gate") and first is None:
            first = time.monotonic() - start
            assert "unchanged (identical)" in result.stdout
    assert first is not None
    assert first < FIVE_MINUTES_S
    assert "slower" in results[-1][1]
    assert "### Latency gate: 1 slower" in (tmp_path / "runs" / "gate.md").read_text()


def test_the_fixture_is_there_and_skips_without_a_base(tmp_path: Path):
    (tmp_path / "test_it.py").write_text("def test_it(latency_gate):\n    latency_gate('tiny:net')\n")
    result = call([sys.executable, "-m", "pytest", "-q", "-rs", "test_it.py"], tmp_path)
    assert 0 == result.returncode, result.stdout + result.stderr
    assert "give --latency-base REF" in result.stdout


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
    result = call([sys.executable, "-m", "pytest", *arguments], tmp_path)
    assert 1 == result.returncode, result.stdout + result.stderr
    assert "latency gate: 1 slower" in result.stdout
    assert "typical" in result.stdout
