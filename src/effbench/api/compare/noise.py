"""The noise of a machine: A against a rebuilt A, the share of false alarms, and the slowdown a time budget can show."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from effbench import reading
from effbench.api.compare.rounds import RoundSettings, run_round
from effbench.api.export.stage import Notify
from effbench.codec import from_json, to_json
from effbench.errors import DataError, EffbenchError, MeasurementError, counted
from effbench.profiles.paired import PairedRound, log_ratios
from effbench.schema import Artifact
from effbench.statistics import betting, sequential
from effbench.statistics.bias import persistent
from effbench.statistics.proportions import wilson
from effbench.statistics.sequential import Rules
from effbench.store import locked, write_atomically

QUANTILES = (0.5, 0.25)
REPLAYS = 2000
MOST_ROUNDS = 60
"""Of a replay; a small model has time for more, which only makes the result too modest."""

FILE = "machine-noise.json"
FORMER_FILE = "calibration.json"


@dataclass(frozen=True)
class MachineNoise:
    """What A/A rounds on a machine showed.

    ``layout_noise_pct`` is the robust standard deviation of a round's typical log ratio between equal sides; rounds
    average it out. ``bias_interval_pct`` is the 95 % interval of what they do not average out, a bias of one side;
    ``bias_pct``, the floor below which no verdict has a meaning, is its far end if a bias was found, else 0.
    ``correlation`` is that of neighboring rounds. ``false_alarm_bound`` is the share of *slower* and *faster* among
    A/A runs at the worse end of that interval: it rests on the number of rounds, not on that of the replays. It is
    None if neighboring rounds depend on each other, for then it has no bound. ``detectable_pct`` is the slowdown that
    95 % of replays with that shift called slower in budget.
    """

    machine: dict[str, Any]
    time: str
    model: str
    rounds: int
    seconds_per_round: float
    workers: int
    quantile: float
    layout_noise_pct: float
    tail_noise_pct: float
    budget_s: float
    false_alarms: int
    replays: int
    false_alarm_bound: float | None
    detectable_pct: float | None
    spread_pct: dict[str, float]
    bias_pct: float = 0.0
    bias_interval_pct: tuple[float, float] = (0.0, 0.0)
    correlation: float = 0.0


def machine_of(threads: int) -> dict[str, Any]:
    """Return the keys that stored noise must match: the processor, the allowed cores, the number of threads."""
    from effbench.profiles import environment

    observed = environment.observe()
    keys = ("cpu_model", "machine", "cores_allowed", "governor")
    return {key: observed.get(key) for key in keys} | {"threads": threads}


def load(home: Path, threads: int) -> MachineNoise | None:
    """Return the newest stored noise of this machine, or None.

    Raises:
        DataError: The file cannot be read, or only that of an earlier version is there.
    """
    path = home / FILE
    if not path.exists():
        if (home / FORMER_FILE).exists():
            raise DataError(
                f"{home / FORMER_FILE} has the name of an earlier version of effbench.",
                hint=f"Rename it to {FILE} (the content is the same), or remove it and run gate --measure-noise.",
            )
        return None
    entries = _entries(path)
    machine = machine_of(threads)
    records = [from_json(MachineNoise, entry, str(path)) for entry in entries]
    matching = [record for record in records if record.machine == machine]
    return matching[-1] if matching else None


def _entries(path: Path) -> list[Any]:
    hint = "Remove it and run gate --measure-noise again."
    entries = reading.json_file(path, hint=hint)
    if not isinstance(entries, list):
        raise DataError(f"{path}: expected a list, found {type(entries).__name__}.", hint=hint)
    return entries


def save(home: Path, noise: MachineNoise) -> Path:
    """Append a record to those of a home; older ones stay."""
    path = home / FILE
    with locked(path):
        entries = _entries(path) if path.exists() else []
        write_atomically(path, json.dumps([*entries, to_json(noise)], indent=1, sort_keys=True) + "\n")
    return path


def raise_floor(rules: Rules, bias_pct: float) -> Rules:
    """Return the rules with a noise floor no lower than the measured bias of one side."""
    if bias_pct <= rules.floor_pct:
        return rules
    floor, fail = bias_pct, rules.fail_above_pct
    return replace(
        rules,
        floor_pct=floor,
        margin_pct=max(rules.margin_pct, 2 * floor),
        fail_above_pct=None if fail is None else max(fail, floor),
    )


def measure_noise(
    a: Artifact, rebuilt: Artifact, settings: RoundSettings, rules: Rules, minutes: float, home: Path, notify: Notify
) -> MachineNoise:
    """Run A against a rebuilt A with one and with two workers, choose the more precise, and store the result.

    Raises:
        MeasurementError: Too few rounds were completed.
    """
    rounds: dict[int, list[PairedRound]] = {1: [], 2: []}
    seconds: dict[int, float] = {1: 0.0, 2: 0.0}
    end = time.monotonic() + 60 * minutes
    index = 0
    while time.monotonic() < end:
        workers = 1 + index % 2
        start = time.monotonic()
        try:
            rounds[workers].append(run_round(a, rebuilt, replace(settings, workers=workers), settings.seed + index))
        except EffbenchError as error:
            notify(f"round {index + 1} lost: {error.message}")
        seconds[workers] += time.monotonic() - start
        index += 1
        notify(f"A/A round {index}, {max(0.0, end - time.monotonic()):.0f} s left")
    if min(len(completed) for completed in rounds.values()) < betting.LEARNED + 3:
        raise MeasurementError(
            f"Only {index} rounds were completed in {minutes:g} min.",
            hint="Give --minutes 5 or more, or a smaller model.",
        )
    noise = summarize(rounds, seconds, settings, rules, a.name)
    save(home, noise)
    return noise


def summarize(
    rounds: dict[int, list[PairedRound]],
    seconds: dict[int, float],
    settings: RoundSettings,
    rules: Rules,
    model: str,
) -> MachineNoise:
    """Return the noise that A/A rounds show, for the number of workers and the quantile that are most precise.

    Args:
        rounds: By number of workers.
        seconds: Spent on the rounds, likewise.
        settings: How the rounds were run.
        rules: Floor, margin, chance of a false alarm.
        model: The artifact's name.
    """
    spread = {
        (workers, quantile): _spread([log_ratios(item, quantile).typical for item in completed])
        for workers, completed in rounds.items()
        for quantile in QUANTILES
    }
    # Evidence per second: a noisier round that costs half as much is worth as much.
    costs = {key: value * math.sqrt(seconds[key[0]] / len(rounds[key[0]])) for key, value in spread.items()}
    workers, quantile = min(costs, key=lambda key: costs[key])
    chosen = [log_ratios(item, quantile) for item in rounds[workers]]
    typical, tail = np.array([item.typical for item in chosen]), np.array([item.tail for item in chosen])
    round_s = seconds[workers] / len(chosen)
    bias = persistent(typical)
    raised = raise_floor(rules, bias.floor_pct)
    rounds_per_run = max(1, min(MOST_ROUNDS, int(settings.budget_s / round_s)))
    alarms = false_alarms(typical, tail, raised, rounds_per_run)
    centered = typical - bias.center
    worst = max(false_alarms(centered + end, tail, raised, rounds_per_run) for end in (bias.low, bias.high))
    return MachineNoise(
        machine=machine_of(settings.threads),
        time=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        model=model,
        rounds=len(chosen),
        seconds_per_round=round(round_s, 3),
        workers=workers,
        quantile=quantile,
        layout_noise_pct=round(100 * spread[workers, quantile], 3),
        tail_noise_pct=round(100 * _spread(list(tail)), 3),
        budget_s=settings.budget_s,
        false_alarms=alarms,
        replays=REPLAYS,
        false_alarm_bound=None if bias.dependent else round(wilson(max(alarms, worst), REPLAYS)[1], 5),
        detectable_pct=detectable(typical, tail, raised, rounds_per_run),
        spread_pct={f"{counted(w, 'worker')}, q{q:g}": round(100 * value, 3) for (w, q), value in spread.items()},
        bias_pct=round(bias.floor_pct, 3),
        bias_interval_pct=(round(100 * bias.low, 3), round(100 * bias.high, 3)),
        correlation=round(bias.correlation, 3),
    )


def _spread(values: Sequence[float]) -> float:
    """Return the robust standard deviation about zero, the true log ratio of equal sides."""
    return 1.4826 * float(np.median(np.abs(values)))


def replay(typical: Any, tail: Any, rules: Rules, rounds: int, shift: float = 0.0, seed: int = 0) -> tuple[Any, Any]:
    """Return outcome codes and round counts of `REPLAYS` runs drawn from recorded rounds, without flipping signs."""
    rng = np.random.default_rng(seed)
    index = rng.integers(0, len(typical), (REPLAYS, rounds))
    codes, settled = sequential.outcomes(typical[index] + shift, tail[index] + shift, rules)
    last = np.where(settled.any(axis=1), settled.argmax(axis=1), rounds - 1)
    return codes[np.arange(REPLAYS), last], last + 1


def false_alarms(typical: Any, tail: Any, rules: Rules, rounds: int) -> int:
    """Return how many of `REPLAYS` replayed A/A runs end slower or faster."""
    codes, _ = replay(typical, tail, rules, rounds)
    return int(np.isin(codes, (sequential.SLOWER, sequential.FASTER)).sum())


def detectable(typical: Any, tail: Any, rules: Rules, rounds: int, power: float = 0.95) -> float | None:
    """Return the smallest slowdown, in percent, that this many rounds detect with the given power; None above 100 %."""
    for pct in (1.5, 2, 2.5, 3, 4, 5, 6, 8, 10, 15, 20, 30, 50, 100):
        codes, _ = replay(typical, tail, rules, rounds, math.log1p(pct / 100))
        if (codes == sequential.SLOWER).mean() >= power:
            return float(pct)
    return None
