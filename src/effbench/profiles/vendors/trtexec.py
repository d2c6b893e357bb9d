"""``trtexec --exportTimes=FILE``: one JSON object per inference, warm-up included.

Source: samples/common/sampleReporting.cpp of NVIDIA/TensorRT (`exportJSONTrace`, `isNotWarmup`, `latency`).
"""

from __future__ import annotations

from effbench import reading
from effbench.errors import DataError
from effbench.profiles.vendors import MS, Reader, Reading, to_ns

WARMUP_MS = 200.0
"""trtexec's default ``--warmUp``; its statistics exclude inferences that began earlier."""


def _matches(text: str) -> bool:
    return text.lstrip().startswith("[") and '"computeMs"' in text


def _read(text: str, file_name: str) -> Reading:
    try:
        rows = reading.json_value(text, file_name)
        begins = [float(row["startComputeMs"]) for row in rows]
        latencies = [float(row["latencyMs"]) for row in rows]
        computes = sorted(float(row["computeMs"]) for row in rows)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file_name}: not the output of trtexec --exportTimes ({error}).") from error
    timed = [took for began, took in zip(begins, latencies, strict=True) if began >= WARMUP_MS]
    note = "timed by trtexec with GPU events: input copies, compute, output copies; queueing on the host is not timed"
    return Reading(
        tuple(to_ns(value, MS) for value in timed or latencies),
        scope="device-only",
        warmup=len(latencies) - len(timed) if timed else 0,
        observed={"compute_ms": computes[len(computes) // 2]},
        notes=(note,),
    )


READER = Reader("trtexec", "trtexec --exportTimes", _matches, _read)
