"""A kit is written, run as its holder would run it, and brought home."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from effbench.store import Store

pytestmark = pytest.mark.xdist_group("export")


def run_kit(folder: Path) -> subprocess.CompletedProcess[str]:
    env = {"PATH": "/usr/bin:/bin", "PYTHON": sys.executable}
    return subprocess.run(
        ["sh", "run.sh"], cwd=folder, env=env, capture_output=True, text=True, timeout=200, check=False
    )


def make(own: Any, device: str = "raspberry-pi-5", *more: str) -> Path:
    result = own("kit", "toy.net-64-b1-fp32-ort", "--device", device, "--rounds", "2", "--budget", "2", *more)
    assert 0 == result.returncode, result.stderr
    folder: Path = own.folder / f"kit-{device}"
    return folder


def test_a_kit_is_run_elsewhere_and_brought_home(own: Any, tmp_path: Path):
    folder = make(own)
    away = tmp_path / "somewhere" / "else"
    away.parent.mkdir()
    folder.rename(away)
    result = run_kit(away)
    assert 0 == result.returncode, result.stdout + result.stderr
    assert "verified" in result.stdout
    back = own("import", str(away / "result.jsonl"))
    assert 0 == back.returncode, back.stderr
    (one,) = Store(own.folder / "runs")
    assert ("imported", "raspberry-pi-5", 2) == (one.origin, one.device, len(one.samples.rounds))
    assert all(len(item.samples_ns) >= 20 for item in one.samples.rounds)


@pytest.mark.slow
def test_a_changed_artifact_in_a_kit_is_refused_and_said_so(own: Any):
    folder = make(own)
    model = next((folder / "artifacts").glob("*/model.onnx"))
    model.write_bytes(model.read_bytes() + b"\0")
    result = run_kit(folder)
    assert 5 == result.returncode
    assert "altered since it was exported" in result.stdout
    back = own("import", str(folder / "result.jsonl"))
    assert 2 == back.returncode
    assert "no round was measured" in back.stderr


def test_a_result_of_other_artifacts_is_refused(own: Any, tmp_path: Path):
    lines = [{"format": 1, "kit": "x", "device": "y", "time": "t", "threads": 1}]
    lines += [{"digest": "0" * 64, "artifact": "other", "op": "measure", "seconds": 1, "answer": {}}]
    (tmp_path / "result.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = own("import", str(tmp_path / "result.jsonl"))
    assert 2 == result.returncode
    assert "other is not below" in result.stderr


def test_a_kit_for_a_phone_says_what_its_holder_does(own: Any):
    result = own("kit", "toy.net-64-b1-fp32-ort", "--device", "pixel-8")
    assert 0 == result.returncode, result.stderr
    script = (own.folder / "kit-pixel-8" / "run.sh").read_text()
    assert "adb push onnxruntime $D/onnxruntime" in script
    assert 0 == subprocess.run(["sh", "-n"], input=script, text=True, check=False).returncode
    assert "--device pixel-8" in result.stdout


def test_what_the_device_does_not_run_makes_no_kit(own: Any):
    result = own("kit", "toy.net-64-b1-fp32-ort", "--device", "iphone-13")
    assert 2 == result.returncode
    assert "runs coreml, not ort" in result.stderr
    assert not (own.folder / "kit-iphone-13").exists()


def test_a_folder_is_never_overwritten(own: Any):
    make(own)
    again = own("kit", "toy.net-64-b1-fp32-ort", "--device", "raspberry-pi-5")
    assert (2, True) == (again.returncode, "exists already" in again.stderr)
