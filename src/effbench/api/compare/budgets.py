"""``effbench.toml``: the suite that a gate checks, and absolute budgets that its figures are held to."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from effbench.errors import DataError, unknown_name
from effbench.schema import Artifact, Measurement, parse_resolution
from effbench.statistics.percentiles import estimate
from effbench.statistics.verdict import BudgetCheck

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SUITE_KEYS = (
    "models",
    "targets",
    "resolutions",
    "precisions",
    "devices",
    "threads",
    "batch",
    "seed",
    "calibration",
    "allow_fallback",
)
GATE_KEYS = ("base", "floor_pct", "margin_pct", "fail_above_pct", "budget_s", "inconclusive", "false_alarms", "path")
MEASURED = ("latency_ms", "p90_ms", "peak_mib")
COUNTED = ("size_mib", "macs", "params", "operators", "accelerator_share")
WHERE = ("model", "target", "device", "resolution")


@dataclass(frozen=True)
class Budget:
    """Limits for the artifacts it names; what is not named matches everything."""

    where: dict[str, Any]
    limits: dict[str, Any]

    def matches(self, artifact: Artifact, device: str) -> bool:
        """Say whether this budget is about that artifact on that device."""
        subject = artifact.subject
        size = self.where.get("resolution")
        names = {"model": subject.model, "target": subject.target, "device": device}
        return all(self.where.get(key, value) == value for key, value in names.items()) and (
            size is None or parse_resolution(size) == subject.resolution
        )

    @property
    def needs_measuring(self) -> bool:
        """Whether it holds a figure that only a measurement gives."""
        return any(key in self.limits for key in MEASURED)


@dataclass(frozen=True)
class Suite:
    """What ``effbench.toml`` (or ``[tool.effbench]``) says; flags win over it."""

    path: Path | None = None
    suite: dict[str, Any] = field(default_factory=dict)
    gate: dict[str, Any] = field(default_factory=dict)
    budgets: tuple[Budget, ...] = ()

    def get(self, key: str, default: Any) -> Any:
        """Return a setting of the suite or of the gate."""
        return self.suite.get(key, self.gate.get(key, default))


def read_suite(folder: Path) -> Suite:
    """Read the suite of a folder: ``effbench.toml``, else ``[tool.effbench]`` of its pyproject.toml, else nothing.

    Raises:
        DataError: The file is not TOML.
        UsageError: A key that means nothing; near misses are listed.
    """
    for path, keys in ((folder / "effbench.toml", ()), (folder / "pyproject.toml", ("tool", "effbench"))):
        if not path.is_file():
            continue
        data = _toml(path)
        for key in keys:
            data = data.get(key, {})
        if data:
            return _suite(path, data)
    return Suite()


def read_suite_file(path: Path) -> Suite:
    """Read a suite by its path; arguments and errors as in `read_suite`, and the file has to be there."""
    if not path.is_file():
        raise DataError(f"{path}: no such file.")
    return _suite(path, _toml(path))


def _toml(path: Path) -> dict[str, Any]:
    try:
        data: dict[str, Any] = tomllib.loads(path.read_text())
        return data
    except tomllib.TOMLDecodeError as error:
        raise DataError(f"{path}: {error}.") from None


def _suite(path: Path, data: dict[str, Any]) -> Suite:
    known = {"suite": SUITE_KEYS, "gate": GATE_KEYS, "budget": (*WHERE, *MEASURED, *COUNTED, "fidelity")}
    for key in data:
        if key not in (*known, "devices"):  # those are read by profiles.devices
            raise unknown_name(key, (*known, "devices"), f"table in {path}:")
    budgets = data.get("budget", [])
    tables = [("suite", data.get("suite", {})), ("gate", data.get("gate", {})), *(("budget", item) for item in budgets)]
    for name, table in tables:
        for key in table:
            if key not in known[name]:
                raise unknown_name(key, known[name], f"key of [{name}] in {path}:")
    return Suite(
        path,
        data.get("suite", {}),
        data.get("gate", {}),
        tuple(
            Budget({k: v for k, v in item.items() if k in WHERE}, {k: v for k, v in item.items() if k not in WHERE})
            for item in budgets
        ),
    )


def check(
    budgets: Sequence[Budget], artifact: Artifact, operators: dict[str, int], measured: Measurement | None, device: str
) -> tuple[BudgetCheck, ...]:
    """Hold an artifact to every budget that is about it: counted figures exactly, measured ones by their interval."""
    found: list[BudgetCheck] = []
    for budget in budgets:
        if budget.matches(artifact, device):
            for key, limit in budget.limits.items():
                found += _bounds(key, limit, artifact, operators, measured)
    return tuple(found)


def _bounds(
    key: str, limit: Any, artifact: Artifact, operators: dict[str, int], measured: Measurement | None
) -> list[BudgetCheck]:
    subject = artifact.subject
    if key == "operators":
        return [_counted(f"operators {name}", most, operators.get(name, 0)) for name, most in limit.items()]
    if key in ("macs", "params"):
        return [_counted(key, limit, getattr(subject, key))]
    if key == "size_mib":
        return [_counted("size MiB", limit, subject.size_bytes / 2**20)]
    if key == "accelerator_share":
        share = artifact.placement.get("accelerator_share")
        if share is None:
            return [
                BudgetCheck(
                    key, float(limit), None, "open", f"target {subject.target} does not tell where operators run"
                )
            ]
        return [BudgetCheck(key, float(limit), float(share), "passed" if share >= limit else "missed")]
    if key == "fidelity":
        if artifact.fidelity is None:
            return [BudgetCheck(key, 1.0, None, "open", "not verified")]
        reasons = "; ".join(artifact.fidelity.reasons)
        return [
            BudgetCheck(
                key, 1.0, float(artifact.fidelity.passed), "passed" if artifact.fidelity.passed else "missed", reasons
            )
        ]
    return [_measured(key, float(limit), measured)]


def _counted(what: str, limit: float, found: float | None) -> BudgetCheck:
    if found is None:
        return BudgetCheck(what, float(limit), None, "open", "could not be counted")
    return BudgetCheck(what, float(limit), float(found), "passed" if found <= limit else "missed")


def _measured(key: str, limit: float, measured: Measurement | None) -> BudgetCheck:
    if measured is None:
        return BudgetCheck(key, limit, None, "open", "not measured")
    rounds = measured.samples.rounds
    if key == "peak_mib":
        peak = max(one.peak_rss_bytes for one in rounds) / 2**20
        return BudgetCheck("peak MiB", limit, peak, "passed" if peak <= limit else "missed")
    what, p = ("p50 ms", 0.5) if key == "latency_ms" else ("p90 ms", 0.9)
    known = estimate([one.samples_ns for one in rounds], p)
    if known is None or known.interval is None:
        return BudgetCheck(what, limit, None, "open", "too few rounds for an interval")
    low, high = known.interval[0] / 1e6, known.interval[1] / 1e6
    status = "passed" if high <= limit else "missed" if low > limit else "open"
    return BudgetCheck(what, limit, known.value / 1e6, status, f"interval {low:.3f} to {high:.3f} ms")
