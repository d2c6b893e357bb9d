"""The code for devices works under other Pythons, with only numpy and the runtime."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

from effbench import process
from effbench.codec import from_json
from effbench.deploy.artifact import bundle, fidelity
from effbench.errors import DataError
from effbench.profiles import transports
from effbench.schema import Artifact, Device, Fidelity, Round

VERSIONS = ("3.10", "3.12", "3.13")

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("export")]


def interpreter(version: str) -> str | None:
    """Return the newest interpreter of a version, on the PATH or installed by pyenv."""
    home = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    candidates = sorted(home.glob(f"versions/{version}.*/bin/python"), key=lambda path: path.parts[-3])
    on_path = shutil.which(f"python{version}")
    for candidate in [str(path) for path in reversed(candidates)] + [on_path or ""]:
        # A pyenv shim is on the PATH whether or not its version may be used.
        text = "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"
        process = subprocess.run([candidate or "false", "-c", text], capture_output=True, text=True, check=False)
        if process.stdout.strip() == version:
            return candidate
    return None


@pytest.fixture(scope="module", params=VERSIONS)
def python(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a Python of another version with only numpy, onnxruntime and pip."""
    version = request.param
    executable = interpreter(version)
    if executable is None:
        if f"python{version}" in os.environ.get("EFFBENCH_REQUIRE", "").split(","):
            pytest.fail(f"Python {version} is required here, but there is none")
        pytest.skip(f"there is no Python {version} here")
    folder = tmp_path_factory.mktemp(f"python{version}")
    subprocess.run([executable, "-m", "venv", str(folder)], check=True, capture_output=True)
    python = str(folder / "bin" / "python")
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "numpy", "onnxruntime"]
    process = subprocess.run(install, capture_output=True, text=True, check=False)
    assert 0 == process.returncode, process.stderr
    return python


@pytest.fixture
def device_python(python: str, tmp_path: Path) -> process.Python:
    """Return the Python of a device, which sees only a copy of the sources, as in the agent."""
    shutil.copytree(ROOT / "src" / "effbench", tmp_path / "effbench", ignore=shutil.ignore_patterns("__pycache__"))
    env = {"PYTHONPATH": str(tmp_path), "PYTHONNOUSERSITE": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return process.Python((python,), env)


@pytest.fixture(scope="module")
def artifact(exported: Path) -> Artifact:
    return next(item for item in bundle.artifacts(exported / "runs") if item.subject.target == "ort")


@pytest.fixture(scope="module")
def graph(exported: Path) -> Artifact:
    return next(item for item in bundle.artifacts(exported / "runs") if item.subject.target == "onnx")


def installed(python: str) -> set[str]:
    listed = subprocess.run([python, "-m", "pip", "freeze"], capture_output=True, text=True, check=True)
    return {line.partition("==")[0].lower() for line in listed.stdout.splitlines()}


def test_the_device_environment_has_only_numpy_and_the_runtime(python: str):
    # The dependencies of onnxruntime are installed with it; effbench imports none of them.
    brought = {"coloredlogs", "humanfriendly", "flatbuffers", "packaging", "protobuf", "sympy", "mpmath"}
    assert {"numpy", "onnxruntime"} == installed(python) - brought


def test_an_artifact_is_verified(device_python: process.Python, artifact: Artifact, graph: Artifact):
    reference = str(graph.folder / fidelity.REFERENCE)
    job = {"op": "verify", "artifact": str(artifact.folder), "reference": reference}
    (answer,) = process.run("effbench.device.agent", job, time_limit_s=120, python=device_python)
    result = from_json(Fidelity, answer["fidelity"], "the agent's answer")
    assert (True, True, 1.0) == (result.passed, result.finite, result.top1_agreement)
    assert result.max_error <= 1e-3


def test_a_round_is_measured(python: str, device_python: process.Python, artifact: Artifact):
    job = {
        "op": "measure",
        "artifact": str(artifact.folder),
        "min_samples": 20,
        "min_seconds": 0.1,
        "round_seconds": 0.5,
        "packages": ["onnxruntime"],
        "check_promise": True,
    }
    (answer,) = process.run("effbench.device.agent", job, time_limit_s=120, python=device_python)
    round_ = from_json(Round, answer["round"], "the agent's answer")
    assert len(round_.samples_ns) >= 20
    assert () == round_.flags
    assert round_.load_ms > 0 < round_.first_ms
    version = subprocess.run([python, "--version"], capture_output=True, text=True, check=True).stdout.split()[1]
    assert version == answer["before"]["python"]


@pytest.mark.parametrize("own_python", [True, False], ids=["as-supervisor", "as-agent"])
def test_a_device_with_that_python_measures(python: str, artifact: Artifact, tmp_path: Path, own_python: bool):
    # The agent as one zip file, under a supervisor of this Python or of the one that runs the tests.
    programs = Path(python).parent if own_python else Path(sys.executable).parent
    connection = {
        "command": ["env", f"PATH={programs}:/usr/bin:/bin"],
        "home": str(tmp_path / "home"),
        "python": python,
    }
    link = transports.connect(Device("other", "host", "", "pipe", ("ort",), connection=connection))
    folder = link.put({path.name: path for path in artifact.folder.iterdir()}, "model")
    job = {"op": "measure", "artifact": folder, "min_samples": 20, "min_seconds": 0.1, "round_seconds": 0.5}
    (answer,) = link.run("effbench.device.agent", {**job, "packages": ["onnxruntime"]}, time_limit_s=120)
    link.close()
    assert len(answer["round"]["samples_ns"]) >= 20
    version = subprocess.run([python, "--version"], capture_output=True, text=True, check=True).stdout.split()[1]
    assert version == answer["before"]["python"]
    assert 0 < answer["agent_s"] < 120


@pytest.mark.parametrize("version", ["3.7", "3.8", "3.9"])
def test_the_supervisor_runs_on_older_pythons_and_reports_the_python_that_the_agent_needs(version: str, tmp_path: Path):
    home = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    folders = sorted(home.glob(f"versions/{version}.*/bin"))
    if not folders:
        pytest.skip(f"there is no Python {version} here")
    connection = {"command": ["env", f"PATH={folders[-1]}:/usr/bin:/bin"], "home": str(tmp_path / "home")}
    link = transports.connect(Device("old", "host", "", "pipe", ("ort",), connection=connection))
    assert link.facts()["python"].startswith(version)
    with pytest.raises(process.ChildFailure, match=r"needs Python 3\.10 or newer; this is 3\."):
        list(link.run("effbench.device.agent", {"op": "observe"}, time_limit_s=60))
    link.close()


def test_a_tampered_artifact_is_refused(
    device_python: process.Python, artifact: Artifact, graph: Artifact, tmp_path: Path
):
    shutil.copytree(artifact.folder, tmp_path / "changed")
    with (tmp_path / "changed" / artifact.entry).open("ab") as stream:
        stream.write(b"\0")
    reference = str(graph.folder / fidelity.REFERENCE)
    job = {"op": "verify", "artifact": str(tmp_path / "changed"), "reference": reference}
    with pytest.raises(DataError, match="altered since it was exported"):
        list(process.run("effbench.device.agent", job, time_limit_s=120, python=device_python))


def test_types_are_checked_for_the_oldest_supported_python():
    if sys.version_info < (3, 11):
        import tomli as tomllib
    else:
        import tomllib
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    oldest = re.fullmatch(r">=(3\.\d+)", settings["project"]["requires-python"])
    assert oldest is not None
    assert "3.10" == oldest[1] == settings["tool"]["mypy"]["python_version"]
    assert "py310" == settings["tool"]["ruff"]["target-version"]
