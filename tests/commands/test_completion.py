"""Completion in a shell: models, targets, devices, artifacts and precisions, without anything heavy."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete
from places import ROOT

from effbench.cli import cli


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with two exported artifacts, and one unfinished."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EFFBENCH_HOME", raising=False)
    for home, name in (("runs", "regla_m-224-b1-fp32-ort-0123456789"), ("other", "deit_t-224-b1-fp32-ov-0123456789")):
        (tmp_path / home / "artifacts" / name).mkdir(parents=True)
        (tmp_path / home / "artifacts" / name / "manifest.json").write_text("{}")
    (tmp_path / "runs" / "artifacts" / "regla_m-unfinished").mkdir()
    return tmp_path


def completed(line: str) -> list[str]:
    """Return what the shell offers for the last word of a line; a request to complete paths is ``<file>``."""
    *words, incomplete = line.split(" ")
    items = ShellComplete(cli, {}, "effbench", "_EFFBENCH_COMPLETE").get_completions(words, incomplete)
    return [item.value if item.type == "plain" else f"<{item.type}>" for item in items]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("exp", ["export"]),
        ("export regla_", ["regla_t", "regla_s", "regla_m", "regla_l"]),
        ("export regla_m lambda_resnet5", ["lambda_resnet50"]),
        ("export yours.on", ["<file>"]),
        ("export regla_m -t tr", ["trt", "trt-rtx"]),
        ("export regla_m --target=or", ["ort"]),
        ("export regla_m --precision f", ["fp32", "fp16"]),
        ("export regla_m --device raspb", ["raspberry-pi-5"]),
        ("export regla_m --images im", ["<dir>"]),
        ("export regla_m --weights we", ["<file>"]),
        ("verify reg", ["regla_m-224-b1-fp32-ort-0123456789"]),
        ("verify --out other dei", ["deit_t-224-b1-fp32-ov-0123456789"]),
        ("profile regla_m", ["regla_m", "regla_m-224-b1-fp32-ort-0123456789"]),
        ("compare regla_m regla_m-", ["regla_m-224-b1-fp32-ort-0123456789"]),
        ("models aft_f", ["aft_full_t", "aft_full_s"]),
        ("models --family lam", ["lambda_resnet"]),
        ("devices jetson-t", ["jetson-thor"]),
        ("report --metric co", ["coco_ap"]),
        ("report --format m", ["markdown"]),
        ("import x --format tr", ["trtexec"]),
        ("sweep --devices lo", ["local"]),
        ("gate regla_", ["regla_t", "regla_s", "regla_m", "regla_l"]),
    ],
)
def test_names_are_completed(line: str, expected: list[str]):
    assert expected == completed(line)


def test_a_suite_that_cannot_be_read_offers_nothing(folder: Path):
    (folder / "effbench.toml").write_text("[devices\n")
    assert [] == [name for name in completed("export regla_m --device raspb") if name != "<file>"]


def test_own_devices_are_completed(folder: Path):
    (folder / "effbench.toml").write_text('[devices.bench-rig]\nbase = "raspberry-pi-5"\n')
    assert ["bench-rig"] == completed("profile --device bench")


COUNT_HEAVY = """
import sys
from click.shell_completion import ShellComplete
from effbench.cli import cli
for words in (["export"], ["export", "-t"], ["export", "--device"], ["verify"], ["export", "--precision"]):
    assert ShellComplete(cli, {}, "effbench", "_EFFBENCH_COMPLETE").get_completions(words, ""), words
print([name for name in ("torch", "onnx", "onnxruntime", "openvino", "pandas", "tabulate") if name in sys.modules])
"""


def test_completion_imports_nothing_heavy(folder: Path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    result = subprocess.run(
        [sys.executable, "-c", COUNT_HEAVY], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert (0, "[]\n") == (result.returncode, result.stdout), result.stderr
