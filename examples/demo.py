"""Export, verify, profile and report regla_m beside iFormer; `make demo` runs this.

ReGLA here is a reconstruction from an abstract, all weights are untrained, and every accuracy is borrowed from a paper.
So the demo shows effbench, not which network is better.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time

MODELS = ("regla_m", "iformer_t", "iformer_s", "iformer_m")
SIZES = ("--res", "224", "--res", "512")
TARGETS = ("--target", "ort", "--target", "ov")


def effbench(*arguments: str) -> None:
    """Print and run one command; if it fails, end the demo with its exit code."""
    print(f"\n$ effbench {' '.join(arguments)}", flush=True)
    code = subprocess.run([sys.executable, "-m", "effbench.cli", *arguments], check=False).returncode
    if code != 0:
        sys.exit(code)


def main() -> None:
    """Run the demo and print its wall time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=float, default=15, help="seconds of measurement per artifact")
    budget = parser.parse_args().budget
    start = float(os.environ.get("EFFBENCH_DEMO_START", time.time()))
    print(f"installed after {time.time() - start:.0f} s; a first number:", flush=True)
    effbench("export", "regla_m", "--target", "ort")
    effbench("profile", "regla_m", "--target", "ort", "--budget", "10", "--rounds", "6")
    print(f"first number after {time.time() - start:.0f} s", flush=True)
    for model in MODELS:
        effbench("export", model, *TARGETS, *SIZES)
    for size, share in (("224", 2 / 3), ("512", 4 / 3)):
        seconds = f"{budget * share:g}"
        print(f"\nmeasuring {len(MODELS) * 2} artifacts at {size} px, {seconds} s each", flush=True)
        effbench("profile", *MODELS, *TARGETS, "--res", size, "--budget", seconds, "--rounds", "6")
    effbench("report", "--metric", "ade_miou", "--plot", "--format", "markdown")
    effbench("report", "--metric", "top1", "--plot", "--format", "markdown", "--format", "json", "--format", "html")
    print(f"\nthe whole demo took {time.time() - start:.0f} s, installation included")


if __name__ == "__main__":
    main()
