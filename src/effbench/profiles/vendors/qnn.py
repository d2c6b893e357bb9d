"""Qualcomm's profiles: the text of ``qnn-profile-viewer``, or the CSV of ONNX Runtime's QNN provider.

The viewer's text has averages over the runs of ``qnn-net-run``; the CSV has one ``EXECUTE`` (or ``QNN (execute) time``)
per run. Sources: outputs of the viewer as printed in public write-ups of the QNN SDK; the header and rows of the CSV in
onnxruntime's qnn provider (`qnn_profile_serializer`). Written from documentation.
"""

from __future__ import annotations

import csv
import re

from effbench.errors import DataError
from effbench.profiles.vendors import MS, US, Reader, Reading, to_ns

HEADER = "Msg Timestamp,Message,Time,Unit of Measurement"
AVERAGE = re.compile(r"Execute Stats \(Average\):?(.*?)(?:Execute Stats \((?!Average)|\Z)", re.DOTALL)
NETRUN = re.compile(r"NetRun\s*:\s+([\d.]+) us")
EXECUTE = "QNN (execute) time"
ACCELERATOR = re.compile(r"Accelerator \(execute\) time\)?\s*:\s+([\d.]+) us")
IPS = re.compile(r"NetRun IPS[^:\n]{0,80}:\s+([\d.]+) inf/sec")


def _matches(text: str) -> bool:
    return HEADER in text or ("Execute Stats" in text and "NetRun" in text)


def _read(text: str, file_name: str) -> Reading:
    return _csv(text, file_name) if HEADER in text else _text(text, file_name)


def _text(text: str, file_name: str) -> Reading:
    part = AVERAGE.search(text)
    times = NETRUN.search(part[1]) if part else None
    if part is None or times is None:
        raise DataError(f"{file_name}: no average execute time.", hint="Run qnn-net-run with --profiling_level basic.")
    accelerator, ips = ACCELERATOR.search(part[1]), IPS.search(text)
    observed = {"accelerator_ms": float(accelerator[1]) * US / MS} if accelerator else {}
    observed |= {"images_per_s_with_io": float(ips[1])} if ips else {}
    return Reading((to_ns(float(times[1]), US),), aggregate="mean of all runs (qnn-net-run)", observed=observed)


def _csv(text: str, file_name: str) -> Reading:
    rows = list(csv.DictReader(text[text.index(HEADER) :].splitlines()))
    timed = [row for row in rows if row.get("Unit of Measurement") == "US" and row.get("Time", "").isdecimal()]
    executions = [row for row in timed if row["Message"] == "EXECUTE" and row["Event Level"] == "ROOT"]
    executions = executions or [row for row in timed if row["Event Identifier"] == EXECUTE]
    if not executions:
        raise DataError(f"{file_name}: it holds no execution.", hint="profiling_level must be basic or detailed.")
    return Reading(tuple(to_ns(float(row["Time"]), US) for row in executions))


READER = Reader("qnn", "qnn-profile-viewer text, or the QNN provider's CSV", _matches, _read)
