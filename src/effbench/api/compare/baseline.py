"""The baseline of a gate when it is no git ref: artifacts of an earlier build, or measurements of an earlier day."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from effbench.api.compare.comparison import ratio
from effbench.deploy.artifact import bundle
from effbench.errors import DataError
from effbench.schema import Artifact, Measurement
from effbench.statistics.percentiles import estimate
from effbench.statistics.sequential import Interval, Rules
from effbench.statistics.verdict import INCONCLUSIVE, SLOWER, UNCHANGED, Verdict
from effbench.store import Store

LEVEL = 0.995
"""Confidence of the interval of each side; their ratio misses with at most twice the remaining probability."""

NOTE = "against a measurement of an earlier time"


def holds_measurements(path: Path) -> bool:
    """Return whether a path holds measurements rather than artifacts."""
    if path.suffix == ".jsonl":
        return True
    return (path / "measurements.jsonl").exists() and not (path / "artifacts").exists()


def baseline_measurements(path: Path) -> list[Measurement]:
    """Return the measurements of a store.

    Raises:
        DataError: It holds none.
    """
    measurements = list(Store(path.parent if path.suffix == ".jsonl" else path))
    if not measurements:
        raise DataError(f"{path}: no measurements.", hint="effbench profile writes measurements.jsonl.")
    return measurements


def baseline_artifacts(path: Path) -> list[Artifact]:
    """Return the artifact in a folder, or all artifacts below an output folder.

    Raises:
        DataError: There is none.
    """
    if (path / bundle.MANIFEST).exists():
        return [bundle.load(path)]
    artifacts = [item for item in bundle.artifacts(path) if item.subject.target != "onnx"]
    if not artifacts:
        raise DataError(
            f"{path}: no artifacts.", hint="Give the folder of an artifact, or a folder that contains artifacts/."
        )
    return artifacts


def newest_of(artifact: Artifact, measurements: Sequence[Measurement]) -> Measurement | None:
    """Return the newest measurement of the same model, resolution, target and precision."""
    subject = artifact.subject
    same = [
        item
        for item in measurements
        if (item.subject.model, item.subject.resolution, item.subject.target, item.subject.storage_precision)
        == (subject.model, subject.resolution, subject.target, subject.storage_precision)
    ]
    return same[-1] if same else None


def judge_measurements(blank: Verdict, old: Measurement, new: Measurement, rules: Rules) -> Verdict:
    """Return the verdict on two measurements of different times.

    They were not measured in pairs, so the interval is far wider than that of a comparison. Where the environments
    differ, the verdict is inconclusive and names the keys; a difference that no key records is not detected.
    """
    blank = replace(blank, a_digest=old.digest, rounds=len(new.samples.rounds))
    then, now = old.must_match(), new.must_match()
    differing = [key for key in sorted({*then, *now}) if then.get(key) != now.get(key)]
    if differing:
        key = differing[0]
        also = f" (also {', '.join(differing[1:])})" if len(differing) > 1 else ""
        reason = f"the environment differs in '{key}': {then.get(key)!r} then, {now.get(key)!r} now{also}"
        return replace(blank, reason=reason, next_step="Measure the base again on this machine, or use --base REF.")
    if old.digest == new.digest:
        return replace(blank, outcome=UNCHANGED, identical=True, reason="equal files on an equal runtime")
    estimates = [estimate([item.samples_ns for item in side.samples.rounds], 0.5, LEVEL) for side in (old, new)]
    known = [(side.value, side.interval) for side in estimates if side is not None and side.interval is not None]
    if len(known) < 2:
        return replace(blank, reason="one side has fewer than six rounds, and so no interval")
    (a, (a_low, a_high)), (b, (b_low, b_high)) = known
    interval = Interval(math.log(b / a), math.log(b_low / a_high), math.log(b_high / a_low))
    outcome = interval.outcome(rules)
    return replace(
        blank,
        outcome=outcome,
        ratios=(ratio("typical", interval, rules),),
        latency_ms=b / 1e6,
        latency_interval_ms=(b_low / 1e6, b_high / 1e6),
        fails=outcome == SLOWER and interval.low > rules.fail_above,
        reason="the interval reaches beyond the margin" if outcome == INCONCLUSIVE else "",
    )
