"""effbench's p50 beside benchmark_app (OpenVINO) and a bare onnxruntime loop, in alternated short runs.

Each side of a pair is a fresh process on the same file, one thread, fp32, in random order. The figure is the ratio of
medians, effbench over the other tool: a 20 % trimmed mean of log ratios over pairs, and its interval. With
``--together`` both sides of a pair run at the same time, each pinned to a random core: the clock of a shared host
varies by percents from second to second, and then both sides see the same clock.

    python benchmarks/reference.py --pairs 30 --res 224 --res 512
    python benchmarks/reference.py --pool 0.997,0.983,1.011 1.010,0.993,1.028
"""

from __future__ import annotations

import argparse
import math
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from effbench import process
from effbench.api.export.run import export
from effbench.statistics.student_t import student_t

Side = Callable[[str, float], float]
Pair = Callable[[dict[str, Side], str, float], dict[str, float]]

BARE = """
import sys, time, numpy, onnxruntime as ort
path, seconds = sys.argv[1], float(sys.argv[2])
options = ort.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
spec = session.get_inputs()[0]
feed = {spec.name: numpy.random.default_rng(0).standard_normal(spec.shape).astype(numpy.float32)}
def loop(seconds):
    times, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 5:
        start = time.perf_counter()
        session.run(None, feed)
        times.append(time.perf_counter() - start)
    return times
loop(0.5)
print(numpy.median(loop(seconds)) * 1e3)
"""


def effbench(folder: str, seconds: float) -> float:
    """Return effbench's median in ms: one round of the agent."""
    job = {"op": "measure", "artifact": folder, "threads": 1, "min_samples": 5, "min_seconds": seconds}
    (answer,) = process.run("effbench.device.agent", {**job, "round_seconds": 0}, time_limit_s=120)
    return float(statistics.median(answer["round"]["samples_ns"])) / 1e6


def bare(folder: str, seconds: float) -> float:
    """Return the median in ms of a bare onnxruntime loop."""
    command = [sys.executable, "-c", BARE, f"{folder}/model.onnx", str(seconds)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def benchmark_app(folder: str, seconds: float) -> float:
    """Return benchmark_app's median in ms under the same conditions: synchronous, one stream, one thread, f32."""
    options = ["-d", "CPU", "-hint", "none", "-nstreams", "1", "-nthreads", "1"]
    options += ["-api", "sync", "-infer_precision", "f32"]
    app = Path(sys.executable).with_name("benchmark_app")
    command = [str(app), "-m", f"{folder}/model.xml", "-t", str(max(1, round(seconds + 0.5))), *options]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    median = re.search(r"Median:\s+([\d.]+) ms", text)
    assert median is not None, text
    return float(median.group(1))


OTHER_TOOLS: dict[str, tuple[str, Side]] = {
    "ort": ("onnxruntime loop", bare),
    "ov": ("benchmark_app", benchmark_app),
}
"""Target -> the other tool and how it measures."""


def in_turn(sides: dict[str, Side], folder: str, seconds: float) -> dict[str, float]:
    """Run one side after the other, in random order; return each side's median in ms."""
    return {name: sides[name](folder, seconds) for name in random.sample(sorted(sides), 2)}


def together(sides: dict[str, Side], folder: str, seconds: float) -> dict[str, float]:
    """Run both sides at the same time, on two random cores; return each side's median in ms."""
    cores = random.sample(sorted(os.sched_getaffinity(0)), 2)

    def run(name: str, core: int) -> float:
        os.sched_setaffinity(0, {core})  # of this thread; its child process inherits it
        return sides[name](folder, seconds)

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(sides, pool.map(run, sides, cores), strict=True))


def ratio(folder: str, tool: Side, pairs: int, seconds: float, run_pair: Pair) -> tuple[float, float, float, float]:
    """Return the ratio of medians, its 95 % interval, and effbench's median in ms."""
    logs, medians = [], []
    sides: dict[str, Side] = {"effbench": effbench, "tool": tool}
    for index in range(pairs):
        p50_ms = run_pair(sides, folder, seconds)
        logs.append(math.log(p50_ms["effbench"] / p50_ms["tool"]))
        medians.append(p50_ms["effbench"])
        print(f"  pair {index + 1}/{pairs}: {p50_ms['effbench']:.2f} / {p50_ms['tool']:.2f} ms", file=sys.stderr)
    low, center, high = (math.exp(value) for value in trimmed(logs))
    return center, low, high, statistics.median(medians)


def trimmed(values: list[float], share: float = 0.2) -> tuple[float, float, float]:
    """Return the 95 % interval and center of a trimmed mean, which single disturbed pairs hardly change.

    Source: Tukey and McLaughlin 1963: t-interval from the winsorized deviation.
    """
    ordered = np.sort(values)
    cut = int(share * len(ordered))
    remaining = len(ordered) - 2 * cut
    center = float(ordered[cut : len(ordered) - cut].mean())
    deviation = np.clip(ordered, ordered[cut], ordered[-cut - 1]).std(ddof=1)
    half = student_t(0.975, remaining - 1) * float(deviation) / ((1 - 2 * share) * math.sqrt(len(ordered)))
    return center - half, center, center + half


def pooled(runs: list[str]) -> tuple[float, float, float]:
    """Return the pooled ratio of several runs with its 95 % interval, log ratios weighted by inverse variance.

    Args:
        runs: ``RATIO,LOW,HIGH``, as in the table.
    """
    values = [[math.log(float(number)) for number in run.split(",")] for run in runs]
    weights = [(2 * 1.96 / (high - low)) ** 2 for _, low, high in values]
    center = sum(weight * value for weight, (value, _, _) in zip(weights, values, strict=True)) / sum(weights)
    half = 1.96 / math.sqrt(sum(weights))
    return math.exp(center), math.exp(center - half), math.exp(center + half)


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each run")
    parser.add_argument("--res", type=int, action="append", help="repeatable (default: 224 and 512)")
    parser.add_argument("--model", default="regla_m")
    parser.add_argument("--target", action="append", choices=OTHER_TOOLS, help="repeatable (default: both)")
    parser.add_argument("--together", action="store_true", help="both of a pair at once, a core each")
    parser.add_argument("--pool", nargs="+", metavar="RATIO,LOW,HIGH", help="measure nothing; pool these runs")
    options = parser.parse_args()
    if options.pool:
        print("pooled: {:.3f} [{:.3f}, {:.3f}]".format(*pooled(options.pool)))
        return
    run_pair = together if options.together else in_turn
    print("| against | px | effbench p50 ms | ratio [95 %] | pairs |\n|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for size in options.res or [224, 512]:
            for cell in export(options.model, options.target or ["ort", "ov"], [size], out=folder):
                name, tool = OTHER_TOOLS[cell.target]
                center, low, high, p50 = ratio(cell.artifact, tool, options.pairs, options.seconds, run_pair)
                row = f"| {name} | {size} | {p50:.2f} | {center:.4f} [{low:.4f}, {high:.4f}] | {options.pairs} |"
                print(row, flush=True)


if __name__ == "__main__":
    main()
