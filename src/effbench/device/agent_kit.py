"""Run a kit on the device of its recipient: verify each artifact, measure it in rounds, write one result file.

Start it in the kit's folder with ``python3 agent.pyz effbench.device.agent_kit``. It needs Python >= 3.10, numpy and
the runtime. Nothing is sent anywhere: the recipient returns the result file.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from effbench import process, reading
from effbench.codec import fingerprint
from effbench.device import AGENT
from effbench.errors import EffbenchError
from effbench.schema import FORMAT_VERSION

PLAN, RESULT = "kit.json", "result.jsonl"


def run(folder: Path) -> int:
    """Run the plan in ``kit.json``; return the exit code: 0, or 5 if an artifact could not be measured.

    Raises:
        DataError: The folder is not a kit.
    """
    plan = reading.json_file(folder / PLAN, hint="Run this in a folder written by `effbench kit`.")
    failed = False
    head = {"format": FORMAT_VERSION, "kit": fingerprint(plan), "device": plan["device"], "threads": plan["threads"]}
    with (folder / RESULT).open("w") as result:
        for line in ({**head, "time": datetime.now(timezone.utc).isoformat(timespec="seconds")}, *_lines(folder, plan)):
            failed = failed or "error" in line
            result.write(json.dumps(line) + "\n")
            result.flush()
            os.fsync(result.fileno())
    print(f"\nwrote {folder / RESULT}; copy it to your work station and run: effbench import {RESULT}")
    return 5 if failed else 0


def _lines(folder: Path, plan: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    usable = []
    for item in plan["artifacts"]:
        job = {"op": "verify", **_folders(folder, item), "threads": plan["threads"]}
        line = _answer(job, item, 600.0)
        print(f"{item['name']}: {line.get('error') or ('verified' if _passed(line) else 'NOT THE SAME MODEL')}")
        usable += [] if "error" in line else [item]
        yield line
    order = random.Random()
    for index in range(plan["rounds"]):
        order.shuffle(usable)
        for item in list(usable):
            seconds = plan["budget_s"] / plan["rounds"]
            job = {"op": "measure", **_folders(folder, item), "threads": plan["threads"], "round_seconds": seconds}
            job |= {"min_samples": 20, "min_seconds": 0.3, "packages": item["packages"], "check_promise": index == 0}
            line = _answer(job, item, max(120.0, 4 * plan["budget_s"]))
            print(f"round {index + 1}/{plan['rounds']}  {item['name']}  {line.get('error') or _median(line)}")
            if "error" in line:
                usable.remove(item)
            yield line


def _folders(folder: Path, item: Mapping[str, Any]) -> dict[str, str]:
    return {"artifact": str(folder / item["artifact"]), "reference": str(folder / item["reference"])}


def _answer(job: Mapping[str, Any], item: Mapping[str, Any], limit_s: float) -> dict[str, Any]:
    start = time.monotonic()
    line: dict[str, Any] = {"artifact": item["name"], "digest": item["digest"], "op": job["op"]}
    python = process.Python(env={"PYTHONPATH": sys.path[0]})
    try:
        (line["answer"],) = process.run(AGENT, job, time_limit_s=limit_s, python=python)
    except EffbenchError as error:
        line["error"] = error.message
    return {**line, "seconds": round(time.monotonic() - start, 3)}


def _passed(line: Mapping[str, Any]) -> bool:
    return bool(line["answer"]["fidelity"]["passed"])


def _median(line: Mapping[str, Any]) -> str:
    samples = sorted(line["answer"]["round"]["samples_ns"])
    return f"{samples[len(samples) // 2] / 1e6:.3f} ms (median of {len(samples)})"


def main() -> None:
    """Run the kit in this folder."""
    try:
        sys.exit(run(Path.cwd()))
    except EffbenchError as error:
        print(f"effbench: {error}", file=sys.stderr)
        sys.exit(type(error).exit_code)


if __name__ == "__main__":
    main()
