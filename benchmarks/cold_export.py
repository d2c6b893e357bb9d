"""Time a cold export: regla_m to ort, ov, coreml and trt-rtx, fp32 and fp16, at 224 and 512 px, verified.

    python benchmarks/cold_export.py [--cores 2]

Cold means an empty output folder; the files of Python and the packages may be in the page cache. The figure is the wall
time of one `effbench sweep` restricted to that many cores. It is valid only on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TARGETS = ("ort", "ov", "coreml", "trt-rtx")
SWEEP = ("sweep", "regla_m", "--res", "224", "--res", "512", "--precision", "fp32", "--precision", "fp16")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cores", type=int, default=2, help="cores that the export may use (default: 2)")
    cores = parser.parse_args().cores
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    with tempfile.TemporaryDirectory() as folder:
        targets = [part for name in TARGETS for part in ("-t", name)]
        command = [sys.executable, "-m", "effbench.cli", *SWEEP, *targets, "--no-profile", "--json", "--out", folder]
        start = time.perf_counter()
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - start
        if not result.stdout.startswith("{"):
            print(result.stderr, file=sys.stderr)
            return 5
        for cell in json.loads(result.stdout)["data"]["cells"]:
            name = f"{cell['target']:8} {cell['resolution']:>4} px  {cell['precision']:5}"
            print(f"{name} {cell['seconds']:7.1f} s  {cell['status']} {cell['reason']}")
        print(_stages(Path(folder)))
        print(f"cold export: {seconds:.1f} s on {cores} cores, exit code {result.returncode} (to reach: under 150 s)")
    return result.returncode


def _stages(home: Path) -> str:
    """Add up the seconds of each stage over all artifacts; a stage that artifacts share counts once."""
    spent: dict[str, float] = {}
    for path in sorted(home.glob("artifacts/*/manifest.json")):
        record = json.loads(path.read_text())
        own = record["stages"] if record["graph_digest"] is None else record["stages"][-1:]
        for stage in own:
            spent[stage["name"]] = spent.get(stage["name"], 0.0) + stage["seconds"]
    longest = sorted(spent.items(), key=lambda item: -item[1])
    return "\n".join(f"  {seconds:7.1f} s  {name}" for name, seconds in longest)


if __name__ == "__main__":
    sys.exit(main())
