"""The gate on recorded rounds with real noise and real slowdowns, replayed by benchmarks/gate.py."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from places import BENCHMARKS

from effbench.statistics.sequential import FASTER, SLOWER, UNCHANGED

REPLAYS = 600
SCENARIOS = ("fusion_5", "kernel_10", "layer_20", "stall_10")
SWAPPED = np.array([1, 0, 2, 3])


@pytest.fixture(scope="module")
def bench() -> Any:
    """The benchmark, a script beside its helpers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        import gate

        return gate


@pytest.fixture(scope="module")
def held(bench: Any) -> list[Any]:
    """The half of the recorded rounds that nothing was tuned on."""
    return bench.gate_traces.halves(bench.gate_traces.read()[1])[1]  # type: ignore[no-any-return]


def pool(held: list[Any], load: int, scenario: str) -> list[Any]:
    return [trace for trace in held if (trace.load, trace.scenario) == (load, scenario)]


@pytest.mark.parametrize(("load", "least"), [(0, 0.8), (1, 0.8), (2, 0.3)])
def test_equal_models_raise_no_alarm(bench: Any, held: list[Any], load: int, least: float) -> None:
    found = bench.replayed(pool(held, load, "same"), replays=REPLAYS).final
    assert np.isin(found, (SLOWER, FASTER)).mean() <= 0.005
    assert (found == UNCHANGED).mean() >= least


@pytest.mark.parametrize(
    ("load", "scenario"),
    # A stall is seen in half of the runs beside two busy cores (docs/explanation/gate-statistics.md).
    [(load, name) for load in (0, 1, 2) for name in SCENARIOS if (load, name) != (2, "stall_10")],
)
def test_slower_models_are_seen(bench: Any, held: list[Any], load: int, scenario: str) -> None:
    found = bench.replayed(pool(held, load, scenario), replays=REPLAYS).final
    assert (found == SLOWER).mean() >= 0.9
    assert not (found == FASTER).any()
    if scenario in ("kernel_10", "layer_20"):
        assert (found == UNCHANGED).mean() <= 0.005


@pytest.mark.parametrize(("load", "least"), [(0, 0.99), (1, 0.99), (2, 0.95)])
def test_five_percent_on_recorded_noise_are_seen(bench: Any, held: list[Any], load: int, least: float) -> None:
    found = bench.replayed(pool(held, load, "same"), replays=REPLAYS, slower=0.05).final
    assert (found == SLOWER).mean() >= least
    assert not np.isin(found, (FASTER, UNCHANGED)).any()


def test_a_replay_repeats_itself_and_mirrored_rounds_give_mirrored_verdicts(bench: Any, held: list[Any]) -> None:
    rounds = pool(held, 1, "stall_10")
    swapped = []
    for trace in rounds:
        item = trace.paired_round
        sides = {"a_ns": item.b_ns, "b_ns": item.a_ns, "a_wait_ns": item.b_wait_ns, "b_wait_ns": item.a_wait_ns}
        swapped.append(replace(trace, paired_round=replace(item, **sides)))
    first, again, mirrored = (bench.replayed(item, replays=100).final for item in (rounds, rounds, swapped))
    assert (first == again).all()
    assert (SWAPPED[first] == mirrored).all()
