"""Rounds that go wrong never give a false verdict, and always a clear one; real rounds show which side is slower."""

from __future__ import annotations

import itertools
import math
import os
import shutil
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from small_graphs import chain, converted, graph_artifact

from effbench import deploy
from effbench.api.compare.comparison import GIVE_UP, Comparison, run_comparisons
from effbench.api.compare.rounds import RoundSettings, run_round
from effbench.errors import ConversionError, DataError
from effbench.process import CRASHED, ChildFailure
from effbench.profiles.paired import PairedRound, log_ratios
from effbench.schema import Artifact, InputShapes, Subject, Weights
from effbench.statistics.sequential import Rules
from effbench.statistics.verdict import Verdict

RNG = np.random.default_rng(5)


def artifact(name: str) -> Artifact:
    subject = Subject(name, "user", Weights(), InputShapes((64, 64)), 1, "ort", "fp32")
    return Artifact(
        folder=Path(name), key=name, digest=name, subject=subject, inputs=(), outputs=(), files={}, entry="model.onnx"
    )


def paired_round(ratio: float = 1.0, noise: float = 0.01, pairs: int = 20) -> PairedRound:
    """Return a round of the given true ratio."""
    a, b = (1e7 * np.exp(noise * RNG.standard_normal(pairs)) for _ in range(2))
    zeros = (0,) * pairs
    return PairedRound(tuple(int(v) for v in a), tuple(int(ratio * v) for v in b), zeros, zeros)


def judged(measure, rounds: int = 25, rules: Rules | None = None) -> Verdict:
    """Run up to so many rounds of scripted evidence through the real judge."""
    comparison = Comparison("x", artifact("a"), artifact("b"), RoundSettings(budget_s=1e9), rules or Rules())
    for index in range(rounds):
        if comparison.finished:
            break
        comparison.add_round(lambda a, b, settings, seed, index=index: measure(index))
    return comparison.verdict()


def test_equal_sides_are_unchanged():
    verdict = judged(lambda index: paired_round())
    assert ("unchanged", False) == (verdict.outcome, verdict.fails)
    assert verdict.rounds < 25
    share = verdict.processes
    assert share is not None
    assert (verdict.rounds, 0) == (share.count, share.slow)
    assert share.slow_high_pct < 12.5


@pytest.mark.parametrize(("ratio", "outcome", "fails"), [(1.05, "slower", True), (1 / 1.05, "faster", False)])
def test_a_change_is_detected(ratio: float, outcome: str, fails: bool):
    verdict = judged(lambda index: paired_round(ratio))
    assert (outcome, fails) == (verdict.outcome, verdict.fails)
    typical = verdict.ratios[0]
    assert typical.low is not None
    assert typical.high is not None
    assert typical.low < ratio < typical.high


def test_load_on_one_side_in_some_rounds_is_not_a_slowdown():
    assert judged(lambda index: paired_round(1.3 if index % 4 == 0 else 1.0)).outcome in ("unchanged", "inconclusive")


def test_a_cold_cache_in_the_first_round_is_not_a_slowdown():
    # One process of 25 was slow; only many more show that few are.
    assert "inconclusive" == judged(lambda index: paired_round(3.0 if index == 0 else 1.0)).outcome
    assert "unchanged" == judged(lambda index: paired_round(3.0 if index == 0 else 1.0), rounds=65).outcome


def test_one_round_is_inconclusive():
    verdict = judged(lambda index: paired_round(2.0), rounds=1)
    assert "inconclusive" == verdict.outcome
    assert "too few" in verdict.reason


@pytest.mark.parametrize("bad", [0, -7], ids=["zeros", "a clock that jumps back"])
def test_rounds_with_invalid_latencies_are_lost(bad: int):
    def measure(index: int) -> PairedRound:
        good = paired_round()
        return PairedRound((bad, *good.a_ns[1:]), good.b_ns, good.a_wait_ns, good.b_wait_ns) if index % 3 == 1 else good

    verdict = judged(measure, rounds=45)
    assert "unchanged" == verdict.outcome
    assert 0 < verdict.lost_rounds
    assert "failed" == judged(lambda index: PairedRound((bad,), (1,), (0,), (0,))).outcome


def test_a_clock_that_jumps_ahead_is_one_wild_round():
    def measure(index: int) -> PairedRound:
        good = paired_round()
        return (
            PairedRound(good.a_ns, tuple(10**15 for _ in good.b_ns), good.a_wait_ns, good.b_wait_ns)
            if index == 2
            else good
        )

    assert "unchanged" == judged(measure, rounds=65).outcome


def test_a_side_that_fails_to_load_fails_at_once():
    def measure(index: int) -> PairedRound:
        raise ConversionError("onnxruntime load", "no such operator")

    verdict = judged(measure)
    assert ("failed", 1, 5) == (verdict.outcome, verdict.lost_rounds, verdict.exit_code)
    assert "no such operator" in verdict.reason


def test_a_killed_worker_costs_its_round_only():
    def measure(index: int) -> PairedRound:
        if index == 4:
            raise ChildFailure(CRASHED, "measure was killed", "measure", "", -signal.SIGKILL)
        return paired_round(1.2)

    verdict = judged(measure)
    assert ("slower", 1) == (verdict.outcome, verdict.lost_rounds)


def test_workers_that_are_killed_each_time_are_inconclusive():
    def measure(index: int) -> PairedRound:
        raise ChildFailure(CRASHED, "measure was killed", "measure", "", -signal.SIGKILL)

    verdict = judged(measure)
    assert ("inconclusive", GIVE_UP) == (verdict.outcome, verdict.lost_rounds)
    assert "measure was killed" == verdict.reason


def test_losing_every_other_round_still_ends():
    def measure(index: int) -> PairedRound:
        if index % 2:
            raise DataError("a sample is not a latency")
        return paired_round()

    assert "unchanged" == judged(measure, rounds=60).outcome


def slow_rounds(monkeypatch: pytest.MonkeyPatch, round_s: float, budget_s: float, **settings: Any) -> Comparison:
    """Run a comparison whose rounds take so many scripted seconds each, B 10 % slower."""
    # The clock is read before and after each round.
    clock = (round_s * ((reading + 1) // 2) for reading in itertools.count())
    monkeypatch.setattr("effbench.api.compare.comparison.time", SimpleNamespace(monotonic=lambda: next(clock)))
    sides = artifact("a"), artifact("b")
    comparison = Comparison("x", *sides, RoundSettings(budget_s=budget_s, **settings), Rules())
    run_comparisons([comparison], lambda text: None, lambda a, b, settings, seed: paired_round(1.1))
    return comparison


def test_a_comparison_stops_early_when_no_verdict_is_in_reach(monkeypatch: pytest.MonkeyPatch):
    comparison = slow_rounds(monkeypatch, 10, 60)
    verdict = comparison.verdict()
    assert ("inconclusive", 3) == (verdict.outcome, verdict.rounds)
    assert "no verdict is in reach: a round takes 9.6 s at the least, and the budget of 60 s holds 7" in verdict.reason
    assert verdict.plan is not None
    assert verdict.plan.unchanged_s is not None
    assert f"Give --budget {10 * math.ceil(0.11 * verdict.plan.unchanged_s)}." == verdict.next_step
    assert "slower" == slow_rounds(monkeypatch, 5, 60).verdict().outcome


def test_a_plan_takes_five_rounds_and_no_verdict(monkeypatch: pytest.MonkeyPatch):
    verdict = slow_rounds(monkeypatch, 2, 60, plan_only=True).verdict()
    assert ("planned", 5, False) == (verdict.outcome, verdict.rounds, verdict.fails)
    assert verdict.plan is not None
    assert 20 == verdict.plan.slower_s["20"]


@pytest.mark.parametrize(("seed", "leads"), [(2, "a"), (3, "b")])
def test_the_seed_decides_which_of_two_workers_leads(monkeypatch: pytest.MonkeyPatch, seed: int, leads: str):
    jobs = []

    def led(job: dict[str, Any], settings: RoundSettings) -> PairedRound:
        jobs.append((job, settings))
        ratio = 1.5 if job["sides"][1]["artifact"].endswith("b") else 1 / 1.5
        return paired_round(ratio, noise=0)

    monkeypatch.setattr("effbench.api.compare.rounds._led_by_first", led)
    settings = RoundSettings(workers=2, python=(("pa",), ("pb",)))
    item = run_round(artifact("a"), artifact("b"), settings, seed)
    assert math.log(1.5) == pytest.approx(log_ratios(item).typical, abs=1e-6)
    assert jobs[0][0]["sides"][0]["artifact"].endswith(leads)
    assert f"p{leads}" == jobs[0][1].python[0][0]


def paced(monkeypatch: pytest.MonkeyPatch, ratio: float, rounds: int) -> list[float]:
    """Return how long each round of two seconds was allowed to take, with 60 s in all."""
    clock = (2.0 * ((reading + 1) // 2) for reading in itertools.count())
    monkeypatch.setattr("effbench.api.compare.comparison.time", SimpleNamespace(monotonic=lambda: next(clock)))
    comparison = Comparison("x", artifact("a"), artifact("b"), RoundSettings(budget_s=60), Rules())
    allowed: list[float] = []

    def measure(a: Artifact, b: Artifact, settings: RoundSettings, seed: int) -> PairedRound:
        assert settings.round_s is not None
        allowed.append(settings.round_s)
        return paired_round(ratio)

    for _ in range(rounds):
        comparison.add_round(measure)
    return allowed


def test_a_round_has_its_part_of_what_is_left_of_the_budget(monkeypatch: pytest.MonkeyPatch):
    # Three rounds as if the sides differed, then 23 processes in all and one to spare; each round takes 2 s.
    assert [60 / 16, 58 / 15, 56 / 14, 54 / 21] == pytest.approx(paced(monkeypatch, 1.0, 4))


def test_sides_that_seem_to_differ_have_fewer_and_longer_rounds(monkeypatch: pytest.MonkeyPatch):
    assert [60 / 16, 58 / 15, 56 / 14, 54 / 13] == pytest.approx(paced(monkeypatch, 1.1, 4))


def test_a_verdict_below_fail_above_is_slower_and_passes():
    verdict = judged(lambda index: paired_round(1.03), rules=Rules(fail_above_pct=10))
    assert ("slower", False) == (verdict.outcome, verdict.fails)


@pytest.fixture(scope="module")
def short_and_long(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Artifact]:
    """Two artifacts, the second with sixty times the work of the first."""
    target = deploy.get("ort")
    homes = (tmp_path_factory.mktemp(name) for name in ("short", "long"))
    a, b = (converted(graph_artifact(home, chain(depth)), target) for home, depth in zip(homes, (1, 60), strict=True))
    return a, b


@pytest.mark.target("ort")
@pytest.mark.parametrize("workers", [1, 2])
def test_a_real_round_shows_which_side_is_slower(short_and_long: tuple[Artifact, Artifact], workers: int):
    """The true ratio is above 10: exchanged sides give its inverse, sides that are not distinguished give 1."""
    short, long = short_and_long
    settings = RoundSettings(workers=workers, round_seconds=0.1, min_pairs=12)
    slower, faster = run_round(short, long, settings, 1), run_round(long, short, settings, 2)
    assert 12 <= len(slower.a_ns) == len(slower.b_ns)
    assert log_ratios(slower).typical > math.log(3)
    assert log_ratios(faster).typical < -math.log(3)


@pytest.mark.target("ort")
def test_a_candidate_whose_file_is_altered_is_refused_with_its_reason(
    short_and_long: tuple[Artifact, Artifact], tmp_path: Path
):
    short, _ = short_and_long
    broken = tmp_path / "broken"
    shutil.copytree(short.folder, broken)
    with (broken / short.entry).open("ab") as stream:
        stream.write(b"x")
    comparison = Comparison("x", short, replace(short, folder=broken), RoundSettings(budget_s=30), Rules())
    run_comparisons([comparison], lambda text: None)
    assert "failed" == comparison.verdict().outcome
    assert "altered" in comparison.verdict().reason


@pytest.mark.target("ort")
@pytest.mark.slow
def test_a_real_worker_that_is_killed_loses_its_round(short_and_long: tuple[Artifact, Artifact]):
    settings = RoundSettings(round_seconds=30.0)
    errors: list[BaseException] = []

    def measure() -> None:
        try:
            run_round(*short_and_long, settings, 1)
        except ChildFailure as error:
            errors.append(error)

    thread = threading.Thread(target=measure)
    thread.start()
    time.sleep(4)
    for pid in children("effbench.device.agent_pair"):
        os.kill(pid, signal.SIGKILL)
    thread.join(timeout=20)
    assert "SIGKILL" in str(errors[0])


def children(module: str) -> list[int]:
    """Return the processes started by this one that run a module."""
    processes = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid() and module in (stat.parent / "cmdline").read_text():
                processes.append(int(stat.parent.name))
        except OSError:
            continue
    return processes
