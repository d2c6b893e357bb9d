"""Time the layers of two ONNX models in pairs, with ONNX Runtime's own profiler.

The profiler slows both sides, so its times explain a verdict but do not decide it.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from effbench import drafts, reading
from effbench.errors import MissingDependencyError

T = TypeVar("T")
SUFFIX = "_kernel_time"
WARMUP = 2
STRUCTURE = ("input_type_shape", "output_type_shape", "parameter_size")
"""What ONNX Runtime's profiler records of a node beside its operator and its name."""


def measure_layers(models: Sequence[Path], *, seed: int, runs: int, threads: int) -> list[dict[str, Any]]:
    """Run both models alternately, the first of each pair at random, under the profiler.

    Args:
        models: Two .onnx files with one image input each.
        seed: Seed of the random order.
        runs: Number of pairs.
        threads: Intra-operator threads.

    Returns:
        For each side: ``layers`` (name -> [operator, microseconds of each run, structure]), in the order of execution,
        and ``operators`` (as executed, with count). The n-th runs of both sides are a pair. The structure is a text
        that is equal for equal operators with equal shapes of inputs, outputs and weights.

    Raises:
        MissingDependencyError: onnxruntime is not installed.
    """
    return profiled(models, seed=seed, runs=runs, threads=threads, read=read_profile)


def profiled(models: Sequence[Path], *, seed: int, runs: int, threads: int, read: Callable[[Path], T]) -> list[T]:
    """Run models in turn, the first of each turn at random, under the profiler; return each file as read.

    Raises:
        MissingDependencyError: onnxruntime is not installed.
    """
    try:
        import numpy as np
        import onnxruntime as ort
    except ImportError as error:
        raise MissingDependencyError("Timing layers", "onnxruntime", "ort") from error
    order = random.Random(seed)
    with drafts.scratch() as folder:
        sessions, feeds = [], []
        for side, path in enumerate(models):
            options = ort.SessionOptions()
            options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
            options.log_severity_level = 3
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(folder) / f"side{side}")
            session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            spec = session.get_inputs()[0]
            shape = [size if isinstance(size, int) else 1 for size in spec.shape]
            kind = np.float16 if spec.type == "tensor(float16)" else np.float32
            feeds.append({spec.name: np.random.default_rng(0).standard_normal(shape).astype(kind)})
            sessions.append(session)
        for _ in range(WARMUP + runs):
            for side in order.sample(range(len(models)), len(models)):
                sessions[side].run(None, feeds[side])
        files = [Path(session.end_profiling()) for session in sessions]
        return [read(file) for file in files]


def read_profile(file: Path) -> dict[str, Any]:
    """Return the layers of a profile with the times of all runs; warm-up runs are dropped."""
    times: dict[str, list[int]] = {}
    operator: dict[str, str] = {}
    structure: dict[str, str] = {}
    for event in reading.json_file(file, longest=None):
        name = str(event.get("name", ""))
        if event.get("cat") == "Node" and name.endswith(SUFFIX):
            layer = name.removesuffix(SUFFIX)
            times.setdefault(layer, []).append(int(event["dur"]))
            args = event["args"]
            operator[layer] = str(args.get("op_name", ""))
            structure[layer] = repr([operator[layer], *(args.get(key) for key in STRUCTURE)])
    layers = {
        name: [operator[name], durations[WARMUP:] or durations, structure[name]] for name, durations in times.items()
    }
    return {"layers": layers, "operators": dict(Counter(operator.values()))}
