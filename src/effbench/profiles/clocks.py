"""Lock the clocks of a device during a measurement, and restore them even if effbench is killed.

A detached watchdog makes the changes: it records the settings, changes them, and waits until its lease is withdrawn or
its owner has ended (the process that measures here, or the supervisor of a connection), even by kill -9. Then it
restores everything. If the watchdog itself is killed, the next one restores the recorded settings. It needs only the
standard library. A reboot undoes all of these settings.

Written from documentation and tested on file trees and stand-ins of the tools; not run on a Jetson or a GPU so far.

Source: Linux kernel, *CPU Performance Scaling*; Jetson Linux Developer Guide (jetson_clocks); nvidia-smi manual page
(--lock-gpu-clocks).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from effbench import reading
from effbench.boundary import isolation
from effbench.errors import DataError

POLL_S = 0.2
TOOL_LIMIT_S = 30.0
START_LIMIT_S = 40.0
JOURNAL, LEASE = "clocks.json", "clocks.lease"


@dataclass(frozen=True)
class Setting:
    """One change and its undo: a value in a file, or a command; ``description`` is shown to the user."""

    description: str
    path: str = ""
    value: str = ""
    before: str = ""
    command: tuple[str, ...] = ()
    undo: tuple[str, ...] = ()
    prepare: tuple[str, ...] = ()


class ClockError(Exception):
    """A setting could not be changed."""


def plan(root: Path, folder: Path) -> list[Setting]:
    """Return the settings that locking the clocks changes on this machine.

    Args:
        root: Root of the file system; tests pass another one.
        folder: The folder in which jetson_clocks stores the previous settings.
    """
    return [*_governors(root), *_jetson(root, folder), *_nvidia()]


def _governors(root: Path) -> Iterator[Setting]:
    for path in sorted((root / "sys/devices/system/cpu/cpufreq").glob("policy*/scaling_governor")):
        before = path.read_text().strip()
        available_file = path.with_name("scaling_available_governors")
        offered = available_file.read_text().split() if available_file.exists() else ["performance"]
        if before != "performance" and "performance" in offered:
            description = f"CPU governor of {path.parent.name}: {before} -> performance"
            yield Setting(description, path=str(path), value="performance", before=before)


def _jetson(root: Path, folder: Path) -> Iterator[Setting]:
    board = root / "proc/device-tree/compatible"
    tool = shutil.which("jetson_clocks")
    if tool and board.exists() and "tegra" in board.read_text(errors="replace").lower():
        settings_file = str(folder / "jetson_clocks.conf")
        description = (
            "Jetson: jetson_clocks (highest clocks of the current power mode), restored by jetson_clocks --restore"
        )
        yield Setting(
            description,
            command=(tool,),
            undo=(tool, "--restore", settings_file),
            prepare=(tool, "--store", settings_file),
        )


def _nvidia() -> Iterator[Setting]:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return
    query = "--query-gpu=index,clocks.default_applications.graphics,clocks.max.graphics"
    output = _run((tool, query, "--format=csv,noheader,nounits"))
    for line in output.splitlines():
        index, *clocks = (part.strip() for part in line.split(","))
        mhz = next((clock for clock in clocks if clock.isdigit()), None)
        if mhz is not None:
            description = f"NVIDIA GPU {index}: graphics clock locked at {mhz} MHz, released by nvidia-smi -rgc"
            yield Setting(
                description, command=(tool, "-i", index, "-lgc", f"{mhz},{mhz}"), undo=(tool, "-i", index, "-rgc")
            )


def _run(command: Sequence[str]) -> str:
    try:
        process = subprocess.run(command, capture_output=True, text=True, timeout=TOOL_LIMIT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ClockError(f"{command[0]}: {error}") from error
    if process.returncode != 0:
        last = (process.stderr.strip() or process.stdout.strip() or f"exit code {process.returncode}").splitlines()[-1]
        raise ClockError(f"{' '.join(command)}: {last}")
    return process.stdout


def change(setting: Setting) -> None:
    """Apply one setting.

    Raises:
        ClockError: The system refused it.
    """
    if setting.prepare:
        _run(setting.prepare)
    if setting.command:
        _run(setting.command)
    else:
        _write(setting.path, setting.value)


def undo(setting: Setting) -> None:
    """Restore one setting.

    Raises:
        ClockError: The system refused it.
    """
    if setting.undo:
        _run(setting.undo)
    else:
        _write(setting.path, setting.before)


def _write(path: str, value: str) -> None:
    try:
        Path(path).write_text(value)
    except OSError as error:
        raise ClockError(f"{path}: {error.strerror}") from error


def lock(root: Path, folder: Path, owner: int) -> list[str]:
    """Start a watchdog that locks the clocks while ``owner`` runs and the lease exists; return its changes.

    If this user lacks permission, ``sudo -n`` starts the watchdog; it never asks for a password.

    Raises:
        ClockError: A setting was refused and earlier changes are undone, or this is Windows.
    """
    if sys.platform == "win32":
        raise ClockError("only Linux and macOS allow it")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / LEASE).write_text(str(owner))
    # It may run as root, so no module of the current folder may be imported there.
    words = isolation.command("effbench.profiles.clocks", str(root), str(folder), str(owner))
    command = ["env", f"PATH={os.environ.get('PATH', '')}", *words]
    permitted = os.geteuid() == 0 or all(
        not setting.command and os.access(setting.path, os.W_OK) for setting in plan(root, folder)
    )
    if not permitted and shutil.which("sudo"):
        command = ["sudo", "-n", *command]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    line = process.stdout.readline()
    process.wait()
    process.stdout.close()
    if not line:
        last = process.stderr.read().decode(errors="replace").strip().splitlines()[-1:]
        process.stderr.close()
        raise ClockError(last[0] if last else "the watchdog did not start")
    process.stderr.close()
    answer = reading.json_value(line, "the watchdog's answer")
    if "error" in answer:
        raise ClockError(answer["error"])
    descriptions: list[str] = answer["locked"]
    return descriptions


def unlock(folder: Path, limit_s: float = START_LIMIT_S) -> bool:
    """Withdraw the lease and wait for the watchdog; return whether everything was restored."""
    (folder / LEASE).unlink(missing_ok=True)
    end = time.monotonic() + limit_s
    while (folder / JOURNAL).exists() and time.monotonic() < end:
        time.sleep(POLL_S / 2)
    return not (folder / JOURNAL).exists()


def watch(root: Path, folder: Path, owner: int) -> None:
    """Run the watchdog."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # through `finally`, which restores everything
    born = start_time(owner)
    _wait_for_others(folder)
    changed: list[Setting] = []
    try:
        settings = plan(root, folder)
        _note(folder, settings)
        for setting in settings:
            changed.append(setting)
            change(setting)
        _say({"locked": [setting.description for setting in settings]})
        while (folder / LEASE).exists() and start_time(owner) == born:
            time.sleep(POLL_S)
    except ClockError as error:
        _say({"error": str(error)})
    finally:
        refused = _put_back(changed)
        _note(folder, refused)


def _wait_for_others(folder: Path) -> None:
    """Wait until a running watchdog ends; restore the settings that a killed one recorded."""
    end = time.monotonic() + START_LIMIT_S / 2
    while (noted := _noted(folder)) is not None:
        pid, born, settings = noted
        if start_time(pid) != born:
            _note(folder, _put_back(settings))
            return
        if time.monotonic() > end:
            _say({"error": f"clocks are locked by another effbench (watchdog {pid})"})
            sys.exit(1)
        time.sleep(POLL_S)


def _put_back(settings: Sequence[Setting]) -> list[Setting]:
    """Undo settings, the last first; return those that the system refused."""
    refused = []
    for setting in reversed(settings):
        try:
            undo(setting)
        except ClockError:
            refused.append(setting)
    return refused


def _note(folder: Path, settings: Sequence[Setting]) -> None:
    """Record the settings to restore before they are changed; remove the record if there are none."""
    if not settings:
        (folder / JOURNAL).unlink(missing_ok=True)
        return
    data = {"pid": os.getpid(), "born": start_time(os.getpid()), "settings": [asdict(setting) for setting in settings]}
    with tempfile.NamedTemporaryFile("w", dir=folder, prefix=".clocks-", delete=False) as draft:
        json.dump(data, draft)
        draft.flush()
        os.fsync(draft.fileno())
    Path(draft.name).replace(folder / JOURNAL)


def _noted(folder: Path) -> tuple[int, str, list[Setting]] | None:
    try:
        data = reading.json_file(folder / JOURNAL)
    except DataError:
        return None
    lists = ("command", "undo", "prepare")
    settings = []
    for entry in data["settings"]:
        fields: dict[str, Any] = {key: tuple(value) if key in lists else value for key, value in entry.items()}
        settings.append(Setting(**fields))
    return int(data["pid"]), str(data["born"]), settings


def start_time(pid: int) -> str:
    """Return the start time of a process, which detects a reused pid; an empty string if it has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if stat[0] in "ZX" else stat[19]


def _say(answer: dict[str, object]) -> None:
    with contextlib.suppress(OSError):
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    if os.fork():
        os._exit(0)  # detached: the parent waits only for this process
    watch(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
