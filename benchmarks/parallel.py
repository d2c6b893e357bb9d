"""Run two commands at the same time on one folder, and look for what only that breaks.

``python benchmarks/parallel.py [--times N] [--seed S] [PAIR ...]`` starts the two commands of each pair so many times:
both at once, or the second within the first 2 s of the first. Both have to end as they would alone (a kit or a training
that the other one is making already is refused with 2). Afterwards every artifact loads, each stored round is there
once, every ``.json`` and ``.html`` below the home is whole, and nothing is left of drafts. The model is that of the
tests; it needs torch and ONNX Runtime. It exits with 1 if anything was found.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from kills import COMMANDS, Place, artifact_of, check, prepare, residue, rounds

EXPORT = ("export", "toy:net", "--res", "32", "-t", "ort", "--seed", "{n}")
PROFILE = ("profile", "{artifact}", "--rounds", "2", "--budget", "1")
VERIFY = ("verify", "{artifact}")
REPORT = ("report", "--format", "markdown", "--format", "html", "--format", "csv", "--format", "json")
SWEEP = ("sweep", "toy:net", "-t", "ort", "--res", "32", "--rounds", "1", "--budget", "1", "--seed", "{n}")
GATE = ("gate", "--base", "HEAD", "toy:net", "--target", "ort", "--res", "32", "--budget", "3", "--always-time")
KIT = ("kit", "{artifact}", "--device", "raspberry-pi-5", "--to", "kit-{n}")
EVALUATE = ("evaluate", "{artifact}", "--data", "images", "--max-images", "1{n}")
DISTILL = COMMANDS["distill"][0]
IMPORT = ("import", "times-{n}.txt", "-a", "{artifact}", "-d", "raspberry-pi-5")
PAIRS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "export export": (EXPORT, EXPORT),
    "export profile": (EXPORT, PROFILE),
    "export verify": (EXPORT, VERIFY),
    "profile profile": (PROFILE, PROFILE),
    "profile report": (PROFILE, REPORT),
    "verify verify": (VERIFY, VERIFY),
    "verify profile": (VERIFY, PROFILE),
    "report report": (REPORT, REPORT),
    "kit kit": (KIT, KIT),
    "kit verify": (KIT, VERIFY),
    "import import": (IMPORT, IMPORT),
    "evaluate evaluate": (EVALUATE, EVALUATE),
    "evaluate report": (EVALUATE, REPORT),
    "sweep sweep": (SWEEP, SWEEP),
    "gate gate": (GATE, GATE),
    "distill distill": (DISTILL, DISTILL),
}
REFUSED = ("kit kit", "distill distill")
"""Here the second one may be refused: the first one makes the same."""

ADDED = {"profile profile": 4, "export profile": 2, "verify profile": 2, "profile report": 2, "import import": 1}
"""Rounds that a pair adds to the store; where it depends on the moment, it is left out."""

KINDS = ("torn", "lost", "doubled", "orphan", "residue", "code", "count")


def both(place: Place, pair: str, number: int, delay_s: float) -> float:
    """Run the two commands of a pair; note what they leave wrong, and return their duration."""
    artifact, before = artifact_of(place), rounds(place)
    (place.folder / f"times-{number}.txt").write_text(f"1.{number}\n1.6\n1.4\n")
    children: list[tuple[subprocess.Popen[bytes], Path]] = []
    start = time.monotonic()
    for index, words in enumerate(PAIRS[pair]):
        time.sleep(delay_s * index)
        child = place.start(tuple(word.format(n=number, artifact=artifact) for word in words))
        log = place.folder / f"output-{index}.txt"
        (place.folder / "output.txt").replace(log)  # the child keeps writing into the file, whatever it is called
        children.append((child, log))
    for child, log in children:
        code = child.wait()
        text = log.read_text(errors="replace")
        if code not in ((0, 2, 3) if pair in REFUSED else (0, 3)) or "Traceback" in text:
            place.note("code", f"{code}: {text.strip()[-400:]}")
    if all(child.returncode == 2 for child, _ in children):
        place.note("code", "both were refused")
    duration_s = time.monotonic() - start
    after = check(place, before)
    if pair in ADDED and len(after) - len(before) != ADDED[pair]:
        place.note("count", f"{len(after) - len(before)} rounds more, not {ADDED[pair]}")
    whole_files(place)
    residue(place)
    return duration_s


def whole_files(place: Place) -> None:
    """Note the files below a place that are no whole documents."""
    for path in (*place.home.rglob("*.json"), *place.folder.glob("kit-*/*.json")):
        try:
            json.loads(path.read_text())
        except ValueError as error:
            place.note("torn", f"{path.relative_to(place.folder)}: {error}")
    for path in place.home.rglob("*.html"):
        if not path.read_text().rstrip().endswith("</html>"):
            place.note("torn", str(path.relative_to(place.folder)))


def main() -> None:
    """Run all pairs, or those named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("pairs", nargs="*", help=f"some of {', '.join(map(repr, PAIRS))}")
    options = parser.parse_args()
    print(f"{'pair':18} {'times':>5} {'seconds':>8}  " + "  ".join(f"{kind:>7}" for kind in KINDS))
    total: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        prepared = prepare(Path(folder).resolve() / "prepared")
        for number, pair in enumerate(options.pairs or PAIRS):
            place = Place(prepared.folder.with_name(f"place-{number}"))
            shutil.copytree(prepared.folder, place.folder)
            draw = random.Random(f"{pair} {options.seed}")
            seconds = 0.0
            for repetition in range(options.times):
                # Every second time at once: the same steps then meet.
                delay_s = 0.0 if repetition % 2 == 0 else draw.uniform(0, 2)
                seconds += both(place, pair, options.seed * 1000 + repetition + 1, delay_s)
            figures = "  ".join(f"{place.findings[kind]:7}" for kind in KINDS)
            print(f"{pair:18} {options.times:5} {seconds:8.0f}  {figures}", flush=True)
            for detail in place.details[:10]:
                print(f"    {detail}")
            total.update(times=options.times, found=sum(place.findings.values()))
            shutil.rmtree(place.folder)
    print(f"{total['times']} times two commands at once: {total['found']} findings")
    sys.exit(1 if total["found"] else 0)


if __name__ == "__main__":
    main()
