"""Locked clocks are restored: the watchdog and the owners that are killed are real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from effbench.profiles import clocks

NVIDIA = """#!/bin/sh
echo "$@" >> "$LOG"
case "$1" in --query-gpu*) echo "0, [N/A], 1980"; echo "1, 1410, 1980";; esac
case "$REFUSE$*" in yes*-lgc*) echo "Insufficient permissions" >&2; exit 4;; esac
"""
JETSON = '#!/bin/sh\necho "$@" >> "$LOG"\n[ "$1" = --store ] && echo kept > "$2"\nexit 0\n'


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a file tree with two governors, with no tool on the PATH."""
    for index in range(2):
        folder = tmp_path / f"root/sys/devices/system/cpu/cpufreq/policy{index}"
        folder.mkdir(parents=True)
        (folder / "scaling_governor").write_text("schedutil\n")
        (folder / "scaling_available_governors").write_text("performance powersave schedutil\n")
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}/usr/bin{os.pathsep}/bin")
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    yield tmp_path / "root"
    clocks.unlock(tmp_path / "home")


def tool(root: Path, name: str, text: str) -> Callable[[], list[str]]:
    """Put a stand-in of a vendor's tool on the PATH; return a function that reads its calls."""
    path = root.parent / "bin" / name
    path.write_text(text)
    path.chmod(0o755)
    return lambda: (root.parent / "log").read_text().splitlines()


def governors(root: Path) -> set[str]:
    return {path.read_text().strip() for path in root.rglob("scaling_governor")}


def soon(condition: Callable[[], bool], limit_s: float = 15.0) -> bool:
    end = time.monotonic() + limit_s
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


@pytest.fixture
def owner() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "600"])
    yield process
    process.kill()
    process.wait()


def test_clocks_are_locked_and_restored_by_unlock(root: Path, owner: Any):
    home = root.parent / "home"
    locked = clocks.lock(root, home, owner.pid)
    assert [f"CPU governor of policy{index}: schedutil -> performance" for index in range(2)] == locked
    assert {"performance"} == governors(root)
    assert clocks.unlock(home)
    assert {"schedutil"} == governors(root)
    assert [] == list(home.iterdir())


def test_clocks_are_restored_when_the_owner_is_killed(root: Path, owner: Any):
    clocks.lock(root, root.parent / "home", owner.pid)
    assert {"performance"} == governors(root)
    owner.kill()
    owner.wait()
    assert soon(lambda: {"schedutil"} == governors(root))


def test_the_next_watchdog_restores_the_settings_of_a_killed_one(root: Path, owner: Any):
    home = root.parent / "home"
    clocks.lock(root, home, owner.pid)
    watchdog = json.loads((home / clocks.JOURNAL).read_text())["pid"]
    os.kill(watchdog, signal.SIGKILL)
    assert soon(lambda: clocks.start_time(watchdog) == "")
    assert {"performance"} == governors(root)
    locked = clocks.lock(root, home, owner.pid)
    assert ["schedutil -> performance"] * 2 == [text.partition(": ")[2] for text in locked]
    assert clocks.unlock(home)
    assert {"schedutil"} == governors(root)


def test_clocks_that_are_locked_already_are_not_changed(root: Path):
    for path in root.rglob("scaling_governor"):
        path.write_text("performance\n")
    assert [] == clocks.plan(root, root.parent / "home")


def test_a_gpu_is_locked_and_released(root: Path, owner: Any):
    calls = tool(root, "nvidia-smi", NVIDIA)
    home = root.parent / "home"
    clocks.lock(root, home, owner.pid)
    assert ["-i 0 -lgc 1980,1980", "-i 1 -lgc 1410,1410"] == [call for call in calls() if "-lgc" in call]
    assert clocks.unlock(home)
    assert ["-i 1 -rgc", "-i 0 -rgc"] == [call for call in calls() if "-rgc" in call]


def test_a_refused_setting_is_reported_and_the_others_are_undone(
    root: Path, owner: Any, monkeypatch: pytest.MonkeyPatch
):
    tool(root, "nvidia-smi", NVIDIA)
    monkeypatch.setenv("REFUSE", "yes")
    with pytest.raises(clocks.ClockError, match="Insufficient permissions"):
        clocks.lock(root, root.parent / "home", owner.pid)
    assert soon(lambda: {"schedutil"} == governors(root))


def test_a_jetson_s_clocks_are_stored_first(root: Path, owner: Any):
    calls = tool(root, "jetson_clocks", JETSON)
    (root / "proc/device-tree").mkdir(parents=True)
    (root / "proc/device-tree/compatible").write_text("nvidia,p3767-0005\0nvidia,tegra234\0")
    home = root.parent / "home"
    clocks.lock(root, home, owner.pid)
    assert clocks.unlock(home)
    settings_file = str(home / "jetson_clocks.conf")
    assert [f"--store {settings_file}", "", f"--restore {settings_file}"] == calls()


@pytest.mark.xdist_group("export")
def test_clocks_are_restored_when_effbench_is_killed(own: Any, root: Path):
    calls = tool(root, "nvidia-smi", NVIDIA)
    command = [sys.executable, "-m", "effbench.cli", "profile", "toy.net-64-b1-fp32-ort", "--rounds", "9"]
    env = {**os.environ, "HOME": str(root.parent / "home")}
    silent: dict[str, Any] = {"capture_output": True, "text": True, "stdin": subprocess.DEVNULL, "check": False}
    process = subprocess.run([*command, "--lock-clocks"], cwd=own.folder, env=env, **silent)
    assert (2, True) == (process.returncode, "Add --yes" in process.stderr), process.stderr
    assert "NVIDIA GPU 1: graphics clock locked at 1410 MHz" in process.stderr
    assert not any("-lgc" in call for call in calls())
    running = subprocess.Popen([*command, "--lock-clocks", "--yes"], cwd=own.folder, env=env, stderr=subprocess.DEVNULL)
    store = own.folder / "runs/measurements.jsonl"
    assert soon(lambda: store.exists() and store.stat().st_size > 0, 60)
    assert "locked" == json.loads(store.read_text().splitlines()[0])["settings"]["clocks"]
    assert not any("-rgc" in call for call in calls())
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert soon(lambda: any("-rgc" in call for call in calls()))
