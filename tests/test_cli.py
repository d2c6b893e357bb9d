"""The command line as a user meets it: exit codes, one clear sentence, no traceback, no network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import Run
from effbench.deploy.artifact import bundle
from effbench.schema import FORMAT_VERSION
from effbench.store import Store

pytestmark = pytest.mark.xdist_group("export")


def test_help_lists_every_command(run: Run) -> None:
    result = run("--help")
    assert result.returncode == 0
    for name in ("models", "targets", "devices", "doctor", "export", "verify", "profile", "report"):
        assert name in result.stdout
        assert run(name, "--help").returncode == 0


@pytest.mark.parametrize("command", ["models", "targets", "devices", "doctor"])
def test_json_is_one_document_and_nothing_else(run: Run, command: str) -> None:
    result = run(command, "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["format"] == FORMAT_VERSION
    assert result.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("export", "regal_m"), 2, "Did you mean regla_m"),
        (("exprot",), 2, "Did you mean export"),
        (("export", "regla_m", "-t", "ortt"), 2, "Did you mean ort"),
        (("export", "regla_m", "--res", "31"), 2, "32 px or more, not 31"),
        (("export", "regla_m", "--res", "100"), 2, "multiples of 32 px, not 100"),
        (("export", "regla_m", "--res", "big"), 2, "not a size in pixels"),
        (("export", "regla_m", "--batch", "0"), 2, "Batch 0"),
        (("export", "regla_m", "--precision", "fp8"), 2, "Valid: a16w8, fp16, fp32, int8"),
        (("export", "regla_m", "-t", "ort", "--set", "nonsense=1"), 2, "option of target 'ort'"),
        (("export", "regla_m", "-t", "ort", "--set", "nonsense"), 2, "expected key=value"),
        (("export", "regla_m", "--weights", "w.pth"), 2, "is a pickle"),
        (("export", "regla_m", "--weights", "none.safetensors"), 2, "no such file"),
        (("export", "none.onnx"), 2, "no such file"),
        (("verify", "nothing"), 2, "Unknown artifact"),
        (("profile", "regal_m"), 2, "Did you mean regla_m"),
        (("compare", "regla_t", "regal_m"), 2, "Did you mean regla_m"),
        (("profile", "--device", "iphone"), 2, "Unknown device"),
        (("profile", "--budget", "0"), 2, "no time to measure"),
        (("profile", "--threads", "0"), 2, "--threads 0"),
        (("report",), 2, "holds no measurement yet"),
        (("report", "--metric", "top2"), 2, "top"),
        (("models", "regla_x"), 2, "Did you mean regla"),
    ],
)
def test_bad_input_is_one_sentence_and_the_right_code(
    run: Run, arguments: tuple[str, ...], code: int, message: str
) -> None:
    result = run(*arguments)
    assert result.returncode == code, result.stdout + result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not (run.folder / "runs" / "artifacts").exists() or list((run.folder / "runs" / "artifacts").iterdir()) == []


def test_a_truncated_onnx_file_is_one_sentence(own: Run) -> None:
    graph = next(item for item in bundle.artifacts(own.folder / "runs") if item.subject.target == "onnx")
    (own.folder / "cut.onnx").write_bytes(graph.path.read_bytes()[:2000])
    result = own("export", "cut.onnx", "--res", "64", "-t", "ort")
    assert result.returncode == 2, result.stdout + result.stderr
    assert "Traceback" not in result.stdout + result.stderr
    assert len(list(bundle.artifacts(own.folder / "runs"))) == 4  # what was there stays


def test_a_tampered_manifest_is_refused_by_every_command(own: Run) -> None:
    artifact = next(item for item in bundle.artifacts(own.folder / "runs") if item.subject.target == "ort")
    path = artifact.folder / bundle.MANIFEST
    path.write_text(path.read_text().replace('"fp32"', '"fp16"'))
    for command in (("verify", str(artifact.folder)), ("profile", str(artifact.folder))):
        result = own(*command)
        assert result.returncode == 2, result.stdout + result.stderr
        assert "changed since it was written" in result.stderr


def test_a_file_in_place_of_the_folder_is_one_sentence(run: Run) -> None:
    (run.folder / "occupied").write_text("x")
    result = run("export", "toy:net", "--res", "64", "-t", "ort", "--out", "occupied")
    assert result.returncode == 2, result.stdout + result.stderr
    assert "Cannot write" in result.stdout + result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system")
def test_a_full_disk_is_one_sentence(own: Run) -> None:
    small = own.folder / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48k", "none", str(small)], check=False)
    if mounted.returncode != 0:
        pytest.skip("this machine does not allow mounting a file system")
    try:
        result = own("export", "toy:net", "--res", "64", "-t", "ort", "--out", "small")
        assert result.returncode == 2, result.stdout + result.stderr
        assert "No space left" in result.stdout + result.stderr
        assert "Traceback" not in result.stdout + result.stderr
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_completed_profile_and_report(own: Run) -> None:
    result = own("profile", "--rounds", "6", "--budget", "8", "-t", "ort", "--json")
    assert result.returncode == 0, result.stdout + result.stderr
    data = json.loads(result.stdout)["data"]
    (measured,) = data["measurements"]
    assert len(measured["samples"]["rounds"]) == 6
    assert measured["subject"]["target"] == "ort"
    (measurement,) = list(Store(own.folder / "runs"))
    assert measurement.run == measured["run"]
    shown = own("report", "--format", "markdown", "--format", "csv")
    assert shown.returncode == 0, shown.stderr
    assert "toy.net" in shown.stdout
    first = (own.folder / "runs" / "report-top1" / "report.md").read_bytes()
    own("report", "--format", "markdown")
    assert (own.folder / "runs" / "report-top1" / "report.md").read_bytes() == first


def test_a_size_that_was_not_exported_is_exported_and_reported(own: Run) -> None:
    result = own("profile", "toy:net", "--res", "96", "-t", "ort", "--rounds", "1", "--budget", "2")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "96" in result.stdout
    assert result.stdout.rstrip().splitlines()[-1].startswith("next: effbench report")


def test_an_interrupt_keeps_what_was_measured(own: Run) -> None:
    import signal
    import time

    command = [sys.executable, "-m", "effbench.cli", "profile", "-t", "ort", "--rounds", "50", "--budget", "500"]
    profile = subprocess.Popen(
        command,
        cwd=own.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A test run in the background of a shell inherits an ignored SIGINT; a user's terminal does not.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    store = Store(own.folder / "runs")
    for _ in range(600):
        if store.path.exists() and store.path.stat().st_size:
            break
        time.sleep(0.1)
    profile.send_signal(signal.SIGINT)
    out, err = profile.communicate(timeout=60)
    assert profile.returncode == 130, out + err
    assert "kept" in out + err
    assert len(list(store)) == 1


NO_NETWORK = '''
"""Any attempt to open a connection, or to unpickle, ends the process with a word that the test looks for."""
import builtins, os, pickle, socket, sys

def refuse(what):
    def call(*args, **kwargs):
        os.write(2, f"FORBIDDEN {what}\\n".encode())
        os._exit(99)
    return call

class NoSocket(socket.socket):
    def __init__(self, family=-1, *args, **kwargs):
        if family in (socket.AF_INET, socket.AF_INET6):
            refuse("socket")()
        super().__init__(family, *args, **kwargs)

socket.socket = NoSocket
socket.create_connection = socket.getaddrinfo = refuse("network")

class NoUnpickler(pickle.Unpickler):
    load = refuse("pickle")

pickle.load = pickle.loads = refuse("pickle")
pickle.Unpickler = NoUnpickler
'''


@pytest.mark.parametrize(
    "arguments",
    [
        ("models",),
        ("targets",),
        ("devices",),
        ("doctor",),
        ("export", "toy:net", "--res", "32", "-t", "ort", "-t", "ov", "-t", "torch"),
        ("verify", "toy"),
        ("profile", "-t", "ort", "-t", "ov", "--rounds", "1", "--budget", "2"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_no_command_opens_a_connection_or_a_pickle(own: Run, arguments: tuple[str, ...]) -> None:
    folder = own.folder / "guard"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(NO_NETWORK)
    if arguments[0] == "verify":
        artifact = next(item for item in bundle.artifacts(own.folder / "runs") if item.subject.target == "ov")
        arguments = ("verify", artifact.name)
    result = own(*arguments, PYTHONPATH=str(folder))
    assert "FORBIDDEN" not in result.stderr
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_guard_itself_works(own: Run) -> None:
    folder = own.folder / "guard"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(NO_NETWORK)
    for code in (
        "import socket; socket.create_connection(('127.0.0.1', 9))",
        "import pickle; pickle.loads(b'N.')",
        "import io, pickle; pickle.Unpickler(io.BytesIO(b'N.')).load()",
    ):
        result = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONPATH": str(folder)},
            capture_output=True,
            check=False,
        )
        assert result.returncode == 99


def test_completion_is_offered(run: Run) -> None:
    result = run("", _EFFBENCH_COMPLETE="bash_source")
    assert "_EFFBENCH_COMPLETE=bash_complete" in result.stdout


def test_the_public_names_exist() -> None:
    import effbench

    for name in effbench.__all__:
        assert getattr(effbench, name) is not None
    assert Path(effbench.__file__).name == "__init__.py"


def test_models_are_filtered_by_mixer_and_size(run: Run):
    models = json.loads(run("models", "--mixer", "LAMBDA", "--max-params", "12", "--max-macs", "5", "--json").stdout)
    assert ["lambda_resnet26"] == [item["name"] for item in models["data"]]
    assert "192 x 14 x 14" in run("models", "regla_m").stdout
