"""The adb transport: the real program without a device, and its commands against a stand-in that runs them here.

The stand-in passes the commands to this machine's shell instead of a phone's, so these tests cover the transfer of
commands, files, errors and outputs; nothing here counts as run on a device.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from effbench.errors import DeviceError, MeasurementError, UnavailableError, UsageError
from effbench.profiles import transports
from effbench.profiles.transports import android
from effbench.profiles.transports.channel import LostError
from effbench.schema import Device

STAND_IN = """#!/bin/sh
[ "$1" = "-s" ] && shift 2
verb=$1; shift
case $verb in
  shell) shift; exec sh -c "$*" ;;
  push|pull) exec cp "$1" "$2" ;;
esac
"""

RUNNER = """#!/bin/sh
printf '%s\\n' "$@" > "$(dirname "$0")/arguments"
echo "INFO: count=3 first=900 curr=800 min=700 max=900 avg=800 std=9"
echo "INFO: count=25 first=510 curr=500 min=490 max=600 avg=505 std=13"
echo "INFO: Inference timings in us: Init: 9231, First inference: 900, Warmup (avg): 800, Inference (avg): 505"
"""

BATTERY = """Current Battery Service state:
  AC powered: false
  USB powered: true
  level: 87
  temperature: 314
"""

THERMAL = """IsStatusOverride: false
ThermalEventListeners:
Thermal Status: 1
Current temperatures from HAL:
	Temperature{mValue=41.2, mType=0, mName=CPU0, mStatus=0}
	Temperature{mValue=36.9, mType=3, mName=skin, mStatus=1}
"""


@pytest.fixture
def phone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Device:
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, text in {"adb": STAND_IN, "dumpsys": "#!/bin/sh\nexit 1\n", "getprop": "#!/bin/sh\necho x\n"}.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    runner = tmp_path / "benchmark_model"
    runner.write_text(RUNNER)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    connection = {"serial": "emulated", "home": str(tmp_path / "phone"), "runner_litert": str(runner)}
    return Device("phone", "phone", "a stand-in", "adb", ("litert",), connection=connection)


def job(folder: str, **more: Any) -> dict[str, Any]:
    fields = {"op": "measure", "artifact": folder, "entry": "model.tflite", "target": "litert", "threads": 4}
    return {**fields, "min_samples": 12, "round_seconds": 2.0, "files": ["model.tflite"], "input_elements": 12, **more}


def test_a_round_holds_the_runner_s_figure(phone: Device, tmp_path: Path):
    link = transports.connect(phone)
    (tmp_path / "model.tflite").write_bytes(b"model")
    folder = link.put({"model.tflite": tmp_path / "model.tflite"}, "a model")
    (answer,) = link.run("effbench.device.agent", job(folder), time_limit_s=20)
    assert [505_000] == answer["round"]["samples_ns"]
    assert "mean of 25 runs" == answer["aggregate"]
    arguments = next((tmp_path / "phone").glob("*/runner/arguments")).read_text().splitlines()
    assert [f"--graph={folder}/model.tflite", "--num_threads=4", "--num_runs=20"] == arguments[:3]
    link.close()
    assert [] == list((tmp_path / "phone").iterdir())


@pytest.mark.parametrize("word", ["a b", "$(touch pwned)", "`id`", "'", '"', "*", "-n", "\\n", "", "ä;rm -rf x"])
def test_an_argument_arrives_unchanged(phone: Device, word: str):
    link = transports.connect(phone)
    assert f"[{word}]" == link.shell(["printf", "[%s]", word])  # type: ignore[attr-defined]
    link.close()


def test_an_argument_with_a_line_break_is_refused(phone: Device):
    link = transports.connect(phone)
    with pytest.raises(UsageError, match="line break"):
        link.shell(["echo", "a\nb"])  # type: ignore[attr-defined]


def test_the_error_of_a_failed_program_is_reported(phone: Device):
    link = transports.connect(phone)
    with pytest.raises(MeasurementError, match="No such file"):
        link.shell(["cat", "/nowhere/at/all"])  # type: ignore[attr-defined]


def test_a_device_that_does_not_answer_is_lost_after_the_time_limit(phone: Device):
    link = transports.connect(phone)
    with pytest.raises(LostError, match="within 1 s"):
        link.shell(["sleep", "20"], 1.0)  # type: ignore[attr-defined]


def test_jobs_that_a_phone_cannot_run_are_refused(phone: Device):
    link = transports.connect(phone)
    with pytest.raises(UnavailableError, match="has no Python"):
        list(link.run("effbench.device.agent", {"op": "verify"}, time_limit_s=5))
    with pytest.raises(UsageError, match="runner_onnxruntime"):
        list(link.run("effbench.device.agent", job("x", target="ort"), time_limit_s=5))
    with pytest.raises(UnavailableError, match="No runner times target 'coreml'"):
        list(link.run("effbench.device.agent", job("x", target="coreml"), time_limit_s=5))


def test_the_real_adb_without_a_device(monkeypatch: pytest.MonkeyPatch):
    if shutil.which("adb") is None:
        pytest.skip("adb is not installed (Debian: adb)")
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(server.getsockname()[1]))
    device = Device("phone", "phone", "", "adb", ("litert",), connection={"serial": "not-there-0"})
    try:
        with pytest.raises(DeviceError, match="is not connected"):
            transports.connect(device)
    finally:
        subprocess.run(["adb", "kill-server"], capture_output=True, check=False)


def test_cores_and_context_are_part_of_the_command():
    plan = android.plan("qnn", "/d/runner", job("/d/m", files=["model.onnx", "ctx.bin"]), {})
    assert "/d/m/ctx.bin" in plan.command
    assert ("taskset", "f0", "/d/runner/qnn") == android.pin(plan, "f0").command[:3]


def test_battery_and_thermal_status_are_read():
    assert {"battery_pct": 87, "power_source": "usb", "battery_temperature_c": 31.4} == android.battery(BATTERY)
    assert {"thermal_status": 1, "temperature_c": 36.9} == android.thermal(THERMAL)
    assert "light" == android.environment(android.thermal(THERMAL))["thermal_status"]
    assert ({}, {}) == (android.battery(""), android.thermal("no such service"))


def test_a_session_that_a_kill_left_on_a_phone_is_removed_by_the_next_one(
    phone: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("EFFBENCH_CACHE", str(tmp_path / "cache"))
    script = (
        "import os, sys; from effbench.profiles import transports; from effbench.schema import Device;"
        f"transports.connect(Device('phone', 'phone', 'x', 'adb', ('litert',), connection={phone.connection!r}));"
        "os.kill(os.getpid(), 9)"
    )
    active = transports.connect(phone)
    (held,) = (tmp_path / "phone").iterdir()
    assert -9 == subprocess.run([sys.executable, "-c", script], check=False).returncode
    assert 2 == len(list((tmp_path / "phone").iterdir()))
    other = Device("phone", "phone", "x", "adb", ("litert",), connection={**phone.connection, "serial": "another"})
    transports.connect(other).close()  # another phone's sessions are not looked at
    assert 2 == len(list((tmp_path / "phone").iterdir()))
    transports.connect(phone).close()
    assert [held] == list((tmp_path / "phone").iterdir())
    active.close()
    assert [] == [*(tmp_path / "phone").iterdir(), *(tmp_path / "cache" / "adb").iterdir()]
