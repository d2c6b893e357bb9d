"""A fixed small loop that is timed beside each round: what the machine gives now, against the best seen on it.

Two kernels, in numpy: one stays in the first cache and shows the speed of the core (its clock, its type, time it
loses); one copies more than the second cache holds and shows the memory and the cache that others share. They know
nothing of the model, so a machine that is slow in all rounds of a measurement is seen too.

Numpy and the standard library only: this runs on devices.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

COMPUTE_ELEMENTS = 2048
COMPUTE_STEPS = 400
MEMORY_BYTES = 16 << 20
REPEATS = 5

KERNELS = ("compute", "memory")


def readings(clock: Callable[[], int] = time.perf_counter_ns) -> dict[str, float]:
    """Time both kernels and return ``reference_compute_us`` and ``reference_memory_us``, medians of `REPEATS` runs.

    They take about 30 ms together. A kernel during which the clock stands still has no reading.
    """
    times = {name: _median_us(kernel, clock) for name, kernel in zip(KERNELS, _kernels(), strict=True)}
    return {f"reference_{name}_us": microseconds for name, microseconds in times.items() if microseconds > 0}


def _kernels() -> tuple[Callable[[], None], Callable[[], None]]:
    values, factor = np.linspace(0.5, 1.5, COMPUTE_ELEMENTS), np.full(COMPUTE_ELEMENTS, 0.999)
    source = np.ones(MEMORY_BYTES // 16)
    target = np.empty_like(source)

    def compute() -> None:
        result = values.copy()
        for _ in range(COMPUTE_STEPS):
            np.multiply(result, factor, out=result)
            np.sqrt(result, out=result)

    return compute, lambda: np.copyto(target, source)


def _median_us(kernel: Callable[[], None], clock: Callable[[], int]) -> float:
    kernel()
    times = []
    for _ in range(REPEATS):
        start = clock()
        kernel()
        times.append(clock() - start)
    return sorted(times)[REPEATS // 2] / 1e3
