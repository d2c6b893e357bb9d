"""The plan of one gate: its arguments, ``effbench.toml`` and the defaults combined; an argument wins over the file."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from effbench.api.compare import noise
from effbench.api.compare.budgets import Budget, Suite, read_suite
from effbench.api.compare.noise import MachineNoise
from effbench.api.compare.pairs import TARGET
from effbench.api.compare.policy import Policy, policy_of
from effbench.api.compare.request import (
    BUDGET_S,
    GateRequest,
    check_inconclusive,
    check_positive,
)
from effbench.api.compare.rounds import RoundSettings
from effbench.api.compare.run import round_settings
from effbench.api.export.request import check_precisions
from effbench.api.export.stage import Notify
from effbench.api.remote import device_of
from effbench.deploy.precision.calibration import SYNTHETIC
from effbench.errors import DataError, UsageError
from effbench.schema import CALIBRATED, InputShapes
from effbench.statistics.sequential import Rules
from effbench.store import home as home_of

Value = TypeVar("Value")
REFERENCE = "torch"
"""The target whose artifacts are weights alone: the code comes from wherever it runs."""


@dataclass(frozen=True)
class TreeExport:
    """What is exported from either tree; ``precisions`` is empty where each target takes its default."""

    targets: tuple[str, ...]
    resolutions: tuple[str, ...]
    precisions: tuple[str, ...]
    batch: int | None
    seed: int
    weights: str | None
    images: str | None
    allow_fallback: bool
    verify: bool
    declared: dict[str, Any]

    def job(self, model: str) -> dict[str, Any]:
        """Return the job that exports one model of a tree."""
        return {**asdict(self), "models": [model]}


@dataclass(frozen=True)
class GatePlan:
    """One gate: the models and how they are exported, the base or the baseline, and how both sides are measured."""

    models: tuple[str, ...]
    exports: TreeExport
    base: str | None
    baseline: Path | None
    device: str
    rules: Rules
    settings: RoundSettings
    inconclusive: str
    budgets: tuple[Budget, ...]
    latency: bool
    always_time: bool
    path: tuple[str, ...]
    folder: Path
    record: Path | None
    force: bool
    home: Path
    notify: Notify
    policy: Policy


def gate_plan(request: GateRequest) -> GatePlan:
    """Combine a request with the suite of its base (`policy`), else with that of its folder.

    Raises:
        UsageError: No model is named, not exactly one of base and baseline is given, or a key of the suite is
            invalid for a gate.
        DataError: The suite cannot be read.
    """
    folder = Path(request.folder).resolve()
    own = read_suite(folder)
    base = _base(request, own)
    policy = policy_of(folder, base, own)
    suite = policy.suite
    device = _device(request.device, suite)
    with policy.in_force():
        local = device_of(device).transport == "local"
    if request.base_python is not None and not local:
        raise UsageError("--base-python is an interpreter of this machine.", hint=f"Leave --device {device} out.")
    models = _models(request, suite)
    inconclusive = _first(request.inconclusive, suite.gate.get("inconclusive"), "code")
    check_inconclusive(inconclusive)
    exports = _tree_export(request, suite, folder)
    home = home_of(request.out)
    threads = _first(request.threads, suite.suite.get("threads"), 1)
    machine_noise = noise.load(home, threads) if local else None  # it is that of this machine
    return GatePlan(
        models=models,
        exports=exports,
        base=base,
        baseline=None if request.baseline is None else Path(request.baseline),
        device=device,
        rules=noise.raise_floor(request.rules or rules_of(suite), machine_noise.bias_pct if machine_noise else 0.0),
        settings=_settings(request, suite, machine_noise, threads, exports.batch),
        inconclusive=inconclusive,
        budgets=suite.budgets,
        latency=request.latency,
        always_time=bool(_first(request.always_time, suite.gate.get("always_time"), False)),
        path=tuple(request.path) or tuple(suite.gate.get("path", ())),
        folder=folder,
        record=Path(request.record) if request.record else None,
        force=request.force,
        home=home,
        notify=request.notify,
        policy=policy,
    )


def _base(request: GateRequest, own: Suite) -> str | None:
    """Return the git ref to compare with; None for a stored baseline."""
    base = request.base if request.baseline is not None else _first(request.base, own.gate.get("base"))
    if (base is None) == (request.baseline is None):
        raise UsageError("A gate needs a base.", hint="Give --base REF (a git ref) or --baseline PATH, one of them.")
    return base


def _models(request: GateRequest, suite: Suite) -> tuple[str, ...]:
    models = tuple(request.models) or tuple(suite.suite.get("models", ()))
    if not models:
        raise UsageError(
            "No model is named.",
            hint='Name one (package.module:factory), or write [suite] models = ["..."] in effbench.toml.',
        )
    return models


def _settings(
    request: GateRequest, suite: Suite, machine_noise: MachineNoise | None, threads: int, batch: int | None
) -> RoundSettings:
    budget_s = float(_first(request.budget_s, suite.gate.get("budget_s"), BUDGET_S))
    check_positive(budget=budget_s, threads=threads, batch=batch)
    settings = round_settings(
        machine_noise,
        threads,
        batch=batch,
        budget_s=budget_s,
        workers=request.workers,
        base_python=request.base_python,
        seed=request.order_seed,
    )
    return replace(settings, plan_only=request.plan)


def rules_of(suite: Suite) -> Rules:
    """Return the rules of a suite file, with defaults for the rest."""
    names = ("floor_pct", "margin_pct", "fail_above_pct", "false_alarms", "processes")
    return Rules(**{name: suite.gate[name] for name in names if name in suite.gate})


def _first(*values: Value | None) -> Any:
    """Return the first value that is not None, or None."""
    return next((value for value in values if value is not None), None)


def _device(name: str | None, suite: Suite) -> str:
    """Return the device that both sides run on: the argument, else the only one of the suite, else this machine."""
    if name is not None:
        return name
    names = suite.device_names
    if len(names) > 1:
        raise UsageError(
            f"{suite.path}: [suite] devices lists {len(names)} devices, and a gate runs on one.",
            hint=f"Give --device, one of {', '.join(names)}; `effbench sweep` measures on all.",
        )
    return names[0] if names else "local"


def _tree_export(request: GateRequest, suite: Suite, folder: Path) -> TreeExport:
    keys = suite.suite
    sizes = list(request.resolutions or keys.get("resolutions", ()))
    precisions = tuple(request.precisions or keys.get("precisions", ()))
    check_precisions(precisions)
    images = _images(_first(request.images, keys.get("images")), folder)
    calibrated = [name for name in precisions if name in CALIBRATED]
    if calibrated and images is None:
        raise UsageError(
            f"{' and '.join(calibrated)}: needs images to calibrate with.",
            hint="Give --images FOLDER, or images in [suite]; both sides are calibrated with the same ones.",
        )
    targets = tuple(request.targets or keys.get("targets", (TARGET,)))
    if REFERENCE in targets:
        raise UsageError(
            f"Target '{REFERENCE}' runs the module of the current folder, so that both sides would run the same code.",
            hint="Gate a target that is exported, such as ort.",
        )
    return TreeExport(
        targets=targets,
        resolutions=tuple(str(InputShapes.parse(size)) for size in sizes),
        precisions=precisions,
        batch=_first(request.batch, keys.get("batch"), None),
        seed=_first(request.seed, keys.get("seed"), 0),
        weights=str(Path(request.weights).resolve()) if request.weights else None,
        images=images,
        allow_fallback=bool(_first(request.allow_fallback, keys.get("allow_fallback"), False)),
        verify=any("fidelity" in budget.limits for budget in suite.budgets),
        declared=suite.model,
    )


def _images(images: str | Path | None, folder: Path) -> str | None:
    """Return the absolute folder of calibration images, so that both trees read the same one.

    Raises:
        DataError: There is no such folder.
    """
    if images is None or str(images) == SYNTHETIC:
        return None if images is None else SYNTHETIC
    path = (folder / images).resolve()
    if not path.is_dir():
        raise DataError(f"{path}: no such folder of images.")
    return str(path)
