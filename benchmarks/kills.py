"""Kill commands at random moments, and look for what a kill must not leave: torn, lost, doubled, orphans, residue.

``python benchmarks/kills.py [--kills N] [--seed S] [--latest S] [COMMAND ...]`` kills with SIGKILL; the moment is drawn
between the start of the command and the end of an unhurt run, or its first 8 s (``--latest`` gives another limit).
After each kill it checks that no process of the command lives, that every artifact loads, that no stored round is gone
or twice. After the kills of a command the same command runs to its end, and nothing of the killed ones may be left: no
draft, no lock of one, no scratch folder, no worktree. It needs torch and ONNX Runtime; the model is that of the tests
(`tests/support/toy.py`). It exits with 1 if anything was found.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

SUPPORT = Path(__file__).resolve().parents[1] / "tests" / "support"
LATEST_S = 8.0
"""No kill later than this, by default: what a long command does after it, it has done before."""

ORPHAN_S = 3.0
"""A child may take this long to notice that its parent is gone: it is looking for it while Python starts."""

CELL = ("-t", "ort", "--res", "32")
COMMANDS: dict[str, tuple[tuple[str, ...], int]] = {
    "export": (("export", "toy:net", "--res", "32", "-t", "ort", "--seed", "{n}"), 8),
    "profile": (("profile", "{artifact}", "--rounds", "3", "--budget", "2"), 18),
    "compare": (("compare", "{artifact}", "{artifact}", "--budget", "6"), 12),
    "gate": (("gate", "--base", "HEAD", "toy:net", "--target", "ort", "--res", "32", "--budget", "5"), 6),
    "sweep": (("sweep", "toy:net", "-t", "ort", "--res", "32", "--rounds", "2", "--budget", "2"), 10),
    "lab": (
        ("sweep", "toy:net", "-t", "ort", "--res", "32", "--devices", "local", "--rounds", "2", "--budget", "2"),
        8,
    ),
    "report": (("report", "--format", "markdown", "--format", "html"), 19),
    "import": (("import", "times.txt", "-a", "{artifact}", "-d", "raspberry-pi-5"), 19),
    "kit": (("kit", "{artifact}", "--device", "raspberry-pi-5", "--to", "kit-{n}"), 8),
    "evaluate": (("evaluate", "{artifact}", "--data", "images", "--max-images", "1{n}"), 8),
    "distill": (
        (
            *("distill", "learners:student", "--teacher", "learners:teacher", "--data", "images"),
            *("--res", "16", "--batch", "8"),
            *("--epochs", "3", "--warmup-epochs", "0", "--threads", "1", "--seed", "{n}", "--views", "2"),
        ),
        8,
    ),
    "claims": (
        ("claims", "--scaling", "regla_t", "--res", "32..128", "-t", "ort", "--passes", "1", "--minutes", "0.3"),
        8,
    ),
}
"""What is run, and its share of the kills in percent."""


@dataclass
class Place:
    """A folder with a repository, a home and a temporary folder of its own; ``marker`` names its processes."""

    folder: Path
    marker: str = field(default_factory=lambda: uuid.uuid4().hex)
    findings: Counter[str] = field(default_factory=Counter)
    details: list[str] = field(default_factory=list)

    @property
    def home(self) -> Path:
        """The folder of all results."""
        return self.folder / "runs"

    def start(self, arguments: tuple[str, ...]) -> subprocess.Popen[bytes]:
        """Start a command in a process group of its own."""
        env = {**os.environ, "TMPDIR": str(self.folder / "tmp"), "KILLS_MARKER": self.marker, "EFFBENCH_PROGRESS": "0"}
        env["XDG_CACHE_HOME"] = str(self.folder / "cache")
        with (self.folder / "output.txt").open("wb") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "effbench.cli", *arguments],
                cwd=self.folder,
                env=env,
                stdout=output,
                stderr=output,
            )

    def alive(self) -> list[str]:
        """Return the command lines of the processes that this place started and that still run."""
        lines = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal() and int(entry.name) != os.getpid():
                try:
                    if f"KILLS_MARKER={self.marker}".encode() in (entry / "environ").read_bytes():
                        state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                        if state not in "ZX":
                            lines.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
                except OSError:
                    continue
        return lines

    def note(self, kind: str, detail: str) -> None:
        """Count a finding."""
        self.findings[kind] += 1
        self.details.append(f"{kind}: {detail}")


def prepare(folder: Path) -> Place:
    """Make a place with one exported artifact and one measurement, under git."""
    sys.path.append(str(SUPPORT))
    from images_on_disk import per_class

    place = Place(folder)
    for name in ("tmp", "cache"):
        (folder / name).mkdir(parents=True)
    for name in ("toy.py", "learners.py"):
        shutil.copy(SUPPORT / name, folder)
    per_class(folder / "images", [f"class{index}" for index in range(10)])
    (folder / "times.txt").write_text("1.5\n1.6\n1.4\n")
    (folder / ".gitignore").write_text("runs\ntmp\ncache\noutput*.txt\ntimes*.txt\n__pycache__\nkit-*\nimages\n")
    for words in (["init", "-q"], ["add", "-A"], ["-c", "user.name=k", "-c", "user.email=k@k", "commit", "-qm", "k"]):
        subprocess.run(["git", *words], cwd=folder, check=True)
    finish(place, ("export", "toy:net", "--res", "32", "-t", "ort"))
    finish(place, ("profile", artifact_of(place), "--rounds", "1", "--budget", "1"))
    return place


def artifact_of(place: Place) -> str:
    """Return the name of an artifact."""
    return next(path.name for path in sorted((place.home / "artifacts").iterdir()) if "-ort-" in path.name)


def finish(place: Place, arguments: tuple[str, ...]) -> float:
    """Run a command to its end; return its duration."""
    start = time.monotonic()
    code = place.start(arguments).wait()
    if code not in (0, 3):  # 3: the verdict of a short comparison is open
        raise SystemExit(
            f"{' '.join(arguments)} ended with {code}:\n{(place.folder / 'output.txt').read_text()[-2000:]}"
        )
    return time.monotonic() - start


def rounds(place: Place) -> list[str]:
    """Return the whole lines of the store; count torn ones in the middle, and doubled ones."""
    by_file = {path.name: _whole_lines(place, path) for path in place.home.glob("*.jsonl")}
    whole = by_file.get("measurements.jsonl", [])
    for record, count in Counter(whole).items():
        if count > 1:
            place.note("doubled", f"a round is stored {count} times: {record[:120]}")
    imported = [one["run"] for one in map(json.loads, whole) if one["origin"] == "imported"]
    if len(imported) > len(set(imported)):
        place.note("doubled", "an import is stored twice")
    return whole


def _whole_lines(place: Place, path: Path) -> list[str]:
    lines, whole = path.read_bytes().split(b"\n"), []
    for number, line in enumerate(lines):
        try:
            whole.append(json.dumps(json.loads(line))) if line else None
        except ValueError:
            if number < len(lines) - 1:
                place.note("torn", f"line {number + 1} of {path.name}")
    return whole


def check(place: Place, before: list[str]) -> list[str]:
    """Check a place after a kill; return the stored rounds."""
    from effbench.deploy.artifact import bundle
    from effbench.errors import EffbenchError
    from effbench.store import Store

    deadline = time.monotonic() + ORPHAN_S
    while (alive := place.alive()) and time.monotonic() < deadline:
        time.sleep(0.05)
    for line in alive:
        place.note("orphan", line[:200])
    try:
        for artifact in bundle.artifacts(place.home):
            bundle.load(artifact.folder)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            list(Store(place.home))
    except EffbenchError as error:
        place.note("torn", error.message[:200])
    after = rounds(place)
    if not Counter(before) <= Counter(after):
        place.note("lost", f"{len(before)} rounds before, {len(after)} after")
    return after


def residue(place: Place) -> None:
    """Note what a finished command leaves of killed ones."""
    drafts = [
        path for path in place.home.rglob("*") if path.name.startswith((".making-", "work-")) or ".tmp" in path.name
    ]
    drafts += [path for path in place.home.rglob(".*.lock") if path.parent.name != ".locks"]
    drafts += [*place.folder.glob(".effbench-kit-*"), *place.home.rglob(".step-*")]
    drafts += list((place.folder / "tmp").glob("*/*"))
    drafts += [path for path in (place.folder / "tmp").iterdir() if not path.name.startswith("effbench-")]
    worktrees = subprocess.run(
        ["git", "worktree", "list"], cwd=place.folder, capture_output=True, text=True, check=True
    )
    for path in drafts:
        place.note("residue", str(path.relative_to(place.folder)))
    for line in worktrees.stdout.splitlines()[1:]:
        place.note("residue", f"worktree {line}")


def kill(place: Place, name: str, count: int, seed: int, latest_s: float = LATEST_S) -> tuple[float, int]:
    """Kill a command so many times; return its duration unhurt, and how many kills hit it while it ran."""
    words, _ = COMMANDS[name]
    random_ = random.Random(f"{name} {seed}")
    artifact = artifact_of(place)

    def arguments(number: int) -> tuple[str, ...]:
        return tuple(word.format(n=seed * 10_000 + number, artifact=artifact) for word in words)

    duration_s = finish(place, arguments(0))
    stored, hits = rounds(place), 0
    for number in range(1, count + 1):
        child = place.start(arguments(number))
        try:
            child.wait(random_.uniform(0.05, min(duration_s, latest_s)))
        except subprocess.TimeoutExpired:
            hits += 1
        child.send_signal(signal.SIGKILL)
        child.wait()
        stored = check(place, stored)
    finish(place, arguments(count + 1))
    check(place, stored)
    residue(place)
    return duration_s, hits


def main() -> None:
    """Kill all commands, or those named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--latest", type=float, default=LATEST_S, metavar="S")
    parser.add_argument("commands", nargs="*", help=f"some of {', '.join(COMMANDS)}")
    options = parser.parse_args()
    names = options.commands or list(COMMANDS)
    whole = sum(COMMANDS[name][1] for name in names)
    kinds = ("torn", "lost", "doubled", "orphan", "residue")
    print(
        f"{'command':10} {'kills':>6} {'while it ran':>13} {'unhurt s':>9}  "
        + "  ".join(f"{kind:>8}" for kind in kinds)
    )
    total: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        place = prepare(Path(folder).resolve() / "place")
        for name in names:
            place.findings.clear()
            place.details.clear()
            count = -(-options.kills * COMMANDS[name][1] // whole)
            duration_s, hits = kill(place, name, count, options.seed, options.latest)
            figures = "  ".join(f"{place.findings[kind]:8}" for kind in kinds)
            print(f"{name:10} {count:6} {hits:13} {duration_s:9.1f}  {figures}", flush=True)
            for detail in place.details[:10]:
                print(f"    {detail}")
            total.update(kills=count, hits=hits, found=sum(place.findings.values()))
    print(f"{total['kills']} kills, {total['hits']} of them while the command ran: {total['found']} findings")
    sys.exit(1 if total["found"] else 0)


if __name__ == "__main__":
    main()
