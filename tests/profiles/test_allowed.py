"""A project file starts no program and connects to no host until its user allows it; this machine stays itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from effbench.api.sweep.suite import arguments
from effbench.errors import UsageError
from effbench.profiles import devices
from effbench.profiles.devices import allowed

COMMAND = 'transport = "pipe"\nconnection = { command = ["sh", "-c", "touch escaped"] }\n'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder of a user who has allowed nothing."""
    monkeypatch.setenv("EFFBENCH_CONFIG", str(tmp_path / "config"))
    monkeypatch.delenv("EFFBENCH_ALLOW_PROJECT", raising=False)
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


def write(folder: Path, text: str) -> None:
    (folder / "effbench.toml").write_text(text)


@pytest.mark.parametrize("name", ["bench", "raspberry-pi-5"])
@pytest.mark.parametrize(
    "entry",
    [
        COMMAND,
        '[devices.NAME.connection]\nhost = "elsewhere.example"\n',
        '[devices.NAME.connection]\nrunner_litert = "evil"\n',
        '[devices.NAME.connection]\nknown_hosts = "known_hosts"\n',
        '[devices.NAME.options.litert]\npython = "./evil"\n',
        'base = "local"\n[devices.NAME.options.litert]\npython = "./evil"\n',
    ],
)
def test_a_connection_or_an_option_has_to_be_allowed(folder: Path, name: str, entry: str) -> None:
    write(folder, f"[devices.{name}]\n{entry.replace('NAME', name)}")
    with pytest.raises(UsageError, match=rf"devices\.{name}\] could start programs") as caught:
        devices.get(name)
    assert "effbench allow" in str(caught.value.hint)
    assert devices.packaged().get(name) == devices.devices().get(name)  # the declaration plays no part elsewhere either


def test_facts_need_not_be_allowed(folder: Path) -> None:
    write(folder, '[devices.bench]\nbase = "local"\ndescription = "Mine"\nprecisions = { ov = "fp16" }\n')
    assert ("local", "Mine") == (devices.get("bench").transport, devices.get("bench").description)


def test_an_allowed_file_is_read_until_it_changes_or_moves(folder: Path) -> None:
    write(folder, f"[devices.bench]\n{COMMAND}")
    path, data = devices.project_file() or (Path(), {})
    allowed.allow(path, data)
    assert ["sh", "-c", "touch escaped"] == list(devices.get("bench").connection["command"])
    write(folder, f'[devices.bench]\ndescription = "A word"\n{COMMAND}')
    assert "A word" == devices.get("bench").description
    write(folder, f"[devices.bench]\n{COMMAND.replace('touch', 'rm')}")
    with pytest.raises(UsageError):
        devices.get("bench")
    other = folder.parent / "other"
    other.mkdir()
    write(other, f"[devices.bench]\n{COMMAND}")
    assert "bench" not in devices.devices(other)


def test_this_machine_cannot_be_redefined(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EFFBENCH_ALLOW_PROJECT", "1")
    write(folder, f"[devices.local]\n{COMMAND}")
    assert devices.packaged()["local"] == devices.get("local")
    with pytest.raises(UsageError, match="cannot be redefined"):
        devices.devices()
    write(folder, "")
    devices.user_file().parent.mkdir(parents=True)
    devices.user_file().write_text(f"[devices.local]\n{COMMAND}")
    with pytest.raises(UsageError, match="cannot be redefined"):
        devices.devices()


def test_the_users_own_file_needs_no_permission(folder: Path) -> None:
    devices.user_file().parent.mkdir(parents=True)
    devices.user_file().write_text(f"[devices.bench]\n{COMMAND}")
    assert "pipe" == devices.get("bench").transport


@pytest.mark.parametrize("name", ["../../escaped", "a b", "x;touch escaped", "", "-d"])
def test_a_device_is_named_by_a_name(folder: Path, name: str) -> None:
    write(folder, f"[devices.{json.dumps(name)}]\nbase = 'local'\n")
    with pytest.raises(Exception, match="cannot be the name of a device"):
        devices.devices()


def test_a_suite_names_no_file_as_a_device(folder: Path) -> None:
    (folder / "evil.toml").write_text(f'name = "evil"\nbase = "local"\n{COMMAND}')
    write(folder, '[suite]\nmodels = ["regla_m"]\ndevices = ["evil.toml"]\n')
    with pytest.raises(UsageError, match=r"names the file 'evil\.toml'"):
        arguments([], {})


def test_factories_of_a_suite_have_to_be_allowed_or_named(folder: Path) -> None:
    write(folder, '[suite]\nmodels = ["evil:net", "regla_m"]\n')
    with pytest.raises(UsageError, match=r"suite\.models"):
        arguments([], {})
    assert ["evil:net"] == arguments(["evil:net"], {})["models"]
    write(folder, '[suite]\nmodels = ["regla_m"]\n')
    assert ["regla_m"] == arguments([], {})["models"]


def test_commands_in_a_hostile_folder_start_nothing(run: Any, tmp_path: Path) -> None:
    write(tmp_path, f"[suite]\ndevices = ['bench']\nmodels = ['regla_t']\n[devices.bench]\n{COMMAND}")
    own = {"EFFBENCH_ALLOW_PROJECT": "0", "EFFBENCH_CONFIG": str(tmp_path / "config")}
    for words in (
        ("profile", "--device", "bench"),
        ("sweep",),
        ("doctor", "--device", "bench"),
        ("devices", "--check"),
    ):
        assert run(*words, **own).returncode in (2, 4), words
    assert not (tmp_path / "escaped").exists()
    done = run("allow", "--yes", **own)
    assert (0, True) == (done.returncode, "allowed" in done.stdout)
    run("doctor", "--device", "bench", **own)
    assert (tmp_path / "escaped").exists()  # so the rule above is what kept it from starting


def test_a_program_of_a_suite_counts_as_a_factory() -> None:
    parts = allowed.sensitive_parts({"suite": {"models": ["regla_t", "nets/own.PT2", "x.onnx"]}})
    assert {"suite.models": ["nets/own.PT2"]} == parts


@pytest.mark.parametrize("name", ["own.pt2/.", "./own.pt2/", "own.pt2/./.", "nets//own.Pt2//"])
def test_a_program_of_a_suite_counts_as_a_factory_however_its_path_is_written(name: str) -> None:
    assert Path(name).suffix.lower() == ".pt2", "export would read it as a program"
    assert {"suite.models": [name]} == allowed.sensitive_parts({"suite": {"models": [name]}})
