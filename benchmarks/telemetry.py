"""Latency with vendors' telemetry on over latency with it off, in pairs of processes of plain runtime code.

    python benchmarks/telemetry.py --rounds 40

A model is exported once. Each round times it in two fresh processes, one with the switches of `boundary.quiet` and one
without, in random order. The interval is that of the median of the ratios (order statistics, 95 %).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

CHILD = """
import json, sys, time
runtime, model, off = sys.argv[1], sys.argv[2], sys.argv[3] == "off"
if off:
    sys.modules["openvino_telemetry"] = None
import numpy as np
feed = np.zeros((1, 3, 224, 224), np.float32)
start = time.perf_counter()
if runtime == "ort":
    import onnxruntime as ort
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    run = lambda: session.run(None, {"image": feed})
else:
    import openvino
    config = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": "1"}
    request = openvino.Core().compile_model(model, "CPU", config).create_infer_request()
    run = lambda: request.infer({"image": feed})
load = time.perf_counter() - start
for _ in range(5):
    run()
times, end = [], time.perf_counter() + float(sys.argv[4])
while time.perf_counter() < end or len(times) < 20:
    start = time.perf_counter()
    run()
    times.append(time.perf_counter() - start)
print(json.dumps([float(np.median(times)), load]))
"""
SWITCHES = {"ORT_DISABLE_TELEMETRY": "1"}


def once(runtime: str, model: Path, state: str, seconds: float) -> tuple[float, float]:
    """Return the median latency and the time to load of one process, in seconds."""
    environ = {key: value for key, value in os.environ.items() if key not in SWITCHES}
    command = [sys.executable, "-I", "-c", CHILD, runtime, str(model), state, str(seconds)]
    done = subprocess.run(
        command, env={**environ, **(SWITCHES if state == "off" else {})}, capture_output=True, text=True, check=True
    )
    median, load = json.loads(done.stdout.splitlines()[-1])
    return float(median), float(load)


def interval(ratios: np.ndarray) -> tuple[float, float]:
    """Return the 95 % interval of a median by order statistics."""
    ordered, half = np.sort(ratios), 0.98 * np.sqrt(len(ratios))
    middle = (len(ratios) - 1) / 2
    return float(ordered[max(0, int(np.floor(middle - half)))]), float(
        ordered[min(len(ratios) - 1, int(np.ceil(middle + half)))]
    )


def main() -> None:
    """Print the table."""
    from tabulate import tabulate

    import effbench

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=1.0, help="of timing in each process")
    parser.add_argument("--model", default="regla_t")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        cells = effbench.export(arguments.model, ["ort", "ov"], [224], out=folder, verify=False)
        for cell in cells:
            model = next(Path(cell.artifact).glob("model.onnx" if cell.target == "ort" else "model.xml"))
            pairs = []
            for _ in range(arguments.rounds):
                states = random.sample(["on", "off"], 2)
                times = {state: once(cell.target, model, state, arguments.seconds) for state in states}
                pairs.append((times["on"], times["off"]))
            values = np.array(pairs)
            for index, what in enumerate(("latency", "load")):
                ratios = values[:, 0, index] / values[:, 1, index]
                low, high = interval(ratios)
                rows.append([cell.target, what, f"{np.median(ratios):.4f}", f"{low:.4f} to {high:.4f}", len(ratios)])
    print(tabulate(rows, ["runtime", "time", "on / off", "95 %", "rounds"], tablefmt="github", disable_numparse=True))


if __name__ == "__main__":
    main()
