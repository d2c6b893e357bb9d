"""Record rounds of regla_m against itself and against really slower copies, under stated loads; pack and read them.

What is kept of a round is raw: wall time and foreign waiting of every inference, in units of 10 us, and how long the
round took. `gate.py` explains the commands.
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
from effbench.api.compare.pairs import exported
from effbench.api.compare.rounds import RoundSettings, run_round
from effbench.codec import file_sha256
from effbench.deploy.artifact import bundle
from effbench.errors import EffbenchError
from effbench.profiles import environment
from effbench.profiles.paired import LogRatios, PairedRound, log_ratios
from effbench.schema import Artifact

UNIT_NS = 10_000
BUSY = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: pass"
"""Ends with the benchmark that started it, however that ends."""
RECORDED = "traces.jsonl"
PACKED = Path(__file__).with_name("gate_traces.npz")
WANTED = {"same": 3, "layer_3": 1, "fusion_5": 1, "kernel_10": 1, "layer_20": 1, "stall_10": 1}
"""Share of the rounds that each scenario gets: false alarms are rare, so that equal sides need the most."""


@dataclass(frozen=True)
class Trace:
    """A recorded round with the load it was recorded under."""

    scenario: str
    load: int
    seconds: float
    item: PairedRound

    def log_ratios(self, quantile: float = 0.5) -> LogRatios:
        """Return its two log ratios, as the gate takes them."""
        return log_ratios(self.item, quantile)


@contextlib.contextmanager
def busy(cores: int) -> Iterator[None]:
    """Keep some cores busy meanwhile."""
    hogs = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(cores)]
    try:
        time.sleep(1.0 if cores else 0.0)
        yield
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()


def models(home: Path, names: list[str]) -> dict[str, Artifact]:
    """Return the artifacts of the edited models, made on first use."""
    from effbench.api.compare.explanation import source_onnx_path

    base = exported("regla_m", "ort", (224, 224), None, home, print)
    graph = source_onnx_path(base)
    assert graph is not None
    return {name: _edited(base, graph, name, home) for name in names}


def _edited(base: Artifact, graph: Path, name: str, home: Path) -> Artifact:
    """Return an artifact like the base's with an edited graph in it.

    Not through `export`: its reference for .onnx files is an interpreter that has no operator for a branch.
    """
    key = bundle.make_key({"base": base.digest, "edit": name, "code": file_sha256(Path(gate_models.__file__))})
    folder = bundle.folder_of(home, name, key)
    if (found := bundle.find(folder, key)) is not None:
        return found

    def build(draft: Path) -> Artifact:
        gate_models.write(name, graph, draft).rename(draft / base.entry)
        return replace(base, folder=draft, key=key, subject=replace(base.subject, model=name), fidelity=None)

    return bundle.write(folder, build)


def record(home: Path, load: int, minutes: float) -> None:
    """Record rounds under a load, the scenario with the fewest so far first; a kill loses the round in flight."""
    artifacts = models(home, list(WANTED))
    path = home / RECORDED
    counts = dict.fromkeys(WANTED, 0)
    if path.exists():
        for line in path.read_text().splitlines():
            entry = json.loads(line)
            counts[entry["scenario"]] += entry["load"] == load
    end = time.monotonic() + 60 * minutes
    setting = RoundSettings()
    with busy(load), path.open("a") as stream:
        while time.monotonic() < end:
            scenario = min(WANTED, key=lambda name: (counts[name] / WANTED[name], random.random()))
            try:
                keeping(stream, scenario, load)(artifacts["same"], artifacts[scenario], setting, random.getrandbits(31))
            except EffbenchError as error:
                print(f"lost: {error}", file=sys.stderr)
                continue
            counts[scenario] += 1
            total = sum(counts.values())
            if total % 20 == 0:
                print(f"load {load}: {total} rounds, {(end - time.monotonic()) / 60:.1f} min left", flush=True)


def keeping(
    stream: TextIO, scenario: str, load: int
) -> Callable[[Artifact, Artifact, RoundSettings, int], PairedRound]:
    """Return how a round is measured whose raw times are kept."""

    def measure(a: Artifact, b: Artifact, setting: RoundSettings, seed: int) -> PairedRound:
        start = time.monotonic()
        item = run_round(a, b, setting, seed)
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
    seen = environment.observe()
    keys = ("cpu_model", "cores_online", "memory_bytes", "governor", "machine")
    about = {key: seen.get(key) for key in keys} | {"model": "regla_m 224 px fp32, ONNX Runtime, 1 thread, batch 1"}
    lengths = np.array([len(entry["a"]) for entry in entries], np.uint16)
    np.savez_compressed(
        PACKED,
        about=np.array(json.dumps(about)),
        scenario=np.array([entry["scenario"] for entry in entries]),
        load=np.array([entry["load"] for entry in entries], np.uint8),
        seconds=np.array([entry["seconds"] for entry in entries], np.float32),
        length=lengths,
        **{key: np.array([v for e in entries for v in e[key]], np.uint16) for key in ("a", "b", "a_wait", "b_wait")},
        b_first=np.array([v for e in entries for v in e["b_first"]], np.bool_),
    )
    print(f"{len(entries)} rounds, {PACKED.stat().st_size / 1e3:.0f} kB in {PACKED.name}")


def read(path: Path = PACKED) -> tuple[dict[str, Any], list[Trace]]:
    """Return the machine's description and all recorded rounds, in the order they were recorded."""
    with np.load(path, allow_pickle=False) as data:
        arrays = {name: data[name] for name in data.files}
    stops = np.cumsum(arrays["length"].astype(int))
    found = []
    for index, stop in enumerate(stops):
        part = slice(stop - int(arrays["length"][index]), stop)
        wall = [tuple(int(v) * UNIT_NS for v in arrays[key][part]) for key in ("a", "b")]
        wait = [tuple(int(v) * UNIT_NS for v in arrays[key][part]) for key in ("a_wait", "b_wait")]
        item = PairedRound(wall[0], wall[1], wait[0], wait[1], tuple(bool(v) for v in arrays["b_first"][part]))
        found.append(
            Trace(str(arrays["scenario"][index]), int(arrays["load"][index]), float(arrays["seconds"][index]), item)
        )
    return json.loads(str(arrays["about"])), found


def halves(traces: list[Trace], block: int = 10) -> tuple[list[Trace], list[Trace]]:
    """Split traces into those for tuning and those held out: blocks of time, taken alternately."""
    tune = [trace for index, trace in enumerate(traces) if index // block % 2 == 0]
    held = [trace for index, trace in enumerate(traces) if index // block % 2 == 1]
    return tune, held
