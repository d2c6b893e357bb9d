"""Paired latency ratio regla_m over iformer_m, 1 thread, at 224, 512 and 1024 px on ONNX Runtime and OpenVINO.

Both sides run in one fresh process per round, inferences alternating in random order; the figure is the ratio of
medians with a t-interval over rounds. Parameters and MACs of both are those of the publications (ReGLA here is a
reconstruction). The figures are of a CPU and do not carry over to a phone.

    python benchmarks/ratio.py --rounds 20
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import sys
import tempfile
from pathlib import Path

from effbench.api.compare.rounds import RoundSettings, run_round
from effbench.api.export.run import export
from effbench.deploy.artifact import bundle
from effbench.profiles.paired import log_ratios
from effbench.schema import Artifact
from effbench.statistics.student_t import student_t


def paired(a: Artifact, b: Artifact, setting: RoundSettings, rounds: int, name: str = "") -> tuple[float, float, float]:
    """Return the ratio b over a of typical latencies with its 95 % interval over rounds: low, middle, high."""
    logs = []
    for index in range(rounds):
        logs.append(log_ratios(run_round(a, b, setting, random.getrandbits(30))).typical)
        print(f"  {name} {index + 1}: {math.exp(logs[-1]):.3f}", file=sys.stderr)
    half = student_t(0.975, len(logs) - 1) * statistics.stdev(logs) / math.sqrt(len(logs))
    low, middle, high = (math.exp(statistics.fmean(logs) + shift) for shift in (-half, 0, half))
    return low, middle, high


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("a", nargs="?", default="iformer_m", help="the base (default: iformer_m)")
    parser.add_argument("b", nargs="?", default="regla_m", help="the other model (default: regla_m)")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each round; at least 5 pairs")
    parser.add_argument("--res", type=int, action="append", help="repeatable (default: 224, 512 and 1024)")
    parser.add_argument("--target", action="append", help="repeatable (default: ort and ov)")
    options = parser.parse_args()
    print(f"| target | px | MAC ratio | {options.b} / {options.a} [95 %] | rounds |\n|---|---|---|---|---|", flush=True)
    setting = RoundSettings(round_seconds=options.seconds, min_pairs=5)
    with tempfile.TemporaryDirectory() as folder:
        for size in options.res or [224, 512, 1024]:
            sides = []
            for model in (options.a, options.b):
                cells = export(model, options.target or ["ort", "ov"], [size], out=folder)
                sides.append({cell.target: bundle.load(Path(cell.artifact)) for cell in cells})
            for target, a in sides[0].items():
                b = sides[1][target]
                low, mid, high = paired(a, b, setting, options.rounds, f"{target} {size} px")
                macs = (b.subject.macs or 0) / (a.subject.macs or 1)
                print(
                    f"| {target} | {size} | {macs:.2f} | {mid:.3f} [{low:.3f}, {high:.3f}] | {options.rounds} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
