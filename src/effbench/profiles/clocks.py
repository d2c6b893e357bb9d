"""Lock the clocks of a device while it is measured, and put them back whatever happens to effbench.

A detached watchdog makes the changes, so that nobody else has to undo them: it writes down what was there, changes it,
and waits until its lease is withdrawn or its owner is gone (the process that measures here, or the supervisor of a
connection), even by a kill -9. Then it puts everything back. Should the watchdog itself be killed, the next one puts
back what it wrote down. It needs the standard library alone. A reboot undoes all of these settings by itself.

Written from documentation and tried on file trees and stand-ins of the tools; not run on a Jetson or a GPU so far.

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

POLL_S = 0.2
TOOL_LIMIT_S = 30.0
START_LIMIT_S = 40.0
JOURNAL, LEASE = "clocks.json", "clocks.lease"


@dataclass(frozen=True)
class Setting:
    """One change and how it is undone: a value in a file, or a command; ``said`` is what a person is asked."""

    said: str
    path: str = ""
    value: str = ""
    before: str = ""
    command: tuple[str, ...] = ()
    undo: tuple[str, ...] = ()
    prepare: tuple[str, ...] = ()


class ClockError(Exception):
    """A setting could not be changed."""


def plan(root: Path, folder: Path) -> list[Setting]:
    """Return what locking the clocks would change on this machine.

    Args:
        root: Of the file system; tests give another one.
        folder: Where jetson_clocks may store what was there.
    """
    return [*_governors(root), *_jetson(root, folder), *_nvidia()]


def _governors(root: Path) -> Iterator[Setting]:
    for path in sorted((root / "sys/devices/system/cpu/cpufreq").glob("policy*/scaling_governor")):
        before = path.read_text().strip()
        known = path.with_name("scaling_available_governors")
        offered = known.read_text().split() if known.exists() else ["performance"]
        if before != "performance" and "performance" in offered:
            said = f"CPU governor of {path.parent.name}: {before} -> performance"
            yield Setting(said, path=str(path), value="performance", before=before)


def _jetson(root: Path, folder: Path) -> Iterator[Setting]:
    board = root / "proc/device-tree/compatible"
    tool = shutil.which("jetson_clocks")
    if tool and board.exists() and "tegra" in board.read_text(errors="replace").lower():
        kept = str(folder / "jetson_clocks.conf")
        said = "Jetson: jetson_clocks (highest clocks of the present power mode), put back by jetson_clocks --restore"
        yield Setting(said, command=(tool,), undo=(tool, "--restore", kept), prepare=(tool, "--store", kept))


def _nvidia() -> Iterator[Setting]:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return
    query = "--query-gpu=index,clocks.default_applications.graphics,clocks.max.graphics"
    found = _run((tool, query, "--format=csv,noheader,nounits"))
    for line in found.splitlines():
        index, *clocks = (part.strip() for part in line.split(","))
        mhz = next((clock for clock in clocks if clock.isdigit()), None)
        if mhz is not None:
            said = f"NVIDIA GPU {index}: graphics clock locked at {mhz} MHz, freed by nvidia-smi -rgc"
            yield Setting(said, command=(tool, "-i", index, "-lgc", f"{mhz},{mhz}"), undo=(tool, "-i", index, "-rgc"))


def _run(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TOOL_LIMIT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ClockError(f"{command[0]}: {error}") from error
    if done.returncode != 0:
        last = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise ClockError(f"{' '.join(command)}: {last}")
    return done.stdout


def change(setting: Setting) -> None:
    """Make one change.

    Raises:
        ClockError: It was refused.
    """
    if setting.prepare:
        _run(setting.prepare)
    if setting.command:
        _run(setting.command)
    else:
        _write(setting.path, setting.value)


def undo(setting: Setting) -> None:
    """Put one setting back.

    Raises:
        ClockError: It was refused.
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
    """Start a watchdog that locks the clocks while ``owner`` lives and the lease is there; returns what it did.

    Where this user may not, the watchdog is started through ``sudo -n``, which never asks for a password.

    Raises:
        ClockError: A setting was refused and what was changed is put back, or this is Windows.
    """
    if sys.platform == "win32":
        raise ClockError("only Linux and macOS let a program do it")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / LEASE).write_text(str(owner))
    package = str(Path(__file__).parent.parent.parent)
    words = [sys.executable, "-m", "effbench.profiles.clocks", str(root), str(folder), str(owner)]
    command = ["env", f"PYTHONPATH={package}", f"PATH={os.environ.get('PATH', '')}", *words]
    mine = os.geteuid() == 0 or all(not one.command and os.access(one.path, os.W_OK) for one in plan(root, folder))
    if not mine and shutil.which("sudo"):
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
    answer = json.loads(line)
    if "error" in answer:
        raise ClockError(answer["error"])
    done: list[str] = answer["locked"]
    return done


def unlock(folder: Path, limit_s: float = START_LIMIT_S) -> bool:
    """Withdraw the lease and wait for the watchdog; returns whether everything was put back."""
    (folder / LEASE).unlink(missing_ok=True)
    end = time.monotonic() + limit_s
    while (folder / JOURNAL).exists() and time.monotonic() < end:
        time.sleep(POLL_S / 2)
    return not (folder / JOURNAL).exists()


def watch(root: Path, folder: Path, owner: int) -> None:
    """Be the watchdog."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # through `finally`, which puts everything back
    born = start_time(owner)
    _wait_for_others(folder)
    changed: list[Setting] = []
    try:
        wanted = plan(root, folder)
        _note(folder, wanted)
        for setting in wanted:
            changed.append(setting)
            change(setting)
        _say({"locked": [setting.said for setting in wanted]})
        while (folder / LEASE).exists() and start_time(owner) == born:
            time.sleep(POLL_S)
    except ClockError as error:
        _say({"error": str(error)})
    finally:
        left = _put_back(changed)
        _note(folder, left)


def _wait_for_others(folder: Path) -> None:
    """Let a watchdog that is still at work end; put back what one that was killed has left."""
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
    """Undo settings, the last first; returns those that were refused."""
    left = []
    for setting in reversed(settings):
        try:
            undo(setting)
        except ClockError:
            left.append(setting)
    return left


def _note(folder: Path, settings: Sequence[Setting]) -> None:
    """Write down what has to be put back, before it is changed; nothing is left when there is nothing."""
    if not settings:
        (folder / JOURNAL).unlink(missing_ok=True)
        return
    data = {"pid": os.getpid(), "born": start_time(os.getpid()), "settings": [asdict(one) for one in settings]}
    with tempfile.NamedTemporaryFile("w", dir=folder, prefix=".clocks-", delete=False) as draft:
        json.dump(data, draft)
        draft.flush()
        os.fsync(draft.fileno())
    Path(draft.name).replace(folder / JOURNAL)


def _noted(folder: Path) -> tuple[int, str, list[Setting]] | None:
    try:
        data = json.loads((folder / JOURNAL).read_text())
    except (OSError, ValueError):
        return None
    lists = ("command", "undo", "prepare")
    found = []
    for one in data["settings"]:
        fields: dict[str, Any] = {key: tuple(value) if key in lists else value for key, value in one.items()}
        found.append(Setting(**fields))
    return int(data["pid"]), str(data["born"]), found


def start_time(pid: int) -> str:
    """Return when a process began, so that its number is not taken for another's; nothing where it is gone."""
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
        os._exit(0)  # detached: whoever started it waits for this process alone
    watch(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
