"""Run a command in a network namespace without interfaces and an empty home, and record what it tried to reach."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

MODEL, EXPORTED = "toy:net", "toy.net-64-b1-fp32-ort"
COMMANDS = (
    *(("models",), ("targets",), ("devices",), ("doctor",), ("allow", "--yes")),
    *(("export", MODEL, "--res", "64", "-t", target) for target in ("ort", "ov", "torch", "coreml", "trt-rtx", "trt")),
    ("export", MODEL, "--res", "64", "-t", "ort", "--precision", "int8", "--images", "synthetic"),
    ("export", MODEL, "--res", "64", "-t", "litert"),
    ("export", "timm/mobilenetv3_small_050", "--res", "64", "-t", "ort", "--no-verify"),
    ("verify", EXPORTED),
    ("numerics", MODEL, "--res", "64"),
    *(("profile", "-t", target, "--rounds", "2", "--budget", "10") for target in ("ort", "ov", "torch")),
    ("profile", "--roofline", "-t", "ort", "--rounds", "2", "--budget", "2"),
    ("compare", EXPORTED, "toy.net-64-b1-fp32-ov", "--budget", "10"),
    ("sweep", MODEL, "--res", "64", "-t", "ort", "--no-profile"),
    ("evaluate", EXPORTED, "--data", "images"),
    ("report", "--format", "html", "--format", "csv", "--format", "markdown", "--format", "latex", "--format", "json"),
    ("kit", EXPORTED, "--device", "raspberry-pi-5"),
    ("gate", "--base", "HEAD", "--budget", "10", MODEL, "--res", "64"),
    ("gate", "--measure-noise", "--minutes", "0.1", MODEL, "--res", "64"),
    ("sweep", MODEL, "--res", "64", "-t", "ort", "--devices", "local", "--rounds", "1", "--budget", "2"),
    ("import", "times.txt", "--artifact", EXPORTED, "--device", "raspberry-pi-5"),
    (
        *("distill", "learners:student", "--teacher", "learners:teacher", "--data", "images"),
        *("--res", "16", "--epochs", "1"),
        *("--batch", "8", "--warmup-epochs", "0", "--threads", "1"),
    ),
    ("export", "learners:student", "--res", "64", "-t", "ort"),
    ("claims", "--scaling", "regla_t", "--res", "32..128", "-t", "ort", "--passes", "1", "--minutes", "0.2"),
)
"""One of each command and of each target, in an order in which each finds what it needs."""

TRACED = "network,openat,creat,mkdir,mkdirat,rename,renameat,renameat2,symlink,symlinkat,link,linkat"
CALL = re.compile(r"^\d+\s+(?:<\.\.\. )?(\w+)\(")
REMOTE = re.compile(r"sa_family=AF_INET6?\b.*")
LOOPBACK = re.compile(r'inet_addr\("127\.|inet_pton\(AF_INET6, "::1"')
LOOKUP = re.compile(r'"/etc/(?:resolv|host|gai)\.conf"')
"""What a look-up of a name reads first; the socket of nscd serves users and groups as well."""
WRITES = re.compile(r"O_WRONLY|O_RDWR|O_CREAT")
SYSTEM = re.compile(r"^/(?:dev|proc|sys)/|/__pycache__(?:/|$)")


@dataclass(frozen=True)
class Recorded:
    """What one command did: its exit code and output, attempts to reach a network, and files outside its own folders.

    ``attempts`` are ``connect``, ``sendto``, ``sendmsg`` and ``sendmmsg`` to addresses that are not this machine's,
    and look-ups of names.
    """

    code: int
    output: str
    attempts: tuple[str, ...]
    files: tuple[str, ...]


def why_not() -> str | None:
    """Return None if this machine can record, else the reason why not."""
    for program in ("strace", "unshare"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    tried = subprocess.run(["unshare", "-rn", "strace", "-o", os.devnull, "true"], capture_output=True, check=False)
    return None if tried.returncode == 0 else f"unshare and strace do not work here: {tried.stderr.decode().strip()}"


def record(words: Sequence[str], folder: Path, home: Path, limit_s: float = 600, **env: str) -> Recorded:
    """Run a command line of effbench; arguments as in `record_program`."""
    return record_program([sys.executable, "-I", "-m", "effbench.cli", *words], folder, home, limit_s, **env)


def record_program(words: Sequence[str], folder: Path, home: Path, limit_s: float = 600, **env: str) -> Recorded:
    """Run a program.

    Args:
        words: The program and its arguments.
        folder: The current folder.
        home: The home folder; what is left there outside `~/.cache/effbench` and `~/.config/effbench` counts,
            and in the folder for temporary files outside `effbench-*`.
        limit_s: The command is killed after this time.
        env: Further environment variables.
    """
    scratch, log = home.parent / "tmp", home.parent / "strace.txt"
    for path in (home, scratch):
        path.mkdir(exist_ok=True)
    inherited = {key: value for key, value in os.environ.items() if key in ("PATH", "LANG", "VIRTUAL_ENV")}
    own = {"HOME": str(home), "TMPDIR": str(scratch), "PYTHONDONTWRITEBYTECODE": "1", **env}
    trace = ["strace", "-f", "--seccomp-bpf", "-qq", "-s", "300", "-e", f"trace={TRACED}", "-o", str(log)]
    command = ["unshare", "-rn", *trace, *words]
    done = subprocess.run(
        command, cwd=folder, env={**inherited, **own}, capture_output=True, text=True, timeout=limit_s, check=False
    )
    lines = log.read_text(errors="replace").splitlines()
    log.unlink()
    left = (path for path in scratch.rglob("*") if not path.relative_to(scratch).parts[0].startswith("effbench-"))
    written = {*_written(lines, (folder, home, scratch)), *_left(home), *map(str, left)}
    return Recorded(done.returncode, done.stdout + done.stderr, tuple(_attempts(lines)), tuple(sorted(written)))


def _attempts(lines: Sequence[str]) -> list[str]:
    attempts = []
    for line in lines:
        match = CALL.match(line)
        name = match[1] if match else ""
        remote = REMOTE.search(line) if name in ("connect", "sendto", "sendmsg", "sendmmsg") else None
        if (remote and not LOOPBACK.search(line)) or LOOKUP.search(line):
            attempts.append(re.sub(r"^\d+\s+", "", line)[:160])
    return attempts


def _written(lines: Sequence[str], own: Sequence[Path]) -> set[str]:
    """Return the absolute paths that were opened for writing, or created, outside some folders."""
    files = set()
    for line in lines:
        match = CALL.match(line)
        if match is None or match[1] not in TRACED.split(",") or re.search(r"= -1 E(NOENT|EXIST|ROFS|ACCES)", line):
            continue
        if match[1] == "openat" and not WRITES.search(line):
            continue
        for path in re.findall(r'"(/[^"]*)"', line):
            if not SYSTEM.search(path) and not any(Path(path).is_relative_to(folder) for folder in own):
                files.add(path)
    return files


def _left(home: Path) -> list[str]:
    owned = (home / ".cache" / "effbench", home / ".config" / "effbench")
    files = (path for path in home.rglob("*") if not path.is_dir())
    return [str(path) for path in files if not any(path.is_relative_to(folder) for folder in owned)]


def prepare(folder: Path) -> None:
    """Write what `COMMANDS` need into a folder: the toy model, labelled images, and a repository that holds them."""
    from images_on_disk import per_class

    folder.mkdir(parents=True)
    for name in ("toy.py", "learners.py"):
        shutil.copy(Path(__file__).with_name(name), folder)
    (folder / "times.txt").write_text("1.5\n1.6\n1.4\n")
    (folder / "effbench.toml").write_text('[devices.bench]\nbase = "local"\n')
    per_class(folder / "images", [f"class{index}" for index in range(10)])
    who = ("-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false")
    for words in (("init", "-q"), ("add", "toy.py", "effbench.toml"), ("commit", "-qm", "base")):
        subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True)
