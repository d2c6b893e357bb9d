"""Does the gate raise false alarms, and does it detect slowdowns? Generated series, recorded traces, live runs.

    python benchmarks/gate.py series                          generated rounds with known truth, in a minute
    python benchmarks/gate.py record --load 0 --minutes 60    rounds under a stated load (busy cores); resumable
    python benchmarks/gate.py pack                            recorded rounds -> gate_traces.npz
    python benchmarks/gate.py tune                            which statistic is sharper, on the tuning half
    python benchmarks/gate.py replay                          the gate and five known rules, on the held-out half
    python benchmarks/gate.py live --load 0 --same 67 --slower 14   whole verdicts, unattended and resumable
    python benchmarks/gate.py tally                           what the live verdicts were

`record` and `live` want a machine that does nothing else: what else runs is load that nobody stated. Their files lie
in --home (default runs/gate). The rounds of live verdicts are traces too; `record` adds what they lack.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

import gate_traces
from effbench import process
from effbench.api.compare.rounds import Comparison, RoundSettings, run_comparisons
from effbench.profiles.paired import PairedRound
from effbench.statistics.proportions import wilson
from effbench.statistics.sequential import OUTCOMES, Rules, outcomes
from gate_rules import RULES
from gate_series import CELLS, rounds_of

REPLAYS = 2000
RULE_REPLAYS = 500
"""Of the known rules: pooled samples and a bootstrap take their time."""
BUDGET_S = 60.0
SERIES_ROUNDS = 28
BLOCK = 4
"""Replays draw blocks of so many neighboring rounds, so that what lasts longer than a round stays together."""

SLOWER = (0.03, 0.05, 0.1, 0.2)
"""Put on rounds of equal sides: of the edited models there are dozens of rounds, of equal sides many hundreds."""

LIVE_SLOWER = ("fusion_5", "kernel_10", "layer_20", "stall_10")


def _stopped(codes: np.ndarray, settled: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the outcome where each run stops, and the index of its last round."""
    last = np.where(settled.any(axis=1), settled.argmax(axis=1), codes.shape[1] - 1)
    return codes[np.arange(len(codes)), last], last


def _spread(values: np.ndarray) -> float:
    """Return the robust standard deviation about zero of log ratios, in percent."""
    return 148.26 * float(np.median(np.abs(values)))


def _shares(final: np.ndarray) -> list[str]:
    return [f"{100 * (final == code).mean():.2f}" for code in range(len(OUTCOMES))]


def series() -> None:
    """Print the outcome shares of generated cells, by truth."""
    truths = {
        "A/A": (0.0, 0.0),
        "+3 %": (0.03, 0.0),
        "+5 %": (0.05, 0.0),
        "+10 %": (0.1, 0.0),
        "stall +12 %": (0.0, 0.12),
    }
    rows = []
    for cell in CELLS:
        for name, (slower, stall) in truths.items():
            typical, tail = rounds_of(cell, REPLAYS, SERIES_ROUNDS, 1, slower, stall)
            final, last = _stopped(*outcomes(typical, tail, Rules()))
            mirrored, _ = _stopped(*outcomes(-typical, -tail, Rules()))
            swapped = np.array([1, 0, 2, 3])[mirrored]
            assert (swapped == final).all(), "mirrored inputs must give mirrored verdicts"
            rows.append([cell.name, name, *_shares(final), int(np.median(last)) + 1])
    print(f"{REPLAYS} replays a cell, at most {SERIES_ROUNDS} rounds; percent")
    print(tabulate(rows, headers=("noise", "truth", *OUTCOMES, "median rounds"), disable_numparse=True))


@dataclass(frozen=True)
class Replays:
    """Runs drawn from a pool of recorded rounds, and how the gate ended each: shape (replays,), or (replays, rounds).

    ``over`` is the round in which the budget ran out, ``final`` the index into `OUTCOMES`, ``seconds`` until then.
    """

    index: np.ndarray
    over: np.ndarray
    typical: np.ndarray
    tail: np.ndarray
    final: np.ndarray
    seconds: np.ndarray


def replayed(
    pool: list[gate_traces.Trace],
    quantile: float = 0.5,
    replays: int = REPLAYS,
    slower: float = 0.0,
    budget_s: float = BUDGET_S,
) -> Replays:
    """Run the gate over blocks of neighboring rounds from random places of a pool; the same pool gives the same runs.

    ``slower`` makes every latency of B longer by that share: known truth on recorded noise.
    """
    length = np.array([trace.seconds for trace in pool])
    rounds = int(budget_s / length.mean() * 1.5) + BLOCK
    rng = np.random.default_rng(pool[0].load)
    starts = rng.integers(0, max(1, len(pool) - BLOCK + 1), (replays, -(-rounds // BLOCK)))
    index = (starts[..., None] + np.arange(BLOCK)).reshape(replays, -1)[:, :rounds] % len(pool)
    found = [trace.log_ratios(quantile) for trace in pool]
    typical, tail = (np.array([getattr(one, key) for one in found]) + math.log1p(slower) for key in ("typical", "tail"))
    clock = np.cumsum(length[index], axis=1)
    codes, settled = outcomes(typical[index], tail[index], Rules())
    # A round that begins within the budget is finished; none begins after it.
    over = np.argmax(clock >= budget_s, axis=1)
    settled |= np.arange(clock.shape[1]) >= over[:, None]
    final, last = _stopped(codes, settled)
    return Replays(index, over, typical, tail, final, clock[np.arange(replays), last])


def replay(quantile: float, rules_too: bool, budget_s: float) -> None:
    """Print how the gate and the known rules do on the held-out half of the recorded traces."""
    about, traces = gate_traces.read()
    _, held = gate_traces.halves(traces)
    print(json.dumps(about))
    rows, others = [], []
    for load in sorted({trace.load for trace in held}):
        for scenario, slower in [*((name, 0.0) for name in gate_traces.WANTED), *(("same", one) for one in SLOWER)]:
            pool = [trace for trace in held if (trace.load, trace.scenario) == (load, scenario)]
            if len(pool) < 2 * BLOCK:
                continue
            runs = replayed(pool, quantile, slower=slower, budget_s=budget_s)
            middles = np.median(runs.typical), np.median(runs.tail)
            truth = " / ".join(f"{100 * math.expm1(middle):+.1f}" for middle in middles) + " %"
            sd = f"{_spread(runs.typical - middles[0]):.2f} / {_spread(runs.tail - middles[1]):.2f}"
            took = f"{np.median(runs.seconds):.1f} s"
            name = f"{scenario}, B x {1 + slower:g}" if slower else scenario
            rows.append([load, name, len(pool), truth, sd, *_shares(runs.final), took])
            if rules_too and not slower:
                others += _others(load, scenario, pool, runs.index, runs.over)
    header = ("busy cores", "scenario", "rounds", "median typical / tail", "spread %", *OUTCOMES, "median time")
    print(f"this gate: {REPLAYS} replays a cell, {budget_s:g} s each; percent")
    print(tabulate(rows, headers=header, disable_numparse=True))
    if others:
        print(f"known rules, {RULE_REPLAYS} replays, percent called slower (and faster)")
        print(
            tabulate(
                others,
                headers=("busy cores", "scenario", "rule", "alternating", "one after the other"),
                disable_numparse=True,
            )
        )


def _others(
    load: int, scenario: str, pool: list[gate_traces.Trace], index: np.ndarray, over: np.ndarray
) -> list[list[str]]:
    """Apply the known rules to the wall times of the same runs: all pairs, and A's first half against B's second."""
    walls = [(np.array(trace.item.a_ns, float), np.array(trace.item.b_ns, float)) for trace in pool]
    rows = []
    index, over = index[:RULE_REPLAYS], over[:RULE_REPLAYS]
    for name, rule in RULES.items():
        counts = {"alternating": [0, 0], "sequential": [0, 0]}
        for run_index, stop in zip(index, over, strict=True):
            chosen = [walls[i] for i in run_index[: stop + 1]]
            half = len(chosen) // 2
            sides = {
                "alternating": (np.concatenate([a for a, _ in chosen]), np.concatenate([b for _, b in chosen])),
                "sequential": (
                    np.concatenate([a for a, _ in chosen[:half]]),
                    np.concatenate([b for _, b in chosen[half:]]),
                ),
            }
            for how, (a, b) in sides.items():
                called = rule(a, b)
                counts[how][0] += called == "slower"
                counts[how][1] += called == "faster"
        shown = [f"{100 * s / len(index):.1f} ({100 * f / len(index):.1f})" for s, f in counts.values()]
        rows.append([str(load), scenario, name, *shown])
    return rows


def tune() -> None:
    """Print the spread of each statistic on the tuning half: which quantile is sharper, and what waiting costs."""
    _, traces = gate_traces.read()
    half, _ = gate_traces.halves(traces)
    rows = []
    for load in sorted({trace.load for trace in half}):
        pool = [trace for trace in half if trace.load == load and trace.scenario == "same"]
        row: list[object] = [load, len(pool), f"{np.mean([trace.seconds for trace in pool]):.2f} s"]
        for quantile in (0.5, 0.25, 0.1):
            values = np.array([trace.log_ratios(quantile).typical for trace in pool])
            row.append(f"{_spread(values):.2f} ({100 * np.abs(values).max():.1f})")
        wall = [np.median(np.log(np.array(t.item.b_ns) / np.array(t.item.a_ns))) for t in pool]
        tail = np.array([trace.log_ratios().tail for trace in pool])
        row.append(f"{_spread(np.array(wall)):.2f} ({100 * np.abs(wall).max():.1f})")
        row.append(f"{_spread(tail):.2f} ({100 * np.abs(tail).max():.1f})")
        rows.append(row)
    header = ("busy cores", "rounds", "a round", "pairs' median", "q0.25", "q0.1", "median, waiting left in", "p90")
    print("A/A on the tuning half: robust standard deviation of a round's log ratio in percent (largest)")
    print(tabulate(rows, headers=header, disable_numparse=True))


def live(home: Path, load: int, same: int, slower: int, streams: int) -> None:
    """Run whole verdicts under a load until so many of each kind are there; a kill loses those in flight.

    Verdicts that run at once are each other's load: with two streams one of the busy cores is the other verdict.
    """
    path = home / "live.jsonl"
    artifacts = gate_traces.models(home, ["same", *LIVE_SLOWER])
    done = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    done = [entry for entry in done if entry["load"] == load]
    equal = sum(entry["scenario"] == "same" for entry in done)
    todo = ["same"] * (same - equal)
    for index in range(slower - (len(done) - equal)):
        todo.append(LIVE_SLOWER[index % len(LIVE_SLOWER)])
    random.shuffle(todo)
    all_done = threading.Barrier(streams)
    stopped = threading.Event()

    def stream() -> None:
        with path.open("a") as verdicts, (home / gate_traces.RECORDED).open("a") as traces:
            while todo:
                scenario = todo.pop()
                sides = artifacts["same"], artifacts[scenario]
                comparison = Comparison(
                    scenario, *sides, RoundSettings(budget_s=BUDGET_S, seed=random.getrandbits(20)), Rules()
                )
                keep = gate_traces.keeping(traces, scenario, load)

                def measure(*asked: Any, keep: Callable[..., PairedRound] = keep) -> PairedRound:
                    # A thread gets no Ctrl-C of its own.
                    if stopped.is_set():
                        raise KeyboardInterrupt
                    return keep(*asked)

                if run_comparisons([comparison], lambda text: None, measure):
                    return
                verdicts.write(json.dumps(_entry(comparison, load, streams)) + "\n")
                verdicts.flush()
                print(f"load {load}, {len(todo)} to go: {scenario} {comparison.verdict().outcome}", flush=True)
        # Whoever ends first stays the other's load.
        with gate_traces.busy(1 if streams > 1 else 0):
            all_done.wait()

    with gate_traces.busy(load - streams + 1), ThreadPoolExecutor(streams) as pool:
        try:
            for one in [pool.submit(stream) for _ in range(streams)]:
                one.result()
        except BaseException:
            stopped.set()
            all_done.abort()
            process.kill_all()
            raise


def _entry(comparison: Comparison, load: int, streams: int) -> dict[str, object]:
    found = comparison.verdict()
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S"),
        "load": load,
        "streams": streams,
        "scenario": comparison.name,
        "outcome": found.outcome,
        "rounds": found.rounds,
        "lost": found.lost_rounds,
        "seconds": found.seconds,
        "log_ratios": [[round(v, 6) for v in pair] for pair in found.round_ratios],
    }


def tally(home: Path) -> None:
    """Print the live verdicts as k/n with Wilson's intervals."""
    entries = [json.loads(line) for line in (home / "live.jsonl").read_text().splitlines()]
    rows = []
    for load in sorted({entry["load"] for entry in entries}):
        for scenario in ("same", *LIVE_SLOWER):
            mine = [entry for entry in entries if (entry["load"], entry["scenario"]) == (load, scenario)]
            rows += _tally(str(load), scenario, mine)
    rows += _tally("all", "same", [entry for entry in entries if entry["scenario"] == "same"])
    rows += _tally("all", "slower", [entry for entry in entries if entry["scenario"] != "same"])
    print(tabulate(rows, headers=("busy cores", "scenario", *OUTCOMES, "median time"), disable_numparse=True))


def _tally(load: str, scenario: str, mine: list[dict[str, object]]) -> list[list[str]]:
    if not mine:
        return []
    shown = []
    for outcome in OUTCOMES:
        count = sum(entry["outcome"] == outcome for entry in mine)
        low, high = wilson(count, len(mine))
        shown.append(f"{count}/{len(mine)} [{100 * low:.1f}, {100 * high:.1f} %]")
    return [[load, scenario, *shown, f"{np.median([float(str(e['seconds'])) for e in mine]):.0f} s"]]


def main() -> None:
    """Run one command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("series", "record", "pack", "tune", "replay", "live", "tally"))
    parser.add_argument("--home", type=Path, default=Path("runs/gate"))
    parser.add_argument("--load", type=int, default=0, choices=(0, 1, 2))
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--same", type=int, default=67)
    parser.add_argument("--slower", type=int, default=14)
    parser.add_argument("--streams", type=int, default=1, help="live: verdicts at once, of --load 1 or 2")
    parser.add_argument("--quantile", type=float, default=0.5)
    parser.add_argument("--budget", type=float, default=BUDGET_S, help="replay: seconds a verdict")
    parser.add_argument("--no-rules", action="store_true", help="replay: leave the known rules out (they take minutes)")
    asked = parser.parse_args()
    if asked.streams - 1 > asked.load:
        parser.error(f"{asked.streams} streams are a load of {asked.streams - 1} already")
    asked.home.mkdir(parents=True, exist_ok=True)
    commands = {
        "series": series,
        "record": lambda: gate_traces.record(asked.home, asked.load, asked.minutes),
        "pack": lambda: gate_traces.pack(asked.home),
        "tune": tune,
        "replay": lambda: replay(asked.quantile, not asked.no_rules, asked.budget),
        "live": lambda: live(asked.home, asked.load, asked.same, asked.slower, asked.streams),
        "tally": lambda: tally(asked.home),
    }
    commands[asked.command]()


if __name__ == "__main__":
    main()
