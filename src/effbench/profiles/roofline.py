"""Peak rates of a processor, measured in a fresh process, and the work and time of the layers of a graph.

Arithmetic is a large single-precision matrix product through numpy's BLAS; bandwidth is STREAM's *add* (a = b + c),
which numpy does in one pass over arrays larger than any cache. Both need only numpy, so they run on any device with
Python. A layer's work follows from the shapes that ONNX Runtime's profiler records.

Source: Williams, Waterman and Patterson 2009 (roofline model); McCalpin 1995 (STREAM; bytes are counted as it counts
them: two reads and a write, the write-allocate left out).
"""

from __future__ import annotations

import itertools
import math
import os
import statistics
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from effbench import reading

THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
"""Environment variables that numpy's BLAS libraries read once, at import."""
MATRIX = 1536
ARRAY_BYTES = 128 << 20
"""Three such arrays exceed the last-level cache of every CPU in the list of devices."""
SECONDS = 0.3
WARMUP = 5
HEAVY_CONV = ("Conv", "FusedConv", "ConvTranspose")
HEAVY_PRODUCT = ("MatMul", "FusedMatMul", "Gemm", "FusedGemm")


def limit_threads(threads: int) -> None:
    """Set the threads of numpy's BLAS; call it before numpy is imported."""
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))


def gflops(size: int = MATRIX, seconds: float = SECONDS) -> float:
    """Return the best rate of a matrix product in GFLOP/s; a multiply-accumulate is two operations."""
    import numpy as np

    dice = np.random.default_rng(0)
    a, b = (dice.standard_normal((size, size), dtype=np.float32) for _ in range(2))
    out = np.empty_like(a)
    best = _best(lambda: np.matmul(a, b, out=out), seconds)
    return 2 * size**3 / best / 1e9


def gb_per_s(threads: int, size_bytes: int = ARRAY_BYTES, seconds: float = SECONDS) -> float:
    """Return the best rate of a = b + c in GB/s; the arrays are split between the threads."""
    import numpy as np

    count = size_bytes // 4
    a, b, c = (np.ones(count, np.float32) for _ in range(3))
    edges = [count * index // threads for index in range(threads + 1)]
    parts = [slice(low, high) for low, high in itertools.pairwise(edges)]

    def work(part: slice) -> None:
        np.add(b[part], c[part], out=a[part])

    def once() -> None:
        threads_started = [threading.Thread(target=work, args=(part,)) for part in parts[1:]]
        for thread in threads_started:
            thread.start()
        work(parts[0])
        for thread in threads_started:
            thread.join()

    return 3 * size_bytes / _best(once, seconds) / 1e9


def _best(work: Any, seconds: float) -> float:
    work()
    best, end = math.inf, time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


def layers(model: Path, threads: int, runs: int) -> list[dict[str, Any]]:
    """Run a model under ONNX Runtime's profiler; return its layers as executed, see `read_layers`.

    Raises:
        MissingDependencyError: onnxruntime is not installed.
    """
    from effbench.profiles.layers import profiled

    return profiled([model], seed=0, runs=runs, threads=threads, read=read_layers)[0]


def read_layers(file: Path) -> list[dict[str, Any]]:
    """Return each layer of a profile: ``name``, ``operator``, ``us`` (median), ``macs`` or None, ``bytes``.

    Bytes are those of all inputs, weights and outputs, each counted once: the traffic without caches.
    """
    times: dict[str, list[int]] = {}
    arguments: dict[str, dict[str, Any]] = {}
    for event in reading.json_file(file, longest=None):
        name = str(event.get("name", ""))
        if event.get("cat") == "Node" and name.endswith("_kernel_time"):
            layer = name.removesuffix("_kernel_time")
            times.setdefault(layer, []).append(int(event["dur"]))
            arguments[layer] = event["args"]
    layers = []
    for name, args in arguments.items():
        median = statistics.median(times[name][WARMUP:] or times[name])
        count = macs(args)
        layers.append({"name": name, "operator": str(args.get("op_name", "")), "us": median, "macs": count})
        layers[-1]["bytes"] = _bytes(args)
    return layers


def macs(args: Mapping[str, Any]) -> int | None:
    """Return the multiply-accumulates of a layer from its recorded shapes, or None if they do not determine them."""
    operator = str(args.get("op_name", ""))
    inputs, outputs = _shapes(args, "input_type_shape"), _shapes(args, "output_type_shape")
    if operator not in HEAVY_CONV + HEAVY_PRODUCT:
        return 0
    if not inputs or not outputs:
        return None
    if operator in HEAVY_PRODUCT:
        # Each element of the left matrix is multiplied with a row of the right one, also if either is transposed.
        left_shape, out_shape = inputs[0], outputs[0]
        return math.prod(left_shape) * out_shape[-1] * (math.prod(out_shape[:-2]) // math.prod(left_shape[:-2]))
    if len(inputs) < 2 or len(inputs[1]) != len(inputs[0]):
        return None  # prepacked weights have no shape
    side = inputs[0] if operator == "ConvTranspose" else outputs[0]
    return math.prod(side) * math.prod(inputs[1][1:])


def _bytes(args: Mapping[str, Any]) -> int:
    total = sum(int(args.get(key, 0)) for key in ("activation_size", "output_size", "parameter_size"))
    inputs, outputs = _shapes(args, "input_type_shape"), _shapes(args, "output_type_shape")
    if args.get("op_name") in ("Gemm", "FusedGemm") and inputs and outputs and not any(len(x) == 2 for x in inputs[1:]):
        total += 4 * inputs[0][-1] * outputs[0][-1]  # prepacked weights are still read
    return total


def _shapes(args: Mapping[str, Any], key: str) -> Sequence[list[int]]:
    return [shape for entry in args.get(key, []) for shape in entry.values()]
