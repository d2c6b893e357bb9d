"""Compare two models, artifacts or .onnx files in the same run: is B slower than A?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from effbench import deploy
from effbench.api.compare import caches, identity, noise
from effbench.api.compare.comparison import Comparison, run_comparisons
from effbench.api.compare.noise import MachineNoise
from effbench.api.compare.pairs import Pair, pairs_of
from effbench.api.compare.request import BUDGET_S, CompareRequest
from effbench.api.compare.rounds import DeviceRounds, RoundSettings
from effbench.api.export.stage import Notify
from effbench.api.keywords import from_fields
from effbench.api.remote import Remote, device_of
from effbench.errors import UnavailableError, UsageError
from effbench.schema import Artifact
from effbench.statistics.sequential import Rules
from effbench.statistics.verdict import FAILED, SLOWER, UNCHANGED, ComparisonReport, Verdict
from effbench.store import home as home_of

LATENCY_BUDGET_S = 8.0
LATENCY_ROUNDS = 6


@from_fields(CompareRequest)
def compare(request: CompareRequest) -> ComparisonReport:
    """Measure A and B in the same run and return which is slower.

    Arguments are the fields of `CompareRequest`.

    Raises:
        UsageError: An argument is invalid; nothing was measured then.
        UnavailableError: A target or the device cannot run.
    """
    device = device_of(request.device)
    home, notify = home_of(request.out), request.notify
    local = device.transport == "local"
    machine_noise = noise.load(home, request.threads) if local else None  # it is that of this machine
    rules = noise.raise_floor(request.rules or Rules(), machine_noise.bias_pct if machine_noise else 0.0)
    pairs = pairs_of(request, home)
    settings = round_settings(
        machine_noise,
        request.threads,
        batch=request.batch,
        budget_s=request.budget_s,
        workers=request.workers,
        base_python=request.base_python,
        seed=request.seed,
    )
    settings = replace(settings, plan_only=request.plan)
    with Remote(device, Path(request.record) if request.record else None) as remote:
        verdicts, interrupted = compare_pairs(pairs, settings, rules, notify, remote, force=request.force)
        observed = None if remote.local else remote.observe()
    if request.latency:
        candidates = [pair.b for pair in pairs]
        conditions = {"threads": request.threads, "device": request.device, "force": request.force}
        verdicts = with_latency(verdicts, candidates, conditions, home, notify)
    if local:  # layers are timed on this machine
        verdicts = with_explanations(verdicts, pairs, settings, notify)
    report = comparison_report((request.a, request.b), verdicts, rules, settings, request.inconclusive, observed)
    return replace(report, interrupted=interrupted)


def round_settings(
    machine_noise: MachineNoise | None,
    threads: int,
    *,
    batch: int | None = None,
    budget_s: float = BUDGET_S,
    workers: int | None = None,
    base_python: str | None = None,
    seed: int | None = None,
) -> RoundSettings:
    """Return how rounds are run: the arguments, else the mode that the measured noise favours, else the defaults.

    Raises:
        UsageError: The interpreter does not exist, or there are more than two workers.
    """
    settings = RoundSettings(threads=threads, batch=batch, budget_s=budget_s)
    if machine_noise is not None:
        settings = replace(settings, workers=machine_noise.workers, quantile=machine_noise.quantile)
    if workers is not None:
        if workers not in (1, 2):
            raise UsageError(f"--workers {workers}: a round runs in 1 process or 2.")
        settings = replace(settings, workers=workers)
    if base_python is not None:
        if not Path(base_python).exists():
            raise UsageError(f"--base-python {base_python}: no such interpreter.")
        settings = replace(settings, workers=2, python=((base_python,), settings.python[1]))
    return settings if seed is None else replace(settings, seed=seed)


def compare_pairs(
    pairs: Sequence[Pair],
    settings: RoundSettings,
    rules: Rules,
    notify: Notify,
    remote: Remote,
    always_time: bool = False,
    force: bool = False,
) -> tuple[list[Verdict], bool]:
    """Return a verdict per pair, and whether the user interrupted.

    Identical pairs are unchanged without a measurement, unless ``always_time``; the others share the error budget.
    With ``force`` a device may contradict its profile; the verdicts say so.

    Raises:
        UnavailableError: A side cannot run on this machine.
    """
    sides = {pair.name: identity.compared(pair.a, pair.b, settings) for pair in pairs}
    timed = [pair for pair in pairs if always_time or not identity.identical(sides[pair.name])]
    if remote.local:
        for artifact in (side for pair in timed for side in (pair.a, pair.b)):
            reason = deploy.get(artifact.subject.target).measurable()
            if reason is not None:
                raise UnavailableError(f"{artifact.name} cannot run here: {reason}.", hint="effbench doctor")
    cache_bytes = caches.last_level_bytes() if remote.local else None
    comparisons = {
        pair.name: Comparison(*pair, _in_blocks(pair, settings, cache_bytes), rules, len(timed)) for pair in timed
    }
    measure = None if remote.local else DeviceRounds(remote, force)
    interrupted = run_comparisons(list(comparisons.values()), notify, measure)
    verdicts = []
    for pair in pairs:
        compared = sides[pair.name]
        verdict = comparisons[pair.name].verdict() if pair.name in comparisons else _unchanged(pair, compared)
        if pair.name in comparisons and identity.identical(compared) and not verdict.reason:
            verdict = replace(verdict, reason=f"{identity.sentence(compared)}; timed all the same")
        if pair.name in comparisons and (text := caches.note(*_sizes(pair), cache_bytes, settings.workers)):
            verdict = replace(verdict, notes=(*verdict.notes, text))
        if pair.name in comparisons and measure is not None:
            verdict = replace(verdict, notes=(*verdict.notes, *measure.doubts))
        verdicts.append(replace(verdict, identity=compared))
    return verdicts, interrupted


def _sizes(pair: Pair) -> tuple[int, int]:
    return pair.a.subject.size_bytes, pair.b.subject.size_bytes


def _in_blocks(pair: Pair, settings: RoundSettings, cache_bytes: int | None) -> RoundSettings:
    return replace(settings, block=caches.block(*_sizes(pair), cache_bytes, settings.workers))


def _unchanged(pair: Pair, compared: identity.Compared) -> Verdict:
    return Verdict(
        pair.name,
        UNCHANGED,
        identical=True,
        reason=identity.sentence(compared),
        a_digest=pair.a.digest,
        b_digest=pair.b.digest,
        size_bytes=pair.b.subject.size_bytes,
    )


def with_explanations(
    verdicts: Sequence[Verdict], pairs: Sequence[Pair], settings: RoundSettings, notify: Notify
) -> list[Verdict]:
    """Return the verdicts, each that is slower with the operators and layers that cause it."""
    from effbench.api.compare.explanation import explain

    explained = []
    for verdict, pair in zip(verdicts, pairs, strict=True):
        if verdict.outcome == SLOWER:
            notify(f"{verdict.name}: looking for the layers that cause the slowdown")
            verdict = replace(verdict, why=explain(pair.a, pair.b, settings))
        explained.append(verdict)
    return explained


def with_latency(
    verdicts: Sequence[Verdict],
    candidates: Sequence[Artifact],
    conditions: Mapping[str, Any],
    home: Path,
    notify: Notify,
) -> list[Verdict]:
    """Return the verdicts with the candidates' latencies, measured in separate runs: these are the ones to report.

    ``conditions`` are arguments of `profile`: threads, device, force.
    """
    from effbench.api.profile.run import profile
    from effbench.statistics.percentiles import estimate

    measured = []
    for verdict, artifact in zip(verdicts, candidates, strict=True):
        if verdict.outcome == FAILED or verdict.identical:
            measured.append(verdict)
            continue
        result = profile(
            [str(artifact.folder)],
            budget_s=LATENCY_BUDGET_S,
            rounds=LATENCY_ROUNDS,
            out=home,
            notify=notify,
            **conditions,
        )
        if not result.measurements:
            measured.append(replace(verdict, notes=(*verdict.notes, "latency not measured")))
            continue
        p50 = estimate([item.samples_ns for item in result.measurements[0].samples.rounds], 0.5)
        if p50 is None:
            measured.append(verdict)
            continue
        interval_ms = p50.interval and (p50.interval[0] / 1e6, p50.interval[1] / 1e6)
        measured.append(replace(verdict, latency_ms=p50.value / 1e6, latency_interval_ms=interval_ms))
    return measured


def comparison_report(
    sides: tuple[str, str],
    verdicts: Sequence[Verdict],
    rules: Rules,
    settings: RoundSettings,
    inconclusive: str,
    observed: dict[str, Any] | None = None,
) -> ComparisonReport:
    """Return the verdicts with the rules and the machine: the one that was observed, or this one."""
    from effbench.profiles import environment

    machine = environment.observe() if observed is None else observed
    return ComparisonReport(
        a=sides[0],
        b=sides[1],
        verdicts=tuple(verdicts),
        floor_pct=rules.floor_pct,
        margin_pct=rules.margin_pct,
        fail_above_pct=rules.floor_pct if rules.fail_above_pct is None else rules.fail_above_pct,
        false_alarms=rules.false_alarms,
        compared=sum(not item.identical for item in verdicts),
        inconclusive=inconclusive,
        machine=f"{machine.get('cpu_model')}, {machine.get('cores_allowed')} cores",
        settings={"threads": str(settings.threads), "workers": str(settings.workers), "seed": str(settings.seed)},
    )
