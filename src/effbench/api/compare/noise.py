"""What this machine can tell: A against a rebuilt A, how often it cries wolf, and what it can see in a time budget."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from effbench.api.compare.rounds import Setting, run_round
from effbench.api.export.run import Notify
from effbench.codec import from_json, to_json
from effbench.errors import DataError, EffbenchError, MeasurementError
from effbench.profiles.paired import PairedRound, evidence
from effbench.schema import Artifact
from effbench.statistics import sequential
from effbench.statistics.proportions import wilson
from effbench.statistics.sequential import Rules

QUANTILES = (0.5, 0.25)
REPLAYS = 2000
MOST_ROUNDS = 60
"""Of a replay; a small model has time for more, which only makes what is told too modest."""

FILE = "calibration.json"


@dataclass(frozen=True)
class Calibration:
    """What A/A rounds on a machine showed.

    ``layout_noise_pct`` is the robust standard deviation of a round's typical log ratio between equal sides: below it,
    a floor means nothing. ``false_alarm_bound`` is the 95 % upper bound of the share of replayed A/A verdicts that were
    slower or faster; ``detectable_pct`` the slowdown that 95 % of replays with that shift called slower in budget.
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
    false_alarm_bound: float
    detectable_pct: float | None
    spread_pct: dict[str, float]


def machine_of(threads: int) -> dict[str, Any]:
    """Return what has to agree for a calibration to count: the processor, the cores, the threads asked for."""
    from effbench.profiles import environment

    seen = environment.observe()
    return {key: seen.get(key) for key in ("cpu_model", "machine", "cores_allowed", "governor")} | {"threads": threads}


def load(home: Path, threads: int) -> Calibration | None:
    """Return the newest calibration of this machine, or None.

    Raises:
        DataError: The file cannot be read.
    """
    path = home / FILE
    if not path.exists():
        return None
    try:
        entries = json.loads(path.read_text())
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON ({error}).", hint="Remove it and calibrate again.") from error
    here = machine_of(threads)
    found = [from_json(Calibration, entry, str(path)) for entry in entries]
    matching = [item for item in found if item.machine == here]
    return matching[-1] if matching else None


def save(home: Path, item: Calibration) -> Path:
    """Add a calibration to those of a home; older ones stay, for the record."""
    path = home / FILE
    home.mkdir(parents=True, exist_ok=True)
    entries = json.loads(path.read_text()) if path.exists() else []
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps([*entries, to_json(item)], indent=1, sort_keys=True) + "\n")
    temporary.replace(path)
    return path


def lift(rules: Rules, noise_pct: float) -> Rules:
    """Return the rules with the floor no lower than the calibrated layout noise."""
    if noise_pct <= rules.floor_pct:
        return rules
    floor, fail = noise_pct, rules.fail_above_pct
    return replace(
        rules,
        floor_pct=floor,
        margin_pct=max(rules.margin_pct, 2 * floor),
        fail_above_pct=None if fail is None else max(fail, floor),
    )


def calibrate(
    a: Artifact, rebuilt: Artifact, setting: Setting, rules: Rules, minutes: float, home: Path, notify: Notify
) -> Calibration:
    """Run A against a rebuilt A in both modes for some minutes, choose the sharper one, and store what was found.

    Raises:
        MeasurementError: Too few rounds came about.
    """
    import time

    rounds: dict[int, list[PairedRound]] = {1: [], 2: []}
    took: dict[int, float] = {1: 0.0, 2: 0.0}
    end = time.monotonic() + 60 * minutes
    index = 0
    while time.monotonic() < end:
        workers = 1 + index % 2
        start = time.monotonic()
        try:
            rounds[workers].append(run_round(a, rebuilt, replace(setting, workers=workers), setting.seed + index))
        except EffbenchError as error:
            notify(f"round {index + 1} lost: {error.message}")
        took[workers] += time.monotonic() - start
        index += 1
        notify(f"A/A round {index}, {max(0.0, end - time.monotonic()):.0f} s left")
    if min(len(found) for found in rounds.values()) < sequential.LEARNED + 3:
        raise MeasurementError(
            f"Only {index} rounds came about in {minutes:g} min.", hint="Give --minutes 5 or more, or a smaller model."
        )
    return _conclude(rounds, took, setting, rules, a, home)


def _conclude(
    rounds: dict[int, list[PairedRound]],
    took: dict[int, float],
    setting: Setting,
    rules: Rules,
    a: Artifact,
    home: Path,
) -> Calibration:
    spread = {
        (workers, quantile): _spread([evidence(one, quantile).typical for one in found])
        for workers, found in rounds.items()
        for quantile in QUANTILES
    }
    # Evidence per second: a noisier round that costs half as much is worth as much.
    costs = {key: value * math.sqrt(took[key[0]] / len(rounds[key[0]])) for key, value in spread.items()}
    workers, quantile = min(costs, key=lambda key: costs[key])
    chosen = [evidence(one, quantile) for one in rounds[workers]]
    typical, tail = np.array([one.typical for one in chosen]), np.array([one.tail for one in chosen])
    seconds = took[workers] / len(chosen)
    noise = 100 * spread[workers, quantile]
    lifted = lift(rules, noise)
    per_run = max(1, min(MOST_ROUNDS, int(setting.budget_s / seconds)))
    alarms = false_alarms(typical, tail, lifted, per_run)
    found = Calibration(
        machine=machine_of(setting.threads),
        time=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        model=a.name,
        rounds=len(chosen),
        seconds_per_round=round(seconds, 3),
        workers=workers,
        quantile=quantile,
        layout_noise_pct=round(noise, 3),
        tail_noise_pct=round(100 * _spread(list(tail)), 3),
        budget_s=setting.budget_s,
        false_alarms=alarms,
        replays=REPLAYS,
        false_alarm_bound=round(wilson(alarms, REPLAYS)[1], 5),
        detectable_pct=detectable(typical, tail, lifted, per_run),
        spread_pct={f"{w} worker(s), q{q:g}": round(100 * value, 3) for (w, q), value in spread.items()},
    )
    save(home, found)
    return found


def _spread(values: Sequence[float]) -> float:
    """Return the robust standard deviation about zero, which is where equal sides lie."""
    return 1.4826 * float(np.median(np.abs(values)))


def replay(typical: Any, tail: Any, rules: Rules, rounds: int, shift: float = 0.0, seed: int = 0) -> tuple[Any, Any]:
    """Return outcome codes and rounds used of `REPLAYS` runs drawn from recorded rounds, signs as they were."""
    rng = np.random.default_rng(seed)
    index = rng.integers(0, len(typical), (REPLAYS, rounds))
    codes, settled = sequential.outcomes(typical[index] + shift, tail[index] + shift, rules)
    used = np.where(settled.any(axis=1), settled.argmax(axis=1), rounds - 1)
    return codes[np.arange(REPLAYS), used], used + 1


def false_alarms(typical: Any, tail: Any, rules: Rules, rounds: int) -> int:
    """Return how many of `REPLAYS` replayed A/A runs end slower or faster."""
    codes, _ = replay(typical, tail, rules, rounds)
    return int(np.isin(codes, (sequential.SLOWER, sequential.FASTER)).sum())


def detectable(typical: Any, tail: Any, rules: Rules, rounds: int, power: float = 0.95) -> float | None:
    """Return the smallest slowdown, in percent, that so many rounds find with the given power; None above 100 %."""
    for pct in (1.5, 2, 2.5, 3, 4, 5, 6, 8, 10, 15, 20, 30, 50, 100):
        codes, _ = replay(typical, tail, rules, rounds, math.log1p(pct / 100))
        if (codes == sequential.SLOWER).mean() >= power:
            return float(pct)
    return None
