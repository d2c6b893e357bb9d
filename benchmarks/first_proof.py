"""What the first proof costs: its share of an export that makes everything anew.

    python benchmarks/first_proof.py [--model regla_m] [--target ort] [--runs 5]

Each run exports into an empty folder. The proof is a stage of that export (`effbench.api.export.graph_proof`), so both
times are of the same run, and noise of the machine falls on both. *Over the rest* is its time over that of the export
without it.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tabulate import tabulate

from effbench.deploy.artifact import bundle

STAGE = "prove the graph"


def export(model: str, target: str, folder: Path) -> tuple[float, float]:
    """Export a model; return the seconds of all, and of the proof."""
    command = [sys.executable, "-m", "effbench.cli", "export", model, "-t", target, "--res", "224"]
    command += ["--out", str(folder)]
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    seconds = time.perf_counter() - start
    graph = next(item for item in bundle.artifacts(folder) if item.subject.target == "onnx")
    return seconds, next(stage.seconds for stage in graph.stages if stage.name == STAGE)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="regla_m")
    parser.add_argument("--target", default="ort")
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    rows = []
    for _ in range(args.runs):
        with tempfile.TemporaryDirectory() as folder:
            rows.append(export(args.model, args.target, Path(folder)))
    shares = [proof / (total - proof) for total, proof in rows]
    table = [
        (f"{total:.1f}", f"{proof:.2f}", f"{share:.1%}") for (total, proof), share in zip(rows, shares, strict=True)
    ]
    print(tabulate(table, ["export s", "proof s", "over the rest"], tablefmt="pipe"))
    print(f"\n{args.model}, 224 px, {args.target}: median {statistics.median(shares):.1%} over the rest of the export")
    return 0


if __name__ == "__main__":
    sys.exit(main())
