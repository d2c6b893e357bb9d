"""A gate against stored files: artifacts of an earlier build, or measurements of an earlier day."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from effbench.api.export.run import Notify
from effbench.deploy.artifact import bundle
from effbench.errors import DataError
from effbench.schema import Artifact, Measurement
from effbench.statistics.percentiles import estimate
from effbench.statistics.sequential import Rules
from effbench.statistics.verdict import INCONCLUSIVE, UNCHANGED, Ratio, Verdict
from effbench.store import Store

LEVEL = 0.995
"""Of each side's interval; their ratio's error is at most twice what is left."""


def is_stored(path: Path) -> bool:
    """Say whether a path holds measurements rather than artifacts."""
    if path.suffix == ".jsonl":
        return True
    return (path / "measurements.jsonl").exists() and not (path / "artifacts").exists()


def read_stored(path: Path) -> list[Measurement]:
    """Return the measurements of a store.

    Raises:
        DataError: There is none.
    """
    found = list(Store(path.parent if path.suffix == ".jsonl" else path))
    if not found:
        raise DataError(f"{path}: no measurements.", hint="effbench profile writes measurements.jsonl.")
    return found


def stored_artifacts(path: Path) -> list[Artifact]:
    """Return the artifact of a folder, or all of a home.

    Raises:
        DataError: There is none.
    """
    if (path / bundle.MANIFEST).exists():
        return [bundle.load(path)]
    found = [item for item in bundle.artifacts(path) if item.subject.target != "onnx"]
    if not found:
        raise DataError(
            f"{path}: no artifacts.", hint="An artifact's folder, or one that has artifacts/ below, is meant."
        )
    return found


def against_stored(
    artifact: Artifact,
    stored: Sequence[Measurement],
    rules: Rules,
    threads: int,
    device: str,
    home: Path,
    budget_s: float,
    notify: Notify,
) -> Verdict:
    """Measure an artifact now and hold it against what was measured earlier, if the machine is still the same.

    The two were not measured side by side, so that the interval is wider than a comparison's by far; and what the
    environment keys do not tell is not seen at all.
    """
    from effbench.api.compare.run import name_of
    from effbench.api.profile.run import profile

    name = name_of(artifact, artifact)
    blank = Verdict(name, INCONCLUSIVE, b_digest=artifact.digest, notes=("against a stored measurement",))
    subject = artifact.subject
    matching = [
        one
        for one in stored
        if (one.subject.model, one.subject.resolution, one.subject.target, one.subject.storage_precision)
        == (subject.model, subject.resolution, subject.target, subject.storage_precision)
    ]
    if not matching:
        return replace(blank, reason="no measurement of this model, resolution and target is stored")
    made = profile([str(artifact.folder)], threads=threads, device=device, budget_s=budget_s, out=home, notify=notify)
    if not made.measurements:
        return replace(blank, outcome="failed", reason=made.cells[0].reason, exit_code=made.cells[0].exit_code)
    return judge_stored(blank, matching[-1], made.measurements[0], rules)


def judge_stored(blank: Verdict, old: Measurement, new: Measurement, rules: Rules) -> Verdict:
    """Return the verdict on two measurements of different times; the keys that differ are named."""
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
    sides = [estimate([one.samples_ns for one in item.samples.rounds], 0.5, LEVEL) for item in (old, new)]
    if any(side is None or side.interval is None for side in sides):
        return replace(blank, reason="one side has fewer than six rounds, and so no interval")
    (a_low, a_high), (b_low, b_high) = (side.interval for side in sides if side and side.interval)
    a, b = (side.value for side in sides if side)
    low, high = math.log(b_low / a_high), math.log(b_high / a_low)
    outcome = INCONCLUSIVE
    if low > rules.floor:
        outcome = "slower"
    elif high < -rules.floor:
        outcome = "faster"
    elif -rules.margin < low and high < rules.margin:
        outcome = UNCHANGED
    seen = 100 * math.expm1(rules.floor + math.log(b / a) - low)
    ratio = Ratio("typical", b / a, math.exp(low), math.exp(high), seen, "open" if outcome == INCONCLUSIVE else outcome)
    return replace(
        blank,
        outcome=outcome,
        ratios=(ratio,),
        latency_ms=b / 1e6,
        latency_interval_ms=(b_low / 1e6, b_high / 1e6),
        fails=outcome == "slower" and low > rules.fail_above,
        reason="the interval reaches beyond the margin" if outcome == INCONCLUSIVE else "",
    )
