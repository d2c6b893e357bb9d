"""Fixtures shared by all tests; the marker ``target`` and the variable EFFBENCH_REQUIRE."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from inline import run_inline
from places import SUPPORT

from effbench import process
from effbench.deploy import installed

MODULES = {
    "torch": "torch",
    "ort": "onnxruntime",
    "ov": "openvino",
    "coreml": "coremltools",
    "trt": "tensorrt",
    "trt-rtx": "tensorrt_rtx",
    "qnn": "onnxruntime_qnn",
    "litert": "ai_edge_litert",
    "timm": "timm",
}


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose toolkit is missing, or fail it where EFFBENCH_REQUIRE names that toolkit."""
    required = os.environ.get("EFFBENCH_REQUIRE", "").split(",")
    for mark in item.iter_markers("target"):
        name = mark.args[0]
        if not installed(MODULES[name]):
            if name in required:
                pytest.fail(f"the toolkit of target '{name}' is required here, but {MODULES[name]} is not installed")
            pytest.skip(f"the toolkit of target '{name}' ({MODULES[name]}) is not installed")


@pytest.fixture(autouse=True, scope="session")
def own_settings(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep the user's files out of the tests, and allow the project files that tests write."""
    os.environ["EFFBENCH_CONFIG"] = str(tmp_path_factory.mktemp("config"))
    os.environ["EFFBENCH_ALLOW_PROJECT"] = "1"


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Start every test from one seed: the workers of a run share its tests out anew each time."""
    if (torch := sys.modules.get("torch")) is not None:
        torch.manual_seed(0)


class Run:
    """Runs the command line as a user would: a process of its own, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("EFFBENCH_")}
        return subprocess.run(
            [sys.executable, "-m", "effbench.cli", *arguments],
            cwd=self.folder,
            env={**inherited, "EFFBENCH_PROGRESS": "0", "EFFBENCH_ALLOW_PROJECT": "1", **env},
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )


@pytest.fixture
def pipe() -> Callable[[str, Path], str]:
    """Declares a device of a name, with a home below a folder: this interpreter, at the other end of a pipe."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    command = json.dumps(["env", f"PATH={path}"])

    def declared(name: str, folder: Path) -> str:
        connection = f'{{ command = {command}, home = "{folder}/home" }}'
        return f'[devices.{name}]\ntransport = "pipe"\nconnection = {connection}\n'

    return declared


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A command line in an empty folder that holds the toy model."""
    shutil.copy(SUPPORT / "toy.py", tmp_path / "toy.py")
    return Run(tmp_path)


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the toy model exported at 64 px for ort, ov and torch; read only, copy it to change it."""
    folder = tmp_path_factory.mktemp("exported")
    shutil.copy(SUPPORT / "toy.py", folder / "toy.py")
    done = Run(folder)("export", "toy:net", "--res", "64", "-t", "ort", "-t", "ov", "-t", "torch")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture
def own(exported: Path, tmp_path: Path) -> Run:
    """A command line in a copy of the exported folder, free to be changed."""
    folder = tmp_path / "own"
    shutil.copytree(exported, folder)
    return Run(folder)


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run every child process of this test in this one: the real handlers, without an interpreter's start."""
    monkeypatch.setattr(process, "run", run_inline)
