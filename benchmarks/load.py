"""Is a measurement with trust grade A right? p50 under background load against the idle value, by grade.

Trials come in random order. Each starts busy processes (0, 1, 2; 0.3 is one that is busy 30 % of the time), measures a
graph on ONNX Runtime in fresh worker processes, and grades the measurement. The idle value is the median p50 of all
trials without load. To reach: 95 % of the trials with grade A are within 2 % of it.

    python benchmarks/load.py FILE.onnx [--trials 10] [--loads 0 0.1 0.3 1 2] [--rounds 8] [--threads 1]

The machine has to be idle otherwise: any other process is load in the idle trials too.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np

from effbench.codec import from_json, to_json
from effbench.profiles import environment, trust
from effbench.profiles.measure import RoundPlan, measure_round
from effbench.schema import Round, Samples
from effbench.statistics import percentiles

WITHIN = 0.02
SHARE_TO_REACH = 0.95
PERIOD_S = 0.1

BUSY = """
import os, sys, time
share, period = float(sys.argv[1]), float(sys.argv[2])
parent = os.getppid()
while os.getppid() == parent:  # a benchmark that is killed leaves no load behind
    end = time.perf_counter() + share * period
    while time.perf_counter() < end:
        pass
    if share < 1:
        time.sleep((1 - share) * period)
"""


class Trial(NamedTuple):
    """One measurement under one load."""

    load: float
    p50_ms: float
    grade: str
    reasons: tuple[str, ...]


def work(model: Path, threads: int, seconds: float) -> None:
    """Measure one round in this process and print it as JSON."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    start = time.perf_counter()
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    load_ms = 1e3 * (time.perf_counter() - start)
    rng, names = np.random.default_rng(0), [output.name for output in session.get_outputs()]
    inputs = {spec.name: rng.standard_normal(spec.shape).astype(np.float32) for spec in session.get_inputs()}
    result = measure_round(
        lambda feeds: dict(zip(names, session.run(names, feeds), strict=True)),
        inputs,
        RoundPlan(min_seconds=seconds, max_seconds=10 * seconds),
        load_ms=load_ms,
    )
    print(json.dumps(to_json(result)))


@contextlib.contextmanager
def background(load: float) -> Iterator[None]:
    """Keep ``load`` cores busy; a fraction keeps one more core busy for that share of the time."""
    shares = [1.0] * int(load) + ([load % 1] if load % 1 else [])
    command = [sys.executable, "-c", BUSY]
    busy = [subprocess.Popen([*command, str(share), str(PERIOD_S)]) for share in shares]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def measure(load: float, args: argparse.Namespace) -> Trial:
    """Measure once, in fresh processes, under a load."""
    command = [sys.executable, __file__, str(args.model), "--worker", "--threads", str(args.threads)]
    rounds = []
    with background(load):
        before = environment.observe()
        for _ in range(args.rounds):
            result = subprocess.run(
                [*command, "--seconds", str(args.seconds)], check=True, stdout=subprocess.PIPE, text=True
            )
            rounds.append(from_json(Round, json.loads(result.stdout), "worker"))
        after = environment.observe()
    samples = Samples(tuple(rounds))
    p50_ns = percentiles.quantile([item.samples_ns for item in rounds], 0.5)
    if p50_ns is None:
        raise SystemExit(f"{args.rounds} rounds of {args.seconds} s have too few samples; add rounds or seconds.")
    return Trial(load, p50_ns / 1e6, *trust.grade(samples, before, after))


def show(trials: list[Trial]) -> bool:
    """Print the tables; return whether the share of grade A was reached."""
    idle_ms = median([trial.p50_ms for trial in trials if trial.load == 0])
    print("\n| busy cores | trials | p50, ms | shift from idle (range) | grades | commonest reason |")
    print("|---|---|---|---|---|---|")
    for load in sorted({trial.load for trial in trials}):
        group = [trial for trial in trials if trial.load == load]
        shifts = sorted(trial.p50_ms / idle_ms - 1 for trial in group)
        grades = Counter(trial.grade for trial in group)
        reasons = Counter(reason.split(":")[0] for trial in group for reason in trial.reasons).most_common(1)
        print(
            f"| {load:g} | {len(group)} | {median([trial.p50_ms for trial in group]):.3f} "
            f"| {shifts[0]:+.1%} to {shifts[-1]:+.1%} | {' '.join(f'{k}{v}' for k, v in sorted(grades.items()))} "
            f"| {reasons[0][0] if reasons else 'none'} |"
        )
    print("\n| grade | trials | within 2 % of idle |")
    print("|---|---|---|")
    for grade in sorted({trial.grade for trial in trials}):
        count = sum(trial.grade == grade for trial in trials)
        print(f"| {grade} | {count} | {share_within(trials, grade, idle_ms):.0%} |")
    graded = any(trial.grade == "A" for trial in trials)
    reached = graded and share_within(trials, "A", idle_ms) >= SHARE_TO_REACH
    print(f"\nIdle p50 {idle_ms:.3f} ms; A within 2 % in at least 95 % of trials: {'yes' if reached else 'no'}.")
    return reached


def share_within(trials: list[Trial], grade: str, idle_ms: float) -> float:
    """Return the share of the trials of a grade whose p50 is within 2 % of the idle value."""
    return float(np.mean([abs(trial.p50_ms / idle_ms - 1) <= WITHIN for trial in trials if trial.grade == grade]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, metavar="FILE.onnx")
    parser.add_argument("--trials", type=int, default=10, help="per load")
    parser.add_argument("--loads", type=float, nargs="+", default=[0, 0.1, 0.3, 1, 2])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=0.5, help="timed phase of a round")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args.model, args.threads, args.seconds)
        return 0
    if 0 not in args.loads:
        parser.error("--loads needs 0: the trials without load give the idle value")
    order = np.random.default_rng(args.seed).permutation(np.repeat(args.loads, args.trials))
    trials: list[Trial] = []
    for load in order:
        trials.append(measure(float(load), args))
        last = trials[-1]
        print(
            f"{len(trials)}/{len(order)}: load {load:g}, p50 {last.p50_ms:.3f} ms, {last.grade} {last.reasons}",
            file=sys.stderr,
        )
    return 0 if show(trials) else 1


if __name__ == "__main__":
    raise SystemExit(main())
