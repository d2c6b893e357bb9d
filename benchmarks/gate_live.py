"""Whole verdicts of the gate under a stated load, and their tally. `gate.py` explains the commands."""

from __future__ import annotations

import json
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tabulate import tabulate

import gate_models
import gate_traces
from effbench import process
from effbench.api.compare.comparison import Comparison, run_comparisons
from effbench.api.compare.rounds import RoundSettings
from effbench.profiles.paired import PairedRound
from effbench.schema import Artifact
from effbench.statistics.proportions import wilson
from effbench.statistics.sequential import OUTCOMES, Rules

SLOWER_MODELS = ("fusion_5", "kernel_10", "layer_20", "stall_10")
VERDICTS = "live.jsonl"


def live(home: Path, load: int, same: int, slower: int, streams: int, budget_s: float) -> None:
    """Run whole verdicts under a load until the file holds so many of each kind; a kill loses those in flight.

    Parallel verdicts are load for each other: with two streams, the second verdict is one of the busy cores.

    Args:
        home: The folder of the verdicts and the traces.
        load: Busy cores.
        same: Verdicts on a model and a rebuilt copy of it: renamed, reordered or with other weights.
        slower: Verdicts on slower models.
        streams: Verdicts in parallel.
        budget_s: Of each verdict.
    """
    artifacts = gate_traces.models(home, ["same", *gate_models.REBUILT, *SLOWER_MODELS])
    recorded = [entry["scenario"] for entry in read(home) if entry["load"] == load]
    equal = sum(scenario in gate_traces.EQUAL for scenario in recorded)
    pending = [gate_models.REBUILT[index % len(gate_models.REBUILT)] for index in range(same - equal)]
    pending += [SLOWER_MODELS[index % len(SLOWER_MODELS)] for index in range(slower - (len(recorded) - equal))]
    random.shuffle(pending)
    finished = threading.Barrier(streams)
    stopped = threading.Event()

    def stream() -> None:
        with (home / VERDICTS).open("a") as verdicts, (home / gate_traces.RECORDED).open("a") as traces:
            while pending:
                scenario = pending.pop()
                settings = RoundSettings(budget_s=budget_s, seed=random.getrandbits(20))
                comparison = Comparison(scenario, artifacts["same"], artifacts[scenario], settings, Rules())
                record = gate_traces.recorder(traces, scenario, load)

                def measure(
                    a: Artifact, b: Artifact, settings: RoundSettings, seed: int, record: gate_traces.Measure = record
                ) -> PairedRound:
                    # Ctrl-C reaches the main thread alone.
                    if stopped.is_set():
                        raise KeyboardInterrupt
                    return record(a, b, settings, seed)

                if run_comparisons([comparison], lambda text: None, measure):
                    return
                verdicts.write(json.dumps(_entry(comparison, load, streams)) + "\n")
                verdicts.flush()
                print(f"load {load}, {len(pending)} to go: {scenario} {comparison.verdict().outcome}", flush=True)
        # The stream that ends first keeps a core busy in its place.
        with gate_traces.busy(1 if streams > 1 else 0):
            finished.wait()

    with gate_traces.busy(load - streams + 1), ThreadPoolExecutor(streams) as pool:
        try:
            for future in [pool.submit(stream) for _ in range(streams)]:
                future.result()
        except BaseException:
            stopped.set()
            finished.abort()
            process.kill_all()
            raise


def read(home: Path) -> list[dict[str, object]]:
    """Return the recorded verdicts; none if there is no file."""
    path = home / VERDICTS
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _entry(comparison: Comparison, load: int, streams: int) -> dict[str, object]:
    verdict = comparison.verdict()
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S"),
        "load": load,
        "streams": streams,
        "scenario": comparison.name,
        "outcome": verdict.outcome,
        "rounds": verdict.rounds,
        "lost": verdict.lost_rounds,
        "seconds": verdict.seconds,
        "log_ratios": [[round(value, 6) for value in pair] for pair in verdict.round_ratios],
    }


def tally(home: Path) -> None:
    """Print the live verdicts as k/n with Wilson's intervals."""
    entries = read(home)
    rows = []
    for load in sorted({int(str(entry["load"])) for entry in entries}):
        for scenario in (*gate_traces.EQUAL, *SLOWER_MODELS):
            group = [entry for entry in entries if (entry["load"], entry["scenario"]) == (load, scenario)]
            rows += _row(str(load), scenario, group)
    rows += _row("all", "equal sides", [entry for entry in entries if entry["scenario"] in gate_traces.EQUAL])
    rows += _row("all", "slower", [entry for entry in entries if entry["scenario"] not in gate_traces.EQUAL])
    print(tabulate(rows, headers=("busy cores", "scenario", *OUTCOMES, "median time"), disable_numparse=True))


def _row(load: str, scenario: str, entries: list[dict[str, object]]) -> list[list[str]]:
    """Return the row of some verdicts; no row for none."""
    if not entries:
        return []
    shares = []
    for outcome in OUTCOMES:
        count = sum(entry["outcome"] == outcome for entry in entries)
        low, high = wilson(count, len(entries))
        shares.append(f"{count}/{len(entries)} [{100 * low:.1f}, {100 * high:.1f} %]")
    seconds = np.median([float(str(entry["seconds"])) for entry in entries])
    return [[load, scenario, *shares, f"{seconds:.0f} s"]]
