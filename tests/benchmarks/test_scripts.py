"""Every benchmark starts: its imports are there, and ``--help`` says how to run it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from places import BENCHMARKS, ROOT

SCRIPTS = sorted(path for path in BENCHMARKS.glob("*.py") if "__main__" in path.read_text())


def test_there_are_scripts_and_helpers():
    assert {"startup", "overhead", "gate"} <= {path.stem for path in SCRIPTS}
    assert "gate_models" not in {path.stem for path in SCRIPTS}


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_benchmark_starts(script: Path, tmp_path: Path):
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, str(script), "--help"]
    result = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert 0 == result.returncode, result.stderr
    assert f"benchmarks/{script.name}" in result.stdout
    assert [] == list(tmp_path.iterdir())
