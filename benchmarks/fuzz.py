"""Damaged inputs of every format at its door: how many end as data or as one sentence, how long and how large.

``python benchmarks/fuzz.py [--inputs N] [--seed S] [FORMAT ...]`` prints one row per format. Each format runs in a
process of its own that may take 2 GiB; an input that takes longer than 10 s counts as a hang. The mutations are seeded
(`tests/support/fuzzing.py`), so that a fault can be repeated. It exits with 1 if anything was found.
"""

from __future__ import annotations

import argparse
import json
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

SUPPORT = Path(__file__).resolve().parents[1] / "tests" / "support"
LIMIT_S = 10
LIMIT_BYTES = 2 << 30


def run(name: str, count: int, seed: int) -> dict[str, Any]:
    """Run one format in this process; return the ends, the faults, the longest time and the peak of memory."""
    sys.path.insert(0, str(SUPPORT))
    from fuzzing import FORMATS, Fault, attempt, inputs

    form = next(form for form in FORMATS if form.name == name)
    resource.setrlimit(resource.RLIMIT_DATA, (LIMIT_BYTES, LIMIT_BYTES))

    def hang(*_: object) -> None:
        raise Fault(f"{name}: longer than {LIMIT_S} s")

    signal.signal(signal.SIGALRM, hang)
    ends: Counter[str] = Counter()
    faults: list[dict[str, Any]] = []
    longest = 0.0
    for number, data in enumerate(inputs(form, count, seed)):
        with tempfile.TemporaryDirectory() as folder:
            start = time.monotonic()
            signal.alarm(LIMIT_S)
            try:
                ends[attempt(form, data, Path(folder))] += 1
            except Fault as fault:
                faults.append({"number": number, "fault": str(fault), "input": repr(data[:200]), "bytes": len(data)})
            finally:
                signal.alarm(0)
            longest = max(longest, time.monotonic() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"ends": ends, "faults": faults, "longest_s": longest, "peak_mib": peak}


def main() -> None:
    """Run all formats, or those named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--one", action="store_true", help="print one format's result as JSON (used by this script)")
    parser.add_argument("formats", nargs="*")
    options = parser.parse_args()
    sys.path.insert(0, str(SUPPORT))
    from fuzzing import FORMATS

    names = options.formats or [form.name for form in FORMATS]
    if options.one:
        print(json.dumps(run(names[0], options.inputs, options.seed)))
        return
    print(f"{'format':20} {'inputs':>7} {'read':>6} {'refused':>8} {'faults':>7} {'longest s':>10} {'peak MiB':>9}")
    total: Counter[str] = Counter()
    for name in names:
        command = [
            sys.executable,
            __file__,
            "--one",
            "--inputs",
            str(options.inputs),
            "--seed",
            str(options.seed),
            name,
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:  # killed, or out of memory outside of an attempt
            print(f"{name:20} ended with {done.returncode}: {done.stderr.strip().splitlines()[-1:]}")
            total["faults"] += 1
            continue
        row = json.loads(done.stdout.splitlines()[-1])
        read = row["ends"].get("read", 0)
        refused = sum(row["ends"].values()) - read
        total.update(inputs=options.inputs, faults=len(row["faults"]))
        figures = f"{options.inputs:7} {read:6} {refused:8} {len(row['faults']):7}"
        print(f"{name:20} {figures} {row['longest_s']:10.2f} {row['peak_mib']:9.0f}", flush=True)
        for fault in row["faults"][:5]:
            print(f"    input {fault['number']} ({fault['bytes']} bytes): {fault['fault']}\n      {fault['input']}")
    print(f"{total['inputs']} inputs of {len(names)} formats, {total['faults']} faults")
    sys.exit(1 if total["faults"] else 0)


if __name__ == "__main__":
    main()
