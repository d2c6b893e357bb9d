"""Record rounds of regla_m against itself and against really slower copies, under stated loads; pack and read them.

A trace keeps raw times: wall time and waiting for a core of every inference, in units of 10 us, and the length of the
round. `gate.py` explains the commands.
"""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

import numpy as np

import gate_models
from effbench.api.compare.rounds import RoundSettings, run_round
from effbench.codec import file_sha256
from effbench.deploy.artifact import bundle
from effbench.errors import EffbenchError
from effbench.profiles import environment
from effbench.profiles.paired import LogRatios, PairedRound, log_ratios, pairs_seconds
from effbench.schema import Artifact

UNIT_NS = 10_000
BUSY = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: pass"
"""A busy loop that ends with the benchmark that started it, even if that is killed."""
RECORDED = "traces.jsonl"
PACKED = Path(__file__).with_name("gate_traces.npz")
EQUAL = ("same", *gate_models.REBUILT)
"""Scenarios whose sides take equally long: the file itself, and rebuilt copies of it."""
SHARES = {**dict.fromkeys(EQUAL, 1), "layer_3": 1, "fusion_5": 1, "kernel_10": 1, "layer_20": 1, "stall_10": 1}
"""Share of the rounds per scenario: false alarms are rare, so equal sides need the most rounds."""

Measure = Callable[[Artifact, Artifact, RoundSettings, int], PairedRound]


@dataclass(frozen=True)
class Trace:
    """A recorded round with its scenario and load."""

    scenario: str
    load: int
    seconds: float
    paired_round: PairedRound

    def log_ratios(self, quantile: float = 0.5) -> LogRatios:
        """Return the two log ratios that the gate computes from the round."""
        return log_ratios(self.paired_round, quantile)

    def cut(self, pairs: int) -> Trace:
        """Return the round as it would have been with so many pairs, or fewer if it had fewer."""
        item = self.paired_round
        columns = ("a_ns", "b_ns", "a_wait_ns", "b_wait_ns", "b_first")
        shorter = replace(item, **{name: getattr(item, name)[:pairs] for name in columns})
        return replace(self, seconds=self.seconds - pairs_seconds(item, pairs), paired_round=shorter)


@contextlib.contextmanager
def busy(cores: int) -> Iterator[None]:
    """Keep some cores busy inside the block."""
    hogs = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(cores)]
    try:
        time.sleep(1.0 if cores else 0.0)
        yield
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()


def models(home: Path, names: list[str]) -> dict[str, Artifact]:
    """Return the artifacts of the edited models, exported on first use."""
    from effbench.api.compare.explanation import source_onnx_path
    from effbench.api.export.run import export

    (cell,) = export("regla_m", ["ort"], [224], out=home, notify=print)
    base = bundle.load(Path(cell.artifact))
    graph = source_onnx_path(base)
    assert graph is not None
    return {name: _edited(base, graph, name, home) for name in names}


def _edited(base: Artifact, graph: Path, name: str, home: Path) -> Artifact:
    """Return a copy of the base's artifact with an edited graph.

    `export` cannot make it: its reference for .onnx files is an interpreter without an operator for branches.
    """
    key = bundle.make_key({"base": base.digest, "edit": name, "code": file_sha256(Path(gate_models.__file__))})
    folder = bundle.folder_of(home, name, key)
    if (artifact := bundle.find(folder, key)) is not None:
        return artifact

    def build(draft: Path) -> Artifact:
        gate_models.write(name, graph, draft).rename(draft / base.entry)
        return replace(base, folder=draft, key=key, subject=replace(base.subject, model=name), fidelity=None)

    return bundle.write(folder, build)


def record(home: Path, load: int, minutes: float) -> None:
    """Record rounds under a load, the scenario with the fewest rounds first; a kill loses the round in flight."""
    artifacts = models(home, list(SHARES))
    path = home / RECORDED
    counts = dict.fromkeys(SHARES, 0)
    if path.exists():
        for line in path.read_text().splitlines():
            entry = json.loads(line)
            counts[entry["scenario"]] += entry["load"] == load
    end = time.monotonic() + 60 * minutes
    settings = RoundSettings()
    with busy(load), path.open("a") as stream:
        while time.monotonic() < end:
            scenario = min(SHARES, key=lambda name: (counts[name] / SHARES[name], random.random()))
            measure = recorder(stream, scenario, load)
            try:
                measure(artifacts["same"], artifacts[scenario], settings, random.getrandbits(31))
            except EffbenchError as error:
                print(f"lost: {error}", file=sys.stderr)
                continue
            counts[scenario] += 1
            total = sum(counts.values())
            if total % 20 == 0:
                print(f"load {load}: {total} rounds, {(end - time.monotonic()) / 60:.1f} min left", flush=True)


def recorder(stream: TextIO, scenario: str, load: int) -> Measure:
    """Return a function that measures a round and writes its raw times."""

    def measure(a: Artifact, b: Artifact, settings: RoundSettings, seed: int) -> PairedRound:
        start = time.monotonic()
        item = run_round(a, b, settings, seed)
        entry = {
            "scenario": scenario,
            "load": load,
            "seconds": round(time.monotonic() - start, 3),
            "a": _pack(item.a_ns),
            "b": _pack(item.b_ns),
            "a_wait": _pack(item.a_wait_ns),
            "b_wait": _pack(item.b_wait_ns),
            "b_first": [int(first) for first in item.b_first],
            "other_cpu_pct": item.observed.get("other_cpu_pct"),
        }
        stream.write(json.dumps(entry, separators=(",", ":")) + "\n")
        stream.flush()
        return item

    return measure


def _pack(values: tuple[int, ...]) -> list[int]:
    return [min(65535, max(0, round(value / UNIT_NS))) for value in values]


def pack(home: Path) -> None:
    """Write the recorded rounds as one small compressed file, with a description of the machine."""
    entries = [json.loads(line) for line in (home / RECORDED).read_text().splitlines()]
    observed = environment.observe()
    keys = ("cpu_model", "cores_online", "memory_bytes", "governor", "machine")
    about = {key: observed.get(key) for key in keys} | {"model": "regla_m 224 px fp32, ONNX Runtime, 1 thread, batch 1"}
    arrays: dict[str, Any] = {
        "about": np.array(json.dumps(about)),
        "scenario": np.array([entry["scenario"] for entry in entries]),
        "load": np.array([entry["load"] for entry in entries], np.uint8),
        "seconds": np.array([entry["seconds"] for entry in entries], np.float32),
        "length": np.array([len(entry["a"]) for entry in entries], np.uint16),
        "b_first": np.array([first for entry in entries for first in entry["b_first"]], np.bool_),
    }
    for key in ("a", "b", "a_wait", "b_wait"):
        arrays[key] = np.array([value for entry in entries for value in entry[key]], np.uint16)
    np.savez_compressed(PACKED, **arrays)
    print(f"{len(entries)} rounds, {PACKED.stat().st_size / 1e3:.0f} kB in {PACKED.name}")


def read(path: Path = PACKED) -> tuple[dict[str, Any], list[Trace]]:
    """Return the machine's description and all recorded rounds, in the order of their recording."""
    with np.load(path, allow_pickle=False) as data:
        arrays = {name: data[name] for name in data.files}
    stops = np.cumsum(arrays["length"].astype(int))
    traces = []
    for index, stop in enumerate(stops):
        part = slice(stop - int(arrays["length"][index]), stop)
        wall = [tuple(int(v) * UNIT_NS for v in arrays[key][part]) for key in ("a", "b")]
        wait = [tuple(int(v) * UNIT_NS for v in arrays[key][part]) for key in ("a_wait", "b_wait")]
        item = PairedRound(wall[0], wall[1], wait[0], wait[1], tuple(bool(v) for v in arrays["b_first"][part]))
        scenario, load = str(arrays["scenario"][index]), int(arrays["load"][index])
        traces.append(Trace(scenario, load, float(arrays["seconds"][index]), item))
    return json.loads(str(arrays["about"])), traces


def halves(traces: list[Trace], block: int = 10) -> tuple[list[Trace], list[Trace]]:
    """Split traces into a tuning half and a held-out half, in alternating blocks of time."""
    tuning = [trace for index, trace in enumerate(traces) if index // block % 2 == 0]
    held_out = [trace for index, trace in enumerate(traces) if index // block % 2 == 1]
    return tuning, held_out
