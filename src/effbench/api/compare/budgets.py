"""``effbench.toml``: the suite that `gate` and `sweep` share, and the budgets that a gate holds figures to."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from effbench import reading
from effbench.errors import DataError, UsageError, unknown_name
from effbench.schema import Artifact, InputShapes, Measurement
from effbench.statistics.percentiles import estimate, typical
from effbench.statistics.verdict import BudgetCheck

SUITE_KEYS: Mapping[str, type] = {
    "models": list,
    "targets": list,
    "resolutions": list,
    "precisions": list,
    "devices": list,
    "threads": int,
    "batch": int,
    "seed": int,
    "images": str,
    "allow_fallback": bool,
}
"""The keys of ``[suite]``; `gate` and `sweep` take all of them."""

GATE_KEYS: Mapping[str, type] = {
    "base": str,
    "floor_pct": float,
    "margin_pct": float,
    "fail_above_pct": float,
    "processes": int,
    "budget_s": float,
    "inconclusive": str,
    "false_alarms": float,
    "always_time": bool,
    "path": list,
}
FILES = ("effbench.toml", "pyproject.toml")
"""Where a suite stands; in the second as ``[tool.effbench]``."""
TABLES = "Write [suite], [gate] and [devices.NAME], and [[budget]] once for each budget."
SELECTORS = ("model", "target", "device", "resolution", "precision")
MEASURED = ("latency_ms", "p90_ms", "peak_mib")
COUNTED = ("size_mib", "macs", "params", "operators", "accelerator_share")

TYPE_NAMES = {list: "an array", int: "a whole number", float: "a number", str: "a string", bool: "true or false"}


@dataclass(frozen=True)
class Budget:
    """Limits for the artifacts that its selectors match; without a selector it is for all artifacts."""

    selectors: dict[str, Any]
    limits: dict[str, Any]

    def matches(self, artifact: Artifact, device: str) -> bool:
        """Return whether this budget is for that artifact on that device."""
        subject = artifact.subject
        names = {
            "model": subject.model,
            "target": subject.target,
            "device": device,
            "precision": subject.storage_precision,
        }
        size = self.selectors.get("resolution")
        return all(self.selectors.get(key, value) == value for key, value in names.items()) and (
            size is None or InputShapes.parse(size) == subject.shapes
        )

    @property
    def needs_measuring(self) -> bool:
        """Whether it limits a figure that only a measurement gives."""
        return any(key in self.limits for key in MEASURED)


@dataclass(frozen=True)
class Suite:
    """The content of ``effbench.toml`` (or ``[tool.effbench]``); flags win over it."""

    path: Path | None = None
    suite: dict[str, Any] = field(default_factory=dict)
    gate: dict[str, Any] = field(default_factory=dict)
    budgets: tuple[Budget, ...] = ()
    devices: dict[str, Any] = field(default_factory=dict)
    """The table ``[devices]``, which `profiles.devices` reads."""
    model: dict[str, Any] = field(default_factory=dict)
    """The table ``[model]``, which `api.export.declarations` reads."""

    @property
    def device_names(self) -> list[str]:
        """The devices of the suite; one string may name several, separated by commas."""
        return [name for text in self.suite.get("devices", ()) for name in str(text).split(",") if name]


def read_suite(folder: Path) -> Suite:
    """Read the suite of a folder: ``effbench.toml``, else ``[tool.effbench]`` of its pyproject.toml, else an empty one.

    Raises:
        DataError: The file is not TOML.
        UsageError: A key is unknown, or its value has the wrong type.
    """
    for name in FILES:
        path = folder / name
        if path.is_file() and (suite := _of_document(path, reading.toml_file(path))) is not None:
            return suite
    return Suite()


def parse(path: Path, content: bytes) -> Suite | None:
    """Return the suite in the content of an ``effbench.toml`` or a ``pyproject.toml``, or None if it holds none.

    Errors as in `read_suite`.
    """
    return _of_document(path, reading.toml_value(content, path))


def _of_document(path: Path, data: dict[str, Any]) -> Suite | None:
    if path.name == FILES[1]:
        tool = data.get("tool", {})
        data = tool.get("effbench", {}) if isinstance(tool, dict) else {}
    if not isinstance(data, dict):
        raise UsageError(f"{path}: tool.effbench is no table.", hint=TABLES)
    return _suite(path, data) if data else None


def read_suite_file(path: Path) -> Suite:
    """Read the suite in a file, which must exist; errors as in `read_suite`."""
    if not path.is_file():
        raise DataError(f"{path}: no such file.")
    return _suite(path, reading.toml_file(path))


def _suite(path: Path, data: dict[str, Any]) -> Suite:
    # devices are read by profiles.devices, model by api.export.declarations
    tables = ("suite", "gate", "budget", "devices", "model")
    for key in data:
        if key not in tables:
            raise unknown_name(key, tables, f"table in {path}:")
    for name, kind in (("suite", dict), ("gate", dict), ("budget", list), ("devices", dict), ("model", dict)):
        if not isinstance(data.get(name, kind()), kind):
            raise UsageError(f"{path}: {name} = {str(data[name])[:60]} is no table.", hint=TABLES)
    budgets = data.get("budget", [])
    if not all(isinstance(item, dict) for item in budgets):
        raise UsageError(f"{path}: budget holds something that is no table.", hint=TABLES)
    for name, keys in (("suite", SUITE_KEYS), ("gate", GATE_KEYS)):
        _check_keys(path, name, data.get(name, {}), keys)
        for key, value in data.get(name, {}).items():
            _check_type(f"{path}: [{name}] {key}", value, keys[key])
    for budget in budgets:
        _check_keys(path, "budget", budget, (*SELECTORS, *MEASURED, *COUNTED, "fidelity"))
    return Suite(
        path,
        data.get("suite", {}),
        data.get("gate", {}),
        tuple(
            Budget(
                {key: value for key, value in budget.items() if key in SELECTORS},
                {key: value for key, value in budget.items() if key not in SELECTORS},
            )
            for budget in budgets
        ),
        data.get("devices", {}),
        data.get("model", {}),
    )


def check_device_names(suite: Suite) -> None:
    """Refuse a suite that names a file as a device: the file could name a command, and nobody has allowed it.

    Raises:
        UsageError: It names the file.
    """
    for name in suite.device_names:
        if name.endswith(".toml"):
            hint = "Declare it as [devices.NAME], or give --device FILE."
            raise UsageError(f"{suite.path}: [suite] devices names the file '{name}'.", hint=hint)


def _check_keys(path: Path, table: str, keys: Iterable[str], valid: Collection[str]) -> None:
    for key in keys:
        if key not in valid:
            raise unknown_name(key, valid, f"key of [{table}] in {path}:")


def _check_type(key: str, value: Any, expected: type) -> None:
    accepted = (int, float) if expected is float else expected
    if not isinstance(value, accepted) or (isinstance(value, bool) and expected is not bool):
        raise UsageError(f"{key} = {value!r} is not {TYPE_NAMES[expected]}.")


def check(
    budgets: Sequence[Budget], artifact: Artifact, operators: dict[str, int], measured: Measurement | None, device: str
) -> tuple[BudgetCheck, ...]:
    """Check an artifact against every budget for it: counted figures exactly, measured ones by their interval."""
    return tuple(
        result
        for budget in budgets
        if budget.matches(artifact, device)
        for key, limit in budget.limits.items()
        for result in _checks(key, limit, artifact, operators, measured)
    )


def _checks(
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
            note = f"target {subject.target} does not report where operators run"
            return [BudgetCheck(key, float(limit), None, "open", note)]
        return [BudgetCheck(key, float(limit), float(share), "passed" if share >= limit else "missed")]
    if key == "fidelity":
        fidelity = artifact.fidelity
        if fidelity is None:
            return [BudgetCheck(key, 1.0, None, "open", "not verified")]
        if fidelity.unverifiable:
            return [BudgetCheck(key, 1.0, None, "open", fidelity.unverifiable)]
        status = "passed" if fidelity.passed else "missed"
        return [BudgetCheck(key, 1.0, float(fidelity.passed), status, "; ".join(fidelity.reasons))]
    return [_measured(key, float(limit), measured)]


def _counted(quantity: str, limit: float, count: float | None) -> BudgetCheck:
    if count is None:
        return BudgetCheck(quantity, float(limit), None, "open", "could not be counted")
    return BudgetCheck(quantity, float(limit), float(count), "passed" if count <= limit else "missed")


def _measured(key: str, limit: float, measured: Measurement | None) -> BudgetCheck:
    if measured is None:
        return BudgetCheck(key, limit, None, "open", "not measured")
    rounds = measured.samples.rounds
    if key == "peak_mib":
        peak = max(item.peak_rss_bytes for item in rounds) / 2**20
        return BudgetCheck("peak MiB", limit, peak, "passed" if peak <= limit else "missed")
    series = [item.samples_ns for item in rounds]
    quantity, latency = ("p50 ms", estimate(series, 0.5)) if key == "latency_ms" else ("p90 ms", typical(series, 0.9))
    if latency is None or latency.interval is None:
        return BudgetCheck(quantity, limit, None, "open", "too few rounds for an interval")
    low, high = latency.interval[0] / 1e6, latency.interval[1] / 1e6
    status = "passed" if high <= limit else "missed" if low > limit else "open"
    return BudgetCheck(quantity, limit, latency.value / 1e6, status, f"interval {low:.3f} to {_edge(high)}")


def _edge(high_ms: float) -> str:
    return "an open end" if math.isinf(high_ms) else f"{high_ms:.3f} ms"
