"""Time that the harness adds per inference over a bare loop of the same call.

The script measures it in two ways.

*Accounted*: the wall time of the harness's timed loop less the sum of its samples, per inference (median over blocks),
plus one clock reading, which is inside each sample. It does not depend on the session's scatter, so it decides.

*Paired*: blocks of that loop against blocks of a bare ``for`` loop, in random order; the difference of wall time per
call. It checks that the accounted time is complete, and fails if its whole interval is above the limit. After a long
inference the interpreter's code is out of the caches, so even the minimal loop that reads a clock twice takes time
outside the samples; the table has it too.

There are three sessions: one that does nothing, one of about 0.1 ms, and with ``--model`` a graph on ONNX Runtime.

    python benchmarks/overhead.py [--pairs 300] [--model FILE.onnx]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import numpy as np

from effbench.profiles.measure import Call, Feeds, RoundPlan, sample
from effbench.statistics.student_t import student_t

LIMIT_US = 2.0


def nothing() -> tuple[Call, Feeds]:
    """Return a session that returns its inputs."""
    return (lambda feeds: feeds), {"x": np.zeros(1, np.float32)}


def product() -> tuple[Call, Feeds]:
    """Return a session that multiplies two vectors of 2 MB: one thread, no BLAS."""
    weight = np.ones(1 << 19, np.float32)
    out = np.empty_like(weight)
    return (lambda feeds: {"y": np.multiply(feeds["x"], weight, out=out)}), {"x": np.ones(1 << 19, np.float32)}


def graph(path: Path) -> tuple[Call, Feeds]:
    """Return an ONNX graph on ONNX Runtime, one thread, as a session."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    rng, inputs = np.random.default_rng(0), session.get_inputs()
    images = {spec.name: rng.standard_normal(spec.shape).astype(np.float32) for spec in inputs}
    names = [output.name for output in session.get_outputs()]
    return (lambda feeds: dict(zip(names, session.run(names, feeds), strict=True))), images


def bare_ns(session: Call, feeds: Feeds, calls: int) -> float:
    """Return the wall time per call of a bare loop."""
    start = time.perf_counter_ns()
    for _ in range(calls):
        session(feeds)
    return (time.perf_counter_ns() - start) / calls


def harness_ns(session: Call, feeds: Feeds, calls: int) -> tuple[float, float, float]:
    """Return per call: wall time of the harness's loop, the time outside its samples, and the same of a minimal loop.

    The clock is the real one: a recording clock would be Python code too, and cold after a long inference.
    """
    start = time.perf_counter_ns()
    samples = sample(session, feeds, RoundPlan(calls, 0.0, 3600.0), time.perf_counter_ns)
    wall = time.perf_counter_ns() - start
    inside, clock = 0, time.perf_counter_ns
    start = clock()
    for _ in range(calls):
        begin = clock()
        session(feeds)
        inside += clock() - begin
    minimal = clock() - start
    return wall / calls, (wall - sum(samples)) / calls, (minimal - inside) / calls


def pairs_ns(session: Call, feeds: Feeds, pairs: int, calls: int) -> Iterator[tuple[float, float, float, float]]:
    """Yield for each pair: the bare time per call, the harness's time less that, and the two gaps of `harness_ns`."""
    rng = np.random.default_rng(0)
    for _ in range(pairs):
        bare_first = rng.random() < 0.5
        bare = bare_ns(session, feeds, calls) if bare_first else 0.0
        wall, *gaps = harness_ns(session, feeds, calls)
        bare = bare if bare_first else bare_ns(session, feeds, calls)
        yield bare, wall - bare, gaps[0], gaps[1]


def reading_ns() -> float:
    """Return the time of one clock reading: the median of short runs, which an interruption does not change."""
    runs = ([time.perf_counter_ns() for _ in range(101)] for _ in range(500))
    return median((times[-1] - times[0]) / 100 for times in runs)


def median_interval(values: list[float]) -> tuple[float, float, float]:
    """Return the median with its 95 % interval from order statistics."""
    ordered, count = sorted(values), len(values)
    half_width = int(np.ceil(student_t(0.975, count - 1) * np.sqrt(count) / 2))
    middle = count // 2
    return ordered[max(middle - half_width, 0)], median(ordered), ordered[min(middle + half_width, count - 1)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=300)
    parser.add_argument("--model", type=Path, metavar="FILE.onnx")
    args = parser.parse_args()
    sessions = {"nothing": nothing(), "product": product()}
    if args.model:
        sessions[args.model.stem] = graph(args.model)
    print("| session | bare call, us | accounted, us | minimal timed loop, us | paired, us | 95 % interval, us |")
    print("|---|---|---|---|---|---|")
    missed = 0
    for name, (session, feeds) in sessions.items():
        # Blocks of about 20 ms: long against a clock reading, short against disturbances of the machine.
        calls = min(max(int(2e7 / bare_ns(session, feeds, 20)), 5), 2000)
        bare, paired, gap, minimal_gap = zip(*pairs_ns(session, feeds, args.pairs, calls), strict=True)
        low, middle, high = (value / 1e3 for value in median_interval(list(paired)))
        inside = reading_ns()
        accounted, minimal = (median(gap) + inside) / 1e3, (median(minimal_gap) + inside) / 1e3
        missed += accounted >= LIMIT_US or low >= LIMIT_US
        columns = (median(bare) / 1e3, accounted, minimal, middle)
        print(f"| {name} | {' | '.join(f'{value:.2f}' for value in columns)} | {low:.2f} to {high:.2f} |", flush=True)
    print(f"\n{args.pairs} alternated pairs each; limit {LIMIT_US:g} us; {missed} sessions above it.")
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
