"""Does the gate raise false alarms, and does it detect slowdowns? Generated series, recorded traces, live runs.

    python benchmarks/gate.py series                          generated rounds with known truth, in a minute
    python benchmarks/gate.py record --load 0 --minutes 60    rounds under a stated load (busy cores); resumable
    python benchmarks/gate.py pack                            recorded rounds -> gate_traces.npz
    python benchmarks/gate.py tune                            which statistic is sharper, on the tuning half
    python benchmarks/gate.py replay                          the gate and five known rules, on the held-out half
    python benchmarks/gate.py live --load 0 --same 67 --slower 14   whole verdicts, unattended and resumable
    python benchmarks/gate.py tally                           what the live verdicts were

`record` and `live` need an otherwise idle machine: any other process is unstated load. Their files are in --home
(default runs/gate). Equal sides are a model and a rebuilt copy of it (renamed, reordered, other weights), `same` is the
file itself. The rounds of live verdicts are traces too; `record` adds rounds of the scenarios with the fewest.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tabulate import tabulate

import gate_live
import gate_pace
import gate_traces
from effbench.profiles.paired import FEWEST_PAIRS, MIN_PAIRS
from effbench.statistics.sequential import OUTCOMES, Rules, outcomes
from gate_rules import RULES
from gate_series import CELLS, rounds_of

REPLAYS = 2000
RULE_REPLAYS = 500
"""Of the known rules: fewer, as pooled samples and a bootstrap are slow."""
BUDGET_S = 60.0
SERIES_ROUNDS = 28
BLOCK = 4
"""Neighboring rounds that replays draw together, so that disturbances longer than a round stay together."""

SLOWER = (0.03, 0.05, 0.1, 0.2)
"""Slowdowns added to rounds of equal sides, of which there are hundreds; of each edited model there are dozens."""


def _stopped(codes: np.ndarray, settled: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each run's outcome in the round in which it stops, and the index of that round."""
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
    """Runs drawn from a pool of recorded rounds, with the gate's outcome of each.

    Attributes:
        index: Rounds of the pool, shape (replays, rounds).
        over: The round in which the budget runs out if all rounds hold all their pairs, shape (replays,).
        typical: Log ratio of the typical latency of each whole round of the pool.
        tail: Log ratio of its tail.
        final: Index into `OUTCOMES`, shape (replays,).
        seconds: Until the outcome, shape (replays,).
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
    """Run the gate over random blocks of neighboring rounds of a pool; the same pool gives the same runs.

    Rounds are as long as the gate would make them: it leaves out the last pairs of a round where time is short.
    ``slower`` makes every latency of B longer by that share: a known slowdown on recorded noise.
    """
    cuts = [[trace.cut(pairs) for trace in pool] for pairs in range(FEWEST_PAIRS, MIN_PAIRS + 1)]
    seconds = np.array([[trace.seconds for trace in cut] for cut in cuts])
    ratios = [[trace.log_ratios(quantile) for trace in cut] for cut in cuts]
    typical = np.array([[ratio.typical for ratio in row] for row in ratios]) + math.log1p(slower)
    tail = np.array([[ratio.tail for ratio in row] for row in ratios]) + math.log1p(slower)
    length = seconds[-1]
    rounds = int(budget_s / length.mean() * 1.5) + BLOCK
    rng = np.random.default_rng(pool[0].load)
    starts = rng.integers(0, max(1, len(pool) - BLOCK + 1), (replays, -(-rounds // BLOCK)))
    index = (starts[..., None] + np.arange(BLOCK)).reshape(replays, -1)[:, :rounds] % len(pool)

    def measure(round_: int, allowed_s: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Take the fewest pairs after which the round has used its time, or all."""
        drawn = index[:, round_]
        enough = seconds[:, drawn] >= allowed_s
        pairs = np.where(enough.any(axis=0), enough.argmax(axis=0), len(cuts) - 1)
        return typical[pairs, drawn], tail[pairs, drawn], seconds[pairs, drawn]

    runs = gate_pace.run(measure, replays, rounds, budget_s)
    over = np.argmax(np.cumsum(length[index], axis=1) >= budget_s, axis=1)
    return Replays(index, over, typical[-1], tail[-1], runs.final, runs.seconds)


def replay(quantile: float, with_rules: bool, budget_s: float) -> None:
    """Print the outcomes of the gate and of the known rules on the held-out half of the recorded traces."""
    machine, traces = gate_traces.read()
    _, held_out = gate_traces.halves(traces)
    print(json.dumps(machine))
    rows, rule_rows = [], []
    cases = [*((name, 0.0) for name in gate_traces.SHARES), *(("same", slower) for slower in SLOWER)]
    for load in sorted({trace.load for trace in held_out}):
        for scenario, slower in cases:
            pool = [trace for trace in held_out if (trace.load, trace.scenario) == (load, scenario)]
            if len(pool) < 2 * BLOCK:
                continue
            runs = replayed(pool, quantile, slower=slower, budget_s=budget_s)
            middles = np.median(runs.typical), np.median(runs.tail)
            truth = " / ".join(f"{100 * math.expm1(middle):+.1f}" for middle in middles) + " %"
            spread = f"{_spread(runs.typical - middles[0]):.2f} / {_spread(runs.tail - middles[1]):.2f}"
            seconds = f"{np.median(runs.seconds):.1f} s"
            name = f"{scenario}, B x {1 + slower:g}" if slower else scenario
            rows.append([load, name, len(pool), truth, spread, *_shares(runs.final), seconds])
            if with_rules and not slower:
                rule_rows += _rule_rows(load, scenario, pool, runs)
    header = ("busy cores", "scenario", "rounds", "median typical / tail", "spread %", *OUTCOMES, "median time")
    print(f"this gate: {REPLAYS} replays a cell, {budget_s:g} s each; percent")
    print(tabulate(rows, headers=header, disable_numparse=True))
    if rule_rows:
        print(f"known rules, {RULE_REPLAYS} replays, percent called slower (and faster)")
        rule_header = ("busy cores", "scenario", "rule", "alternating", "one after the other")
        print(tabulate(rule_rows, headers=rule_header, disable_numparse=True))


def _rule_rows(load: int, scenario: str, pool: list[gate_traces.Trace], runs: Replays) -> list[list[str]]:
    """Apply the known rules to the wall times of the same runs: all pairs, and A's first half against B's second."""
    rounds = [trace.paired_round for trace in pool]
    walls = [(np.array(item.a_ns, float), np.array(item.b_ns, float)) for item in rounds]
    rows = []
    index, over = runs.index[:RULE_REPLAYS], runs.over[:RULE_REPLAYS]
    for name, rule in RULES.items():
        counts = {"alternating": [0, 0], "sequential": [0, 0]}
        for indices, stop in zip(index, over, strict=True):
            a, b = ([walls[i][side] for i in indices[: stop + 1]] for side in (0, 1))
            half = len(a) // 2
            sides = {"alternating": (a, b), "sequential": (a[:half], b[half:])}
            for protocol, (left, right) in sides.items():
                outcome = rule(np.concatenate(left), np.concatenate(right))
                counts[protocol][0] += outcome == "slower"
                counts[protocol][1] += outcome == "faster"
        shares = [f"{100 * s / len(index):.1f} ({100 * f / len(index):.1f})" for s, f in counts.values()]
        rows.append([str(load), scenario, name, *shares])
    return rows


def tune() -> None:
    """Print the spread of each statistic on the tuning half: the sharper quantile, and the effect of waiting time."""
    _, traces = gate_traces.read()
    tuning, _ = gate_traces.halves(traces)
    rows = []
    for load in sorted({trace.load for trace in tuning}):
        pool = [trace for trace in tuning if trace.load == load and trace.scenario == "same"]
        row: list[object] = [load, len(pool), f"{np.mean([trace.seconds for trace in pool]):.2f} s"]
        for quantile in (0.5, 0.25, 0.1):
            values = np.array([trace.log_ratios(quantile).typical for trace in pool])
            row.append(f"{_spread(values):.2f} ({100 * np.abs(values).max():.1f})")
        rounds = [trace.paired_round for trace in pool]
        wall = [np.median(np.log(np.array(item.b_ns) / np.array(item.a_ns))) for item in rounds]
        tail = np.array([trace.log_ratios().tail for trace in pool])
        row.append(f"{_spread(np.array(wall)):.2f} ({100 * np.abs(wall).max():.1f})")
        row.append(f"{_spread(tail):.2f} ({100 * np.abs(tail).max():.1f})")
        rows.append(row)
    header = ("busy cores", "rounds", "a round", "pairs' median", "q0.25", "q0.1", "median with waiting", "p90")
    print("A/A on the tuning half: robust standard deviation of a round's log ratio in percent (largest)")
    print(tabulate(rows, headers=header, disable_numparse=True))


def main() -> None:
    """Run one command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("series", "record", "pack", "tune", "replay", "live", "tally"))
    parser.add_argument("--home", type=Path, default=Path("runs/gate"))
    parser.add_argument("--load", type=int, default=0, choices=(0, 1, 2), help="record, live: busy cores")
    parser.add_argument("--minutes", type=float, default=30.0, help="record: how long")
    parser.add_argument("--same", type=int, default=67, help="live: verdicts on equal models")
    parser.add_argument("--slower", type=int, default=14, help="live: verdicts on slower models")
    parser.add_argument("--streams", type=int, default=1, help="live: parallel verdicts, with --load 1 or 2")
    parser.add_argument("--quantile", type=float, default=0.5, help="replay: of the pairs' ratios in a round")
    parser.add_argument("--budget", type=float, default=BUDGET_S, help="replay, live: seconds a verdict")
    parser.add_argument("--no-rules", action="store_true", help="replay: skip the known rules (they take minutes)")
    options = parser.parse_args()
    if options.streams - 1 > options.load:
        parser.error(f"{options.streams} streams are a load of {options.streams - 1} already")
    home, load = options.home, options.load
    home.mkdir(parents=True, exist_ok=True)
    commands: dict[str, Callable[[], None]] = {
        "series": series,
        "record": lambda: gate_traces.record(home, load, options.minutes),
        "pack": lambda: gate_traces.pack(home),
        "tune": tune,
        "replay": lambda: replay(options.quantile, not options.no_rules, options.budget),
        "live": lambda: gate_live.live(home, load, options.same, options.slower, options.streams, options.budget),
        "tally": lambda: gate_live.tally(home),
    }
    commands[options.command]()


if __name__ == "__main__":
    main()
