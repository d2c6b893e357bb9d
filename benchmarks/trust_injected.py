"""Grades of records with injected disturbances: is any A or B whose p50 is off by more than 10 %?

    python benchmarks/trust_injected.py

Each record is that of an undisturbed measurement on a known machine, made longer by disturbances of all rounds alike;
its counters and reference kernels show what those of such a machine would show, with noise. Disturbances are applied
one by one and in pairs, in several strengths.
"""

from __future__ import annotations

import argparse
import itertools
from dataclasses import dataclass, field

import numpy as np
from tabulate import tabulate

from effbench.profiles.trust import grade
from effbench.schema import Round, Samples

ROUNDS, COUNT = 10, 60
SLOWEST_TRUSTED = 1.10
BEFORE = {
    "cores_online": 2,
    "governor": "performance",
    "reference_compute_us_best": 800.0,
    "reference_memory_us_best": 3000.0,
    "reference_earlier_runs": 5,
}


@dataclass(frozen=True)
class Injected:
    """A disturbance: how much longer it makes p50, what the counters show, how the kernels react, and the state."""

    name: str
    factor: float
    counters: dict[str, float] = field(default_factory=dict)
    compute: float = 1.0
    memory: float = 1.0
    state: dict[str, str] = field(default_factory=dict)


def single() -> list[Injected]:
    """Return the disturbances, each in several strengths."""
    disturbances = []
    for share in (0.02, 0.05, 0.099, 0.2, 0.4):
        stolen, waiting = {"steal_pct": 100 * share}, {"run_delay_pct": 100 * share}
        disturbances.append(Injected(f"steal {share:.0%}", 1 / (1 - share), stolen))
        disturbances.append(Injected(f"waiting {share:.0%}", 1 / (1 - share), waiting))
    for load, factor in ((20.0, 1.04), (39.0, 1.08), (60.0, 1.15), (100.0, 1.3)):
        disturbances.append(Injected(f"other load {load:.0f} %", factor, {"other_cpu_pct": load}, 1.0, factor))
    for factor in (1.05, 1.12, 1.3, 1.6):
        disturbances.append(Injected(f"neighbor on the shared cache x{factor}", factor, {}, 1.0, factor))
        disturbances.append(Injected(f"slow clock in all rounds x{factor}", factor, {}, factor, 1 + (factor - 1) / 2))
    disturbances.append(Injected("powersave", 1.4, {}, 1.4, 1.2, {"governor": "powersave"}))
    disturbances.append(Injected("powersave that costs nothing", 1.0, {}, 1.0, 1.0, {"governor": "powersave"}))
    disturbances.append(Injected("efficiency core", 1.8, {}, 1.8, 1.3, {"core_type": "efficiency"}))
    return disturbances


def record(injected: list[Injected], seed: int) -> tuple[float, str]:
    """Return how much longer p50 became, and the grade of the record."""
    rng = np.random.default_rng(seed)
    factor = float(np.prod([item.factor for item in injected]))
    counters = {"other_cpu_pct": 3.0, "steal_pct": 0.0, "run_delay_pct": 0.1}
    for item in injected:
        for key, value in item.counters.items():
            counters[key] += value
    compute, memory = (float(np.prod([getattr(item, kind) for item in injected])) for kind in ("compute", "memory"))
    rounds = []
    for _ in range(ROUNDS):
        samples = 1e7 * factor * (1 + 0.01 * np.exp(0.8 * rng.standard_normal(COUNT)))
        kernels = {
            "reference_compute_us": 800.0 * compute * float(np.exp(0.01 * rng.standard_normal())) * 1.01,
            "reference_memory_us": 3000.0 * memory * float(np.exp(0.02 * rng.standard_normal())) * 1.02,
        }
        rounds.append(Round(tuple(int(x) for x in samples), 20, True, 50.0, 30.0, 1 << 27, {**counters, **kernels}))
    state = dict(BEFORE)
    for item in injected:
        state.update(item.state)
    return factor, grade(Samples(tuple(rounds)), state, state)[0]


def main() -> int:
    """Print the records by grade; exit with 1 if an A or a B is off by more than 10 %."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    cases = [[item] for item in single()]
    cases += [list(pair) for pair in itertools.combinations(single(), 2) if pair[0].name != pair[1].name]
    rows: dict[str, list[float]] = {}
    wrong, off = [], 0
    for seed, case in enumerate(cases):
        factor, letter = record(case, seed)
        rows.setdefault(letter, []).append(factor)
        off += factor > SLOWEST_TRUSTED
        if factor > SLOWEST_TRUSTED and letter in "AB":
            wrong.append([" and ".join(item.name for item in case), f"{100 * (factor - 1):+.0f} %", letter])
    shares = [record([], 10_000 + seed)[1] for seed in range(200)]
    table = [[letter, len(all_), f"{100 * (max(all_) - 1):+.0f} %"] for letter, all_ in sorted(rows.items())]
    print(tabulate(table, headers=("grade", "records", "largest change of p50"), disable_numparse=True))
    print(
        f"{len(wrong)} of {off} records off by more than 10 % are A or B; undisturbed: {shares.count('A')} of 200 are A"
    )
    print(tabulate(wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
