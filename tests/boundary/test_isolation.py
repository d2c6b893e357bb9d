"""A child imports nothing from the folder it runs in, and finds what it was given."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from effbench import process
from effbench.boundary import isolation, quiet
from effbench.profiles.transports.channel import BOOT
from effbench.profiles.transports.session import SUPERVISOR
from effbench.profiles.transports.zipapp import agent

SHADOWS = ("json", "ctypes", "random", "typing", "runpy", "numpy", "sitecustomize", "usercustomize", "effbench", "site")


def shadow(folder: Path) -> None:
    """Put modules into a folder that leave a trace if they are imported."""
    for name in SHADOWS:
        (folder / f"{name}.py").write_text(f"open({str(folder / 'escaped')!r}, 'a').write('{name} ')\n")
    (folder / "evil.egg-info").mkdir()
    (folder / "evil.egg-info" / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: evil\nVersion: 1\n")
    (folder / "evil.egg-info" / "entry_points.txt").write_text("[effbench.targets]\nevil = evil_target:TARGET\n")
    (folder / "evil_target.py").write_text(f"open({str(folder / 'escaped')!r}, 'a').write('target ')\nTARGET = 1\n")


def child(code: str, folder: Path, **env: str) -> str:
    """Run a module that holds some code as an isolated child in a folder; return what it prints."""
    modules = folder.parent / "modules"
    modules.mkdir(exist_ok=True)
    (modules / "the_child.py").write_text(code)
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join([".", "", str(modules)]), **env}
    command = isolation.command("the_child", "argument")
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    folder = tmp_path / "hostile"
    folder.mkdir()
    shadow(folder)
    return folder


def test_a_child_imports_nothing_from_its_folder(hostile: Path) -> None:
    code = "import json, ctypes, random, numpy, sys, effbench.codec, effbench.deploy\n"
    code += "effbench.deploy.registered(); print(json.dumps([sys.argv[1:], sys.flags.isolated, sys.path]))"
    arguments, isolated, path = json.loads(child(code, hostile))
    assert (["argument"], 1) == (arguments, isolated)
    assert not (hostile / "escaped").exists()
    assert str(hostile) not in path
    assert not {"", "."} & set(path)


def test_a_job_in_a_hostile_folder_runs_nothing_of_it(hostile: Path) -> None:
    (answer,) = process.run(
        "effbench.device.agent", {"op": "observe"}, time_limit_s=120, python=process.Python(cwd=hostile)
    )
    assert "evil" not in answer["targets"]
    assert not (hostile / "escaped").exists()


def test_what_runs_on_a_device_imports_nothing_of_the_folder_it_starts_in(hostile: Path) -> None:
    """The supervisor starts in the folder of the login, the agent in that of the session."""
    command = [sys.executable, *BOOT[1:]]
    with subprocess.Popen(command, cwd=hostile, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as started:
        assert started.stdin is not None
        assert started.stdout is not None
        for request in (SUPERVISOR.read_text(), {"op": "hello", "home": str(hostile.parent / "home")}):
            started.stdin.write(json.dumps(request) + "\n")
            started.stdin.flush()
            answer = started.stdout.readline()
    assert '"session"' in answer
    archive = hostile.parent / "agent.pyz"
    archive.write_bytes(agent().data)
    command = [sys.executable, "-I", str(archive), "effbench.device.agent"]
    job = json.dumps({"op": "observe"})
    done = subprocess.run(command, cwd=hostile, input=job, capture_output=True, text=True, check=False)
    assert '"telemetry": "off"' in done.stdout, done.stderr
    assert not (hostile / "escaped").exists()


def test_a_factory_of_the_current_folder_is_found_and_its_folder_shadows_nothing(hostile: Path) -> None:
    (hostile / "mine.py").write_text("import json, random, helper\ndef net(): return helper.ANSWER\n")
    (hostile / "helper.py").write_text("ANSWER = 42\n")
    code = "from effbench.models.build import load_factory; print(load_factory('mine:net')())\n"
    code += "from effbench import deploy; assert 'evil' not in deploy.registered()"
    assert "42" == child(code, hostile).strip()
    assert not (hostile / "escaped").exists()


def test_a_tree_wins_over_installed_copies_but_not_over_the_standard_library(tmp_path: Path) -> None:
    tree, installed = tmp_path / "tree", tmp_path / "installed"
    for folder, value in ((tree, "tree"), (installed, "installed")):
        (folder / "net").mkdir(parents=True)
        (folder / "net" / "__init__.py").write_text(f"FROM = {value!r}\n")
    shadow(tree)
    (tree / "click").mkdir()  # a folder without __init__.py, such as a clone, is no package
    code = f"import sys; sys.path.insert(0, {str(installed)!r})\n"
    code += "import net, json, random, click; print(net.FROM, click.Command.__name__)"
    assert "tree Command" == child(code, tmp_path, **{isolation.TREE: str(tree)}).strip()
    assert not (tree / "escaped").exists()


def test_another_effbench_on_the_module_path_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "effbench").mkdir()
    (tmp_path / "effbench" / "__init__.py").write_text("raise SystemExit('another one')\n")
    printed = child(
        "import effbench; print(effbench.__file__)", tmp_path, PYTHONPATH=f"{tmp_path.parent}/modules:{tmp_path}"
    )
    assert str(Path(isolation.__file__).parents[1] / "__init__.py") == printed.strip()


def test_secrets_and_the_files_of_ci_do_not_reach_the_code_of_a_tree() -> None:
    secret = "GITHUB_TOKEN GITHUB_ENV GITHUB_PATH GITHUB_OUTPUT ACTIONS_RUNTIME_URL AWS_SECRET_ACCESS_KEY MY_PASSWORD"
    harmless = {"PATH", "HOME", "GITHUB_SHA", "OMP_NUM_THREADS"}
    environ = dict.fromkeys([*secret.split(), "api_key", "SSH_AUTH_SOCK", "BASH_ENV", *harmless], "x")
    assert harmless == set(isolation.without_secrets(environ))


def test_telemetry_is_off_before_any_library_of_a_vendor_is_imported(tmp_path: Path) -> None:
    code = "import os, effbench; from effbench.boundary import quiet\n"
    code += "print(quiet.state(), os.environ['HF_HUB_OFFLINE'])\n"
    code += "try:\n    import openvino_telemetry\n    print('loaded')\nexcept ImportError:\n    print('blocked')"
    assert ["off", "1", "blocked"] == child(code, tmp_path, ORT_DISABLE_TELEMETRY="0").split()


def test_the_state_names_what_is_still_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY")
    monkeypatch.setitem(sys.modules, "openvino_telemetry", sys)
    assert "ORT_DISABLE_TELEMETRY is not set; openvino_telemetry is loaded" == quiet.state()
