"""LiteRT's ``benchmark_model``: its output, on a console or in logcat.

Source: developers.google.com/edge/litert/models/measurement ("Inference timings in us"), and outputs with
``count=... avg=... std=... p5=... median=... p95=...`` of recent versions. Written from documentation.
"""

from __future__ import annotations

import re

from effbench.errors import DataError
from effbench.profiles.vendors import MS, US, Reader, Reading, to_ns

TIMINGS = re.compile(
    r"Inference timings in us: Init: ([\d.]+), First inference: ([\d.]+), "
    r"Warmup \(avg\): ([\d.]+), Inference \(avg\): ([\d.]+)"
)
COUNTS = re.compile(r"count=(\d+) first=\S+ curr=\S+(?: min=(\S+) max=(\S+) avg=(\S+) std=(\S+))?")
MEDIAN = re.compile(r"median=([\d.]+)")
DELEGATED = re.compile(r"Replacing (\d+) out of (\d+) node\(s\) with delegate \((\w+)\) node, yielding (\d+) partition")


def _matches(text: str) -> bool:
    return TIMINGS.search(text) is not None


def _read(text: str, file_name: str) -> Reading:
    timings = TIMINGS.search(text)
    if timings is None:
        raise DataError(
            f"{file_name}: no line 'Inference timings in us'.",
            hint="Check that benchmark_model ended without an error.",
        )
    init, first, _, mean = (float(item) for item in timings.groups())
    counts = list(COUNTS.finditer(text))
    runs = counts[-1][1] if counts else "?"
    median = MEDIAN.search(text, counts[-1].start()) if counts else None
    observed = {"mean_ms": mean * US / MS}
    if counts and counts[-1][2]:
        names = ("min_ms", "max_ms", "std_ms")
        values = (counts[-1][2], counts[-1][3], counts[-1][5])
        observed |= {name: float(value) * US / MS for name, value in zip(names, values, strict=True)}
    threads = re.search(r"Num threads: \[(\d+)\]", text)
    parts = [
        {"delegate": name, "operators": int(delegated), "of": int(total), "partitions": int(partitions)}
        for delegated, total, name, partitions in DELEGATED.findall(text)
    ]
    return Reading(
        (to_ns(float(median[1]) if median else mean, US),),
        aggregate=f"{'median' if median else 'mean'} of {runs} runs",
        warmup=int(counts[0][1]) if len(counts) > 1 else 0,
        load_ms=init * US / MS,
        first_ms=first * US / MS,
        settings={"threads": threads[1]} if threads else {},
        observed=observed,
        placement={"delegates": parts} if parts else {},
    )


READER = Reader("litert", "LiteRT benchmark_model: console or logcat", _matches, _read)
