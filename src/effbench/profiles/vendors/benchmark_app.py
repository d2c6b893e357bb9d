"""OpenVINO's ``benchmark_app``: its report as JSON (``-json_stats``) or CSV, or its console output.

Tested with the tool of openvino 2026.4. It gives statistics only, and rounds them to 10 us in its reports.
"""

from __future__ import annotations

import re

from effbench import reading
from effbench.errors import DataError
from effbench.profiles.vendors import MS, Reader, Reading, to_ns

PRINTED = {
    "total number of iterations": r"Count:\s+([\d.]+) iterations",
    "first inference time (ms)": r"First inference took ([\d.]+) ms",
    "compile model time (ms)": r"Compile model took ([\d.]+) ms",
}
UNITS_MS = {"us": 1e-3, "ms": 1.0, "s": 1e3}


def _matches(text: str) -> bool:
    return "[Step 11/11]" in text or "Execution results" in text or '"execution_results"' in text


def _read(text: str, file_name: str) -> Reading:
    results, setup = _parse(text, file_name)
    try:
        median, count = float(results["latency (ms)"]), int(float(results["total number of iterations"]))
    except (KeyError, ValueError) as error:
        raise DataError(f"{file_name}: a report of benchmark_app without its results ({error}).") from error
    requests = int(setup.get("number of parallel infer requests", "1"))
    if setup.get("API", "sync") != "sync" or requests > 1:
        hint = "Run it again with: -hint none -nstreams 1 -nthreads 1 -api sync"
        raise DataError(f"{file_name}: {requests} requests ran at a time: that is throughput, not latency.", hint=hint)
    percentile = setup.get("latency percentile", "50")
    names = {"avg latency": "mean_ms", "min latency": "min_ms", "max latency": "max_ms"}
    return Reading(
        (to_ns(median, MS),),
        aggregate=f"{'median' if percentile == '50' else f'percentile {percentile}'} of {count} runs",
        load_ms=float(results.get("compile model time (ms)", 0)),
        first_ms=float(results.get("first inference time (ms)", 0)),
        settings={
            key: setup[name]
            for key, name in {"device": "target device", "streams": "number of CPU streams"}.items()
            if name in setup
        },
        observed={key: float(results[name]) for name, key in names.items() if name in results},
        notes=("benchmark_app: filling the inputs is not timed",),
    )


def _parse(text: str, file_name: str) -> tuple[dict[str, str], dict[str, str]]:
    if text.lstrip().startswith("{"):
        try:
            data = reading.json_value(text, file_name)
            return data["execution_results"], {key: str(item) for key, item in data["configuration_setup"].items()}
        except (ValueError, KeyError) as error:
            raise DataError(f"{file_name}: not a report of benchmark_app ({error}).") from error
    if "Execution results" in text:
        pairs = dict(line.split(";", 1) for line in text.splitlines() if ";" in line)
        return pairs, pairs
    return _printed(text, file_name)


def _printed(text: str, file_name: str) -> tuple[dict[str, str], dict[str, str]]:
    results = {name: match[1] for name, pattern in PRINTED.items() if (match := re.search(pattern, text))}
    for label, name in (("Median", "latency (ms)"), ("Average", "avg latency"), ("Min", "min latency")):
        match = re.search(rf"{label}:\s+([\d.]+) (us|ms|s)\b", text)
        if match:
            results[name] = str(float(match[1]) * UNITS_MS[match[2]])
    requests = re.search(r"(?<!\d)(\d{1,9}) inference requests", text)
    setup = {"number of parallel infer requests": requests[1] if requests else "1"}
    if "inference asynchronously" in text:
        setup["API"] = "async"
    return results, setup


READER = Reader("benchmark_app", "OpenVINO benchmark_app: JSON, CSV or console", _matches, _read)
