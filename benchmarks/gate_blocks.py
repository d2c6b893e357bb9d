"""A change that is bound by memory, timed by alternation and in blocks: simulated, and live on this machine.

    python benchmarks/gate_blocks.py [--rounds 24] [--mib 20]

Simulated: the last-level cache drops what was used the longest ago, and an inference takes its work on the weights and
the loading of those that are not there. Live: chains of matrix products with a batch of one, B with 13.6 % more
weights; *alone* is each side in a process of its own, whose cache the other does not touch.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import subprocess
import sys
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from effbench.api.compare.caches import last_level_bytes
from effbench.profiles.paired import BLOCK, PairBounds, log_ratios, measure_pairs
from effbench.statistics.percentiles import sign_rank

MORE = 1.136
WORK_NS, LOAD_NS = 1_000, 700
"""Of a page of weights in the simulation."""
PAIRS = 60
WIDTH = 512
"""Of a layer: 1 MiB of weights."""


class Machine:
    """A cache of pages, and a clock that inferences advance: for work on a page, and 0.7 us to load one."""

    def __init__(self, pages: int) -> None:
        self.pages, self.now = pages, 0
        self.cache: OrderedDict[tuple[str, int], None] = OrderedDict()

    def session(self, name: str, size: int, work_ns: int) -> Callable[[Mapping[str, Any]], Mapping[str, Any]]:
        """Return a model with so many pages of weights, read in order, and so much work on each."""

        def run(_: Mapping[str, Any]) -> Mapping[str, Any]:
            for page in range(size):
                self.now += work_ns + (0 if (name, page) in self.cache else LOAD_NS)
                self.cache[name, page] = None
                self.cache.move_to_end((name, page))
                if len(self.cache) > self.pages:
                    self.cache.popitem(last=False)
            return {}

        return run


def simulated(pages: int, size: int, block: int) -> float:
    """Return the ratio that a long round shows for two models of this size, the second with more work."""
    machine = Machine(pages)
    sessions = machine.session("a", size, WORK_NS), machine.session("b", size, round(MORE * WORK_NS))
    feeds: list[Mapping[str, Any]] = [{}]
    bounds = PairBounds(0.0, min_pairs=PAIRS, block=block)
    clock = lambda: machine.now  # noqa: E731
    item = measure_pairs(sessions, (feeds, feeds), bounds, random.Random(1), clock=clock, waits=lambda: 0)
    return math.exp(log_ratios(item).typical)


def write(path: Path, mib: float) -> Path:
    """Write a chain of matrix products with so many MiB of weights."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng, nodes, weights, tensor = np.random.default_rng(0), [], [], "image"
    for index in range(round(mib)):
        value = (rng.standard_normal((WIDTH, WIDTH)) / math.sqrt(WIDTH)).astype(np.float32)
        weights.append(numpy_helper.from_array(value, f"w{index}"))
        nodes.append(helper.make_node("MatMul", [tensor, f"w{index}"], [f"t{index}"]))
        tensor = f"t{index}"
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, WIDTH)) for name in ("image", tensor)]
    graph = helper.make_graph(nodes, "chain", values[:1], values[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def child(job: Mapping[str, Any]) -> None:
    """Measure in this process: both sides with a block of some length, or one side alone; print what it shows."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    opened = [ort.InferenceSession(path, options, providers=["CPUExecutionProvider"]) for path in job["models"]]
    feeds = [{"image": np.random.default_rng(0).standard_normal((1, WIDTH)).astype(np.float32)}]
    calls = [lambda item, own=own: {"out": own.run(None, dict(item))[0]} for own in opened]
    if len(calls) == 1:
        samples = []
        for _ in range(PAIRS + 10):
            start = time.perf_counter_ns()
            calls[0](feeds[0])
            samples.append(time.perf_counter_ns() - start)
        print(math.log(float(np.median(samples[10:]))))
        return
    bounds = PairBounds(0.0, min_pairs=PAIRS, block=job["block"])
    print(log_ratios(measure_pairs((calls[0], calls[1]), (feeds, feeds), bounds, random.Random(job["seed"]))).typical)


def measured(models: list[Path], block: int = 1, seed: int = 0) -> float:
    """Run a child process; return what it prints."""
    job = {"models": [str(path) for path in models], "block": block, "seed": seed}
    command = [sys.executable, __file__, "--child", json.dumps(job)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def live(mib: float, rounds: int) -> list[list[str]]:
    """Return a row for each way of timing: the median change over rounds with its 95 % interval."""
    with tempfile.TemporaryDirectory() as folder:
        models = [write(Path(folder) / f"{name}.onnx", size) for name, size in (("a", mib), ("b", MORE * mib))]
        logs: dict[str, list[float]] = {"alone": [], "one by one": [], f"in blocks of {BLOCK}": []}
        for seed in range(rounds):
            alone = {path: measured([path]) for path in random.sample(models, 2)}
            logs["alone"].append(alone[models[1]] - alone[models[0]])
            logs["one by one"].append(measured(models, 1, seed))
            logs[f"in blocks of {BLOCK}"].append(measured(models, BLOCK, seed))
    rows = []
    for name, values in logs.items():
        ordered, rank = sorted(values), max(0, sign_rank(len(values), 0.95))
        low, middle, high = (100 * math.expm1(x) for x in (ordered[rank], np.median(values), ordered[-1 - rank]))
        rows.append([name, f"{middle:+.1f} % [{low:+.1f}, {high:+.1f}]", str(len(values))])
    return rows


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=24)
    parser.add_argument("--mib", type=float, help="weights of A (default: 0.63 of the last-level cache)")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(json.loads(options.child))
        return
    rows = []
    for share in (0.3, 0.45, 0.6, 0.8, 1.2):
        size = round(1000 * share)
        shown = [f"{100 * (simulated(1000, size, block) - 1):+.1f} %" for block in (1, BLOCK)]
        rows.append([f"{share:g} of the cache", f"{100 * (MORE - 1):+.1f} %", *shown])
    print("simulated: equal weights, B does 13.6 % more work on them")
    print(tabulate(rows, headers=("weights of A", "true", "one by one", f"blocks of {BLOCK}"), disable_numparse=True))
    cache = last_level_bytes()
    mib = options.mib or (0.63 * cache / 2**20 if cache else 20.0)
    cache_text = f"{cache / 2**20:.0f} MiB" if cache else "unknown"
    print(f"\nlive: last-level cache {cache_text}, weights of A {round(mib)} MiB, of B {round(MORE * mib)} MiB")
    print(tabulate(live(mib, options.rounds), headers=("timed", "change [95 %]", "rounds"), disable_numparse=True))


if __name__ == "__main__":
    main()
