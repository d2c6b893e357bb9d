"""A device behind a test ssh server on 127.0.0.1: the real protocol, and every way to lose the connection.

Needs Debian's openssh-server (and openssh-client for the keys); libfaketime and ip-netns for one test each.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import loopback
import numpy as np
import pytest
from loopback import Server, commands, soon, trust
from PIL import Image

from effbench.api.export.verification import verify
from effbench.api.profile.run import Profile, profile
from effbench.deploy.artifact import bundle
from effbench.errors import DeviceError
from effbench.profiles import transports
from effbench.profiles.transports.channel import LostError
from effbench.schema import Device
from effbench.store import Store

pytest.importorskip("asyncssh", reason="asyncssh is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("ssh")]

OBSERVE = {"op": "observe"}


def left(home: Path) -> list[str]:
    return [path.name for path in home.iterdir() if path.name != "agents"]


def agents_of(home: Path) -> list[str]:
    return [line for line in commands().values() if f"{home}/" in line]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    reason = loopback.missing()
    if reason is not None:
        pytest.skip(reason)
    running = loopback.make(tmp_path / "sshd")
    running.start()
    yield running
    running.stop()


@pytest.fixture
def device(server: Server, tmp_path: Path) -> Device:
    return loopback.device_of(server, tmp_path / "home")


@pytest.fixture
def work(own: Any, device: Device, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with the exported toy model that declares the device `loopback`."""
    monkeypatch.chdir(own.folder)
    lines = [f"{key} = {value!r}".replace("'", '"') for key, value in device.connection.items()]
    (own.folder / "effbench.toml").write_text(
        '[devices.loopback]\ntransport = "ssh"\ntargets = ["ort"]\n[devices.loopback.connection]\n' + "\n".join(lines)
    )
    folder: Path = own.folder
    return folder


def artifact(work: Path) -> str:
    return str(next(item for item in bundle.artifacts(work / "runs") if item.subject.target == "ort").folder)


def measured(work: Path, **more: Any) -> Profile:
    return profile([artifact(work)], device="loopback", out=work / "runs", **{"rounds": 3, "budget_s": 4.0, **more})


def while_measuring(server: Server, act: Callable[[], None]) -> threading.Thread:
    """Call a function once an agent runs on the server."""

    def wait() -> None:
        if soon(lambda: any("agents/" in line for line in arguments(server)), 30.0):
            time.sleep(0.5)
            act()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def arguments(server: Server) -> list[str]:
    command_lines = commands()
    return [command_lines.get(pid, "") for pid in server.tree()]


def clean(server: Server, home: Path) -> bool:
    return soon(lambda: left(home) == [] and len(server.tree()) == 1 and agents_of(home) == [])


def test_a_profile_over_ssh_leaves_no_files(server: Server, work: Path, tmp_path: Path):
    result = measured(work)
    (measurement,) = result.measurements
    assert ("loopback", 3, (), ()) == (
        measurement.device,
        len(measurement.samples.rounds),
        result.cells,
        measurement.notes,
    )
    assert clean(server, tmp_path / "home")


def test_a_sweep_covers_a_device_behind_ssh_and_this_machine(server: Server, own: Any, work: Path, tmp_path: Path):
    line = ("sweep", "toy:net", "--res", "64", "-t", "ort", "--rounds", "2", "--budget", "2", "--threads", "1")
    process = own(*line, "--devices", "loopback,local", "--json")
    assert 0 == process.returncode, process.stdout + process.stderr
    jobs = json.loads(process.stdout)["data"]["jobs"]
    assert [("local", "ok", 2), ("loopback", "ok", 2)] == sorted((o["device"], o["status"], o["rounds"]) for o in jobs)
    assert ["local", "loopback"] == sorted(job.device for job in Store(work / "runs"))
    assert clean(server, tmp_path / "home")
    second = own(*line, "--devices", "loopback,local")
    assert "2 jobs: 2 ok (2 of them from an earlier sweep)" in second.stdout


def test_an_evaluation_over_ssh_equals_a_local_one(server: Server, own: Any, work: Path, tmp_path: Path):
    rng = np.random.default_rng(0)
    for label in range(10):
        (folder := work / "images" / f"class{label}").mkdir(parents=True)
        for index in range(3):
            Image.fromarray(rng.integers(0, 256, (70, 90, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    results = {}
    for device in ("local", "loopback"):
        process = own("evaluate", artifact(work), "--data", "images", "--device", device, "--out", device, "--json")
        assert 0 == process.returncode, process.stdout + process.stderr
        (stored,) = (json.loads(text) for text in (work / device / "evaluations.jsonl").read_text().splitlines()[:1])
        results[device] = stored["predictions"]["top1"]
    assert 30 == len(results["local"])
    assert results["local"] == results["loopback"]
    assert clean(server, tmp_path / "home")


def test_a_wrong_host_key_is_refused(server: Server, device: Device):
    trust(server, "other")
    with pytest.raises(DeviceError, match="host key of 'loopback'"):
        transports.connect(device)
    assert soon(lambda: len(server.tree()) == 1)


def test_an_unknown_host_key_is_refused(server: Server, device: Device):
    (server.folder / "known").write_text("")
    with pytest.raises(DeviceError, match=r"(?s)host key.*never accepts"):
        transports.connect(device)
    assert "" == (server.folder / "known").read_text()


def test_a_rejected_key_is_reported(server: Server, device: Device):
    connection = {**device.connection, "key": str(server.folder / "other")}
    with pytest.raises(DeviceError, match="refused the login"):
        transports.connect(replace(device, connection=connection))


def test_a_closed_port_is_reported(server: Server, device: Device):
    server.stop()
    start = time.monotonic()
    with pytest.raises(LostError, match="does not answer"):
        transports.connect(device)
    assert time.monotonic() - start < 10 + 5


def test_a_port_that_never_answers(device: Device):
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        connection = {**device.connection, "port": mute.getsockname()[1], "timeout_s": 2}
        start = time.monotonic()
        with pytest.raises(LostError):
            transports.connect(replace(device, connection=connection))
        assert time.monotonic() - start < 2 + 5


def test_an_unreachable_device_is_one_cell_with_a_reason_in_time(server: Server, work: Path):
    server.stop()
    with socket.socket() as mute:
        # Connections closed by the server hold its port for a minute.
        mute.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        mute.bind((server.address, server.port))
        mute.listen()
        start = time.monotonic()
        result = measured(work)
        assert time.monotonic() - start < 10 + 5
    (cell,) = result.cells
    assert ("failed", 4, ()) == (cell.status, cell.exit_code, result.measurements)
    assert cell.reason


def test_a_dropped_connection_loses_one_round(server: Server, work: Path, tmp_path: Path):
    def drop() -> None:
        sessions = [pid for pid in server.tree()[1:] if "sshd" in Path(f"/proc/{pid}/comm").read_text()]
        os.kill(sessions[-1], signal.SIGKILL)

    thread = while_measuring(server, drop)
    result = measured(work, rounds=4, budget_s=8.0)
    thread.join()
    (measurement,) = result.measurements
    assert 3 == len(measurement.samples.rounds)
    assert measurement.notes[0].startswith("1 round lost: ")
    assert clean(server, tmp_path / "home")


def test_a_reboot_in_mid_round_loses_one_round(server: Server, work: Path, tmp_path: Path):
    def reboot() -> None:
        server.power_off()
        time.sleep(0.5)
        server.start()

    thread = while_measuring(server, reboot)
    result = measured(work, rounds=4, budget_s=8.0)
    thread.join()
    (measurement,) = result.measurements
    assert len(measurement.samples.rounds) >= 2
    assert re.match(r"\d rounds? lost: ", measurement.notes[0])
    assert clean(server, tmp_path / "home")


def test_a_device_lost_for_good_ends_as_a_cell_with_a_reason(server: Server, work: Path, tmp_path: Path):
    thread = while_measuring(server, server.power_off)
    start = time.monotonic()
    result = measured(work, rounds=8, budget_s=16.0)
    thread.join()
    assert time.monotonic() - start < 60
    (cell,) = result.cells
    assert ("failed", 4) == (cell.status, cell.exit_code)
    assert "does not answer" in cell.reason or "connection" in cell.reason
    assert [] == agents_of(tmp_path / "home")


def test_a_killed_work_station_leaves_nothing_on_the_device(server: Server, work: Path, tmp_path: Path):
    command = [sys.executable, "-m", "effbench.cli", "profile", artifact(work), "--device", "loopback"]
    running = subprocess.Popen([*command, "--rounds", "9", "--budget", "60"], cwd=work, stdout=subprocess.DEVNULL)
    assert soon(lambda: any("agents/" in line for line in arguments(server)), 60.0)
    running.kill()
    running.wait()
    assert clean(server, tmp_path / "home")


def test_an_interrupt_keeps_what_was_measured(server: Server, work: Path, tmp_path: Path):
    command = [sys.executable, "-m", "effbench.cli", "profile", artifact(work), "--device", "loopback"]
    # If a shell started the tests in the background, they and their children ignore the signal.
    running = subprocess.Popen(
        [*command, "--rounds", "9", "--budget", "60"],
        cwd=work,
        stdout=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    store = work / "runs" / "measurements.jsonl"
    assert soon(lambda: store.exists() and len(store.read_text().splitlines()) >= 1, 90.0)
    running.send_signal(signal.SIGINT)
    assert 130 == running.wait(20)
    assert clean(server, tmp_path / "home")


def test_a_full_disk_is_reported(server: Server, device: Device, tmp_path: Path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mount.returncode != 0:
        pytest.skip("no file system can be mounted here (it takes root)")
    try:
        link = transports.connect(replace(device, connection={**device.connection, "home": str(disk)}))
        big = tmp_path / "big"
        big.write_bytes(bytes(4 << 20))
        with pytest.raises(DeviceError, match="disk of 'loopback' is full"):
            link.put({"big": big}, "model")
        link._facts["free_bytes"] = 1 << 40  # type: ignore[attr-defined]
        with pytest.raises(DeviceError, match="disk of 'loopback' is full"):
            link.put({"big": big}, "model")
        assert 1 == len(list(link.run("effbench.device.agent", OBSERVE, time_limit_s=60)))
        link.close()
        assert soon(lambda: left(disk) == [])
    finally:

        def unmounted() -> bool:
            subprocess.run(["umount", str(disk)], capture_output=True, check=False)
            return not disk.is_mount()

        assert soon(unmounted)


def test_a_clock_that_runs_fast_is_refused(server: Server, work: Path, tmp_path: Path):
    library = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
    if library is None:
        pytest.skip("libfaketime is not installed (Debian: faketime)")
    fast = tmp_path / "fast-python"
    fast.write_text(f'#!/bin/sh\nLD_PRELOAD={library} FAKETIME="+0 x8" exec {sys.executable} "$@"\n')
    fast.chmod(0o755)
    text = (work / "effbench.toml").read_text()
    (work / "effbench.toml").write_text(text.replace(f'python = "{sys.executable}"', f'python = "{fast}"'))
    result = measured(work)
    (cell,) = result.cells
    assert "it jumped, or runs fast" in cell.reason
    assert () == result.measurements
    assert clean(server, tmp_path / "home")


@pytest.fixture
def namespaces() -> Iterator[tuple[str, str]]:
    """Yield two connected network namespaces: this one at 10.231.0.1, another at 10.231.0.2."""
    name = f"effbench{os.getpid()}"
    steps = [
        f"ip netns add {name}",
        f"ip link add {name[:13]}a type veth peer name {name[:13]}b",
        f"ip link set {name[:13]}b netns {name}",
        f"ip addr add 10.231.0.1/24 dev {name[:13]}a",
        f"ip link set {name[:13]}a up",
        f"ip netns exec {name} ip addr add 10.231.0.2/24 dev {name[:13]}b",
        f"ip netns exec {name} ip link set {name[:13]}b up",
    ]
    try:
        for step in steps:
            if shutil.which("ip") is None or subprocess.run(step.split(), capture_output=True, check=False).returncode:
                pytest.skip(f"no second network namespace can be made here ({step})")
        yield name, f"{name[:13]}a"
    finally:
        subprocess.run(["ip", "link", "del", f"{name[:13]}a"], capture_output=True, check=False)
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def test_a_cut_network_leaves_nothing_on_either_side(
    server: Server, device: Device, namespaces: tuple[str, str], tmp_path: Path
):
    name, cable = namespaces
    server.stop()
    server.address, server.prefix = "10.231.0.2", ("ip", "netns", "exec", name)
    trust(server, "host")
    server.start()
    assert soon(server.answers)
    endless = tmp_path / "endless"
    endless.mkdir()
    (endless / "endless.py").write_text("import time\nwhile True:\n    time.sleep(1)\n")
    server.environment["PYTHONPATH"] = str(endless)
    server.stop()
    server.start()
    assert soon(server.answers)
    link = transports.connect(replace(device, connection={**device.connection, "host": "10.231.0.2"}))
    running = link.run("endless", {}, time_limit_s=6)
    threading.Timer(1.5, subprocess.run, (["ip", "link", "set", cable, "down"],)).start()
    start = time.monotonic()
    with pytest.raises(LostError, match="did not answer within"):
        list(running)
    assert time.monotonic() - start < 6 + 5
    link.close()
    home = tmp_path / "home"
    assert soon(lambda: agents_of(home) == [] and left(home) == [], 6 + 5)


@pytest.fixture
def board(server: Server, device: Device, tmp_path: Path) -> Device:
    """Return a Jetson-like host: aarch64 Python, numpy and ONNX Runtime under qemu-user, behind the test sshd."""
    root, qemu = os.environ.get("EFFBENCH_AARCH64_ROOT"), shutil.which("qemu-aarch64-static")
    if root is None or qemu is None:
        pytest.skip("no aarch64 Python: qemu-user-static, and EFFBENCH_AARCH64_ROOT (benchmarks/aarch64_root.py)")
    tools = tmp_path / "aarch64"
    tools.mkdir()
    (tools / "python3").write_text(f'#!/bin/sh\nexec {qemu} -L {root} {root}/usr/bin/python3.11 "$@"\n')
    (tools / "python3").chmod(0o755)
    server.stop()
    server.environment["PATH"] = f"{tools}:/usr/bin:/bin"
    server.start()
    connection = {**device.connection, "python": str(tools / "python3"), "timeout_s": 60}
    return replace(device, name="board", connection=connection, evidence="emulated")


@pytest.mark.timeout(600)
def test_an_aarch64_host_gives_the_right_result_and_an_emulated_latency(
    board: Device, own: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(own.folder)
    declared = "".join(f"{key} = {value!r}\n".replace("'", '"') for key, value in board.connection.items())
    head = '[devices.board]\ntransport = "ssh"\ntargets = ["ort"]\nevidence = "emulated"\n[devices.board.connection]\n'
    (own.folder / "effbench.toml").write_text(head + declared)
    (cell,) = verify([artifact(own.folder)], device="board", out=own.folder / "runs")
    assert ("ok", True) == (cell.status, cell.fidelity and cell.fidelity.passed)
    result = profile([artifact(own.folder)], device="board", rounds=2, budget_s=4.0, out=own.folder / "runs")
    assert () == result.cells
    (measurement,) = result.measurements
    assert ("emulated", "aarch64") == (measurement.origin, measurement.before["machine"])
    assert "onnxruntime 1.22.1" == measurement.before["runtime"]
    report = own("report").stdout
    assert "board, 64 px (emulated)" in report
    assert "the time of an emulator is not a latency" in report or "no accuracy" in report
