"""Run a kit on the device of its recipient: verify each artifact, measure it in rounds, write one result file.

Start it in the kit's folder with ``python3 -I agent.pyz effbench.device.agent_kit``. It needs Python >= 3.10, numpy and
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
from effbench.codec import canonical, file_sha256
from effbench.device import AGENT
from effbench.device.signature import Chain
from effbench.errors import DataError, EffbenchError
from effbench.schema import FORMAT_VERSION

PLAN, RESULT, OUTPUTS = "kit.json", "result.jsonl", "outputs"


def run(folder: Path) -> int:
    """Run the plan in ``kit.json``; return the exit code: 0, or 5 if an artifact could not be measured.

    Raises:
        DataError: The folder is not a kit.
    """
    plan = reading.json_file(folder / PLAN, hint="Run this in a folder written by `effbench kit`.")
    _check(plan, folder / PLAN)
    failed = False
    head = {"format": FORMAT_VERSION, "kit": plan["kit"], "device": plan["device"], "threads": plan["threads"]}
    head["time"] = datetime.now(timezone.utc).isoformat(timespec="seconds")
    chain, count = Chain(plan["key"]), 0
    with (folder / RESULT).open("w") as result:

        def write(line: dict[str, Any]) -> None:
            result.write(json.dumps(chain.sign(line)) + "\n")
            result.flush()
            os.fsync(result.fileno())

        write(head)
        for line in _lines(folder, plan):
            failed = failed or "error" in line
            write(line)
            count += 1
        write({"lines": count + 1})
    print(f"\nwrote {folder / RESULT} and {OUTPUTS}/")
    print(f"copy both to your work station, and run there: effbench import {RESULT}")
    return 5 if failed else 0


def _check(plan: Any, path: Path) -> None:
    """Refuse a plan that lacks something, or names a file outside the kit.

    Raises:
        DataError: It says what is wrong.
    """
    kinds = {"kit": str, "key": str, "device": str, "threads": int, "rounds": int, "artifacts": list}
    if not isinstance(plan, dict) or plan.get("format") != FORMAT_VERSION:
        raise DataError(f"{path}: not a plan of format {FORMAT_VERSION}.", hint="Write the kit with this version.")
    if any(not isinstance(plan.get(key), kind) for key, kind in kinds.items()):
        raise DataError(f"{path}: not a whole plan.")
    for item in plan["artifacts"]:
        name = str(item.get("name")) if isinstance(item, dict) else ""
        if "/" in name or name in ("", ".", "..") or not isinstance(item.get("packages"), list):
            raise DataError(f"{path}: {name[:80]!r} is no artifact of this kit.")


def _lines(folder: Path, plan: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    usable = []
    for item in plan["artifacts"]:
        outputs = folder / OUTPUTS / f"{item['name']}.npz"
        outputs.unlink(missing_ok=True)
        job = {"op": "verify", **_folders(folder, item), "threads": plan["threads"], "outputs": str(outputs)}
        line = _answer(job, item, 600.0)
        if "answer" in line and outputs.exists():
            line["outputs"] = file_sha256(outputs)
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
            job["cold_start"] = index == 0 and plan["rounds"] > 1
            line = _answer(job, item, max(120.0, 4 * plan["budget_s"]))
            print(f"round {index + 1}/{plan['rounds']}  {item['name']}  {line.get('error') or _median(line)}")
            if "error" in line:
                usable.remove(item)
            yield line


def _folders(folder: Path, item: Mapping[str, Any]) -> dict[str, str]:
    name = item["name"]
    return {"artifact": str(folder / "artifacts" / name), "reference": str(folder / "reference" / f"{name}.npz")}


def _answer(job: Mapping[str, Any], item: Mapping[str, Any], limit_s: float) -> dict[str, Any]:
    start = time.monotonic()
    line: dict[str, Any] = {"artifact": item["name"], "digest": item["digest"], "op": job["op"]}
    try:
        answer = process.single(process.run(AGENT, job, time_limit_s=limit_s))
        canonical(answer)  # what cannot be signed is an error too
        line["answer"] = answer
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
