"""``onnxruntime_perf_test``: its result file (a line per run, in seconds), or its console output.

Source: onnxruntime/test/perftest/performance_runner.h of microsoft/onnxruntime (`DumpToFile`) and its README. Written
from documentation.
"""

from __future__ import annotations

import re

from effbench.errors import DataError
from effbench.profiles.vendors import MS, Reader, Reading, to_ns

LINE = re.compile(r"^[^,\n]*,([\d.eE+-]+),\d+,-?\d+,\d+\s*$", re.MULTILINE)
MEDIAN = re.compile(r"P50 Latency(?: is|:)\s*([\d.eE+-]+)\s*s")
MEAN = re.compile(r"Average inference time cost(?: total)?:\s*([\d.eE+-]+)\s*ms")
COUNT = re.compile(r"Total (?:inference requests|iterations):\s*(\d+)")
LOAD = re.compile(r"Session creation time cost:\s*([\d.eE+-]+)\s*s")


def _matches(text: str) -> bool:
    return LINE.search(text) is not None or MEAN.search(text) is not None or "P50 Latency" in text


def _read(text: str, file_name: str) -> Reading:
    load = LOAD.search(text)
    load_ms = float(load[1]) / MS if load else 0.0
    raw = LINE.findall(text)
    if raw:
        return Reading(tuple(to_ns(float(value), 1.0) for value in raw), load_ms=load_ms)
    median, mean, count = MEDIAN.search(text), MEAN.search(text), COUNT.search(text)
    if median is None and mean is None:
        raise DataError(f"{file_name}: no time of onnxruntime_perf_test.")
    runs = f"of {count[1]} runs" if count else "of all runs"
    if median is not None:
        return Reading((to_ns(float(median[1]), 1.0),), aggregate=f"median {runs}", load_ms=load_ms)
    assert mean is not None
    return Reading((to_ns(float(mean[1]), MS),), aggregate=f"mean {runs}", load_ms=load_ms)


READER = Reader("onnxruntime", "onnxruntime_perf_test: result file or console", _matches, _read)
