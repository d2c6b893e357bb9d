"""Time of commands that do little: `--help`, `models`, and an export whose artifacts exist, over a bare interpreter.

Commands alternate; the figure is the median of paired differences to ``python -c pass``.

    python benchmarks/startup.py --runs 21
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

EFFBENCH = str(Path(sys.executable).with_name("effbench"))
EXPORT = [EFFBENCH, "export", "regla_m", "--target", "ort", "--target", "ov", "--res", "224", "--res", "512"]


def seconds(command: list[str]) -> float:
    """Return the wall time of one run."""
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=21)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as folder:
        export = [*EXPORT, "--out", folder]
        cold = seconds(export)
        commands = {
            "effbench --help": [EFFBENCH, "--help"],
            "effbench models": [EFFBENCH, "models"],
            "export again": export,
        }
        differences: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(runs):
            bare = seconds([sys.executable, "-c", "pass"])
            for name, command in commands.items():
                differences[name].append(seconds(command) - bare)
    print("| command | over bare python, median (ms) | smallest | largest |\n|---|---|---|---|")
    for name, values in differences.items():
        median, smallest, largest = (1e3 * value for value in (statistics.median(values), min(values), max(values)))
        print(f"| {name} | {median:.0f} | {smallest:.0f} | {largest:.0f} |")
    print(f"\ncold export of regla_m at 224 and 512 px to ort and ov, verified: {cold:.1f} s")


if __name__ == "__main__":
    main()
