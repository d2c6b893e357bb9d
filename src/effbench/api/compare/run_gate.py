"""The gate: did this change make a model slower? The base is a git ref or files, the candidate the working tree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from effbench.api.compare import budgets
from effbench.api.compare.baseline import (
    NOTE,
    baseline_artifacts,
    baseline_measurements,
    holds_measurements,
    judge_measurements,
    newest_of,
)
from effbench.api.compare.gate_plan import GatePlan, TreeExport, gate_plan
from effbench.api.compare.pairs import Pair, name_of
from effbench.api.compare.request import GateRequest
from effbench.api.compare.run import compare_pairs, comparison_report, with_explanations, with_latency
from effbench.api.compare.weights import share_weights
from effbench.api.compare.worktree import export_tree, git, refuse_tracked, top_of, worktree
from effbench.api.keywords import from_fields
from effbench.api.remote import Remote, device_of
from effbench.deploy.artifact import bundle
from effbench.errors import DataError, EffbenchError, UsageError
from effbench.schema import Artifact, Cell, Measurement
from effbench.statistics.verdict import FAILED, INCONCLUSIVE, ComparisonReport, Verdict

NEW = "new"
"""The outcome of a model that the base does not have; its budgets are checked all the same."""


@from_fields(GateRequest)
def gate(request: GateRequest) -> ComparisonReport:
    """Compare the working tree with a base, model by model, and hold its figures to the budgets of ``effbench.toml``.

    Arguments are the fields of `GateRequest`.

    Raises:
        UsageError: An argument or a key of the suite is invalid, or not exactly one of base and baseline is given.
        EffbenchError: A factory's file lies outside its tree.
    """
    plan = gate_plan(request)
    for line in plan.policy.changes:
        plan.notify(f"policy: {line}")
    with plan.policy.in_force():
        if plan.base is not None:
            result = _against_git(plan, plan.base)
        else:
            result = _against_files(plan, Path(str(plan.baseline)))
    sides = (plan.base or str(plan.baseline), "working tree")
    report = comparison_report(sides, result.verdicts, plan.rules, plan.settings, plan.inconclusive, result.machine)
    return replace(report, interrupted=result.interrupted, policy_changes=plan.policy.changes)


class _Sides(NamedTuple):
    """One model: what either tree exported, or the error that stopped its export."""

    model: str
    base: Sequence[Cell | Artifact] | EffbenchError
    candidate: Sequence[Cell] | EffbenchError


class _Settled(NamedTuple):
    """A verdict that needs no rounds, and the artifact that budgets apply to."""

    verdict: Verdict
    artifact: Artifact | None = None


class _Result(NamedTuple):
    """The verdicts, whether the user interrupted, and the machine that measured; None is this one."""

    verdicts: list[Verdict]
    interrupted: bool = False
    machine: dict[str, Any] | None = None


def _against_git(plan: GatePlan, base: str) -> _Result:
    top = top_of(plan.folder)
    subfolder = plan.folder.relative_to(top.resolve())
    refuse_tracked(plan.home, top)
    with worktree(base, top) as tree:
        plan.notify(f"base {base} is {git('rev-parse', '--short', 'HEAD', cwd=tree)}")
        plan = replace(plan, exports=_with_images_of(plan.exports, top, tree))
        sides = [
            _Sides(model, _exported(plan, tree, model, subfolder, top), _exported(plan, top, model, subfolder))
            for model in plan.models
        ]
    return _decide(plan, sides)


def _with_images_of(exports: TreeExport, top: Path, tree: Path) -> TreeExport:
    """Calibrate both sides with the base's images, if the repository holds them: the change could bring easier ones."""
    if exports.images is None or not Path(exports.images).is_relative_to(top.resolve()):
        return exports
    images = tree / Path(exports.images).relative_to(top.resolve())
    return replace(exports, images=str(images)) if images.is_dir() else exports


def _against_files(plan: GatePlan, path: Path) -> _Result:
    try:
        root = top_of(plan.folder)
    except UsageError:
        root = plan.folder
    subfolder = plan.folder.relative_to(root.resolve())
    candidates = [(model, _exported(plan, root, model, subfolder)) for model in plan.models]
    if holds_measurements(path):
        measurements = baseline_measurements(path)
        judged = [_against_measurements(plan, model, candidate, measurements) for model, candidate in candidates]
        with Remote(device_of(plan.device)) as remote:
            machine = None if remote.local else remote.observe()
        return _Result([verdict for verdicts in judged for verdict in verdicts], machine=machine)
    artifacts = baseline_artifacts(path)
    return _decide(plan, [_Sides(model, artifacts, candidate) for model, candidate in candidates])


def _exported(
    plan: GatePlan, root: Path, model: str, subfolder: Path, other: Path | None = None
) -> Sequence[Cell] | EffbenchError:
    """Export one model of one tree; an error is returned, because its meaning depends on the other side."""
    plan.notify(f"export {model} from {root}")
    try:
        job = plan.exports.job(model)
        return export_tree(
            root, job, plan.home, plan.notify, subfolder=subfolder, module_folders=plan.path, other=other
        )
    except (UsageError, DataError) as error:
        return error


def _decide(plan: GatePlan, sides: Sequence[_Sides]) -> _Result:
    pairs: list[Pair] = []
    settled: list[_Settled] = []
    for model, base, candidate in sides:
        if isinstance(candidate, EffbenchError):
            settled.append(_Settled(_failed(model, candidate.message, candidate.hint or "")))
            continue
        for cell in candidate:
            decision = _paired(plan, cell, [] if isinstance(base, EffbenchError) else base)
            if isinstance(decision, Pair):
                pairs.append(decision)
            else:
                settled.append(decision)
    with Remote(device_of(plan.device), plan.record) as remote:
        verdicts, interrupted = compare_pairs(
            pairs, plan.settings, plan.rules, plan.notify, remote, always_time=plan.always_time, force=plan.force
        )
        machine = None if remote.local or not any(item.rounds for item in verdicts) else remote.observe()
    if remote.local:  # layers are timed on this machine
        verdicts = with_explanations(verdicts, pairs, plan.settings, plan.notify)
    artifacts = [pair.b for pair in pairs]
    if plan.latency:
        conditions = {"threads": plan.settings.threads, "device": plan.device, "force": plan.force}
        verdicts = with_latency(verdicts, artifacts, conditions, plan.home, plan.notify)
    decided = [*map(_Settled, verdicts, artifacts), *settled]
    return _Result([_with_budgets(plan, *item) for item in decided], interrupted, machine)


def _paired(plan: GatePlan, cell: Cell, base: Sequence[Cell | Artifact]) -> Pair | _Settled:
    """Return the candidate of a cell with its base, or the verdict where there is no pair to measure."""
    if not cell.has_artifact:
        return _Settled(_failed(_name(cell), f"candidate: {cell.reason}", cell.next_step, cell.exit_code or 5))
    candidate = bundle.load(Path(cell.artifact))
    partner = next((item for item in map(_artifact, base) if item and _same_cell(item, candidate)), None)
    if partner is None:
        name = name_of(candidate, candidate)
        failed = next((item for item in base if isinstance(item, Cell) and _fails_for(item, candidate)), None)
        if failed is not None:
            return _Settled(_failed(name, f"base: {failed.reason}", failed.next_step))
        return _Settled(Verdict(name, NEW, reason="the base has no such model", b_digest=candidate.digest), candidate)
    if partner.digest != candidate.digest and _draws_weights(candidate) and plan.exports.weights is None:
        candidate = share_weights(partner, candidate, plan.home)
    return Pair(name_of(partner, candidate), partner, candidate)


def _against_measurements(
    plan: GatePlan, model: str, candidate: Sequence[Cell] | EffbenchError, measurements: Sequence[Measurement]
) -> list[Verdict]:
    if isinstance(candidate, EffbenchError):
        return [_failed(model, candidate.message, candidate.hint or "")]
    verdicts = []
    for cell in candidate:
        if not cell.has_artifact:
            verdicts.append(_failed(_name(cell), cell.reason, cell.next_step, cell.exit_code or 5))
            continue
        artifact = bundle.load(Path(cell.artifact))
        verdict = _against_measurement(plan, artifact, newest_of(artifact, measurements))
        verdicts.append(_with_budgets(plan, verdict, artifact))
    return verdicts


def _against_measurement(plan: GatePlan, artifact: Artifact, old: Measurement | None) -> Verdict:
    blank = Verdict(name_of(artifact, artifact), INCONCLUSIVE, b_digest=artifact.digest, notes=(NOTE,))
    if old is None:
        return replace(blank, reason="the baseline has no measurement of this model, resolution, target and precision")
    new, reason, exit_code = _measured(plan, artifact, plan.settings.budget_s)
    if new is None:
        return replace(blank, outcome=FAILED, reason=reason, exit_code=exit_code)
    return judge_measurements(blank, old, new, plan.rules)


def _with_budgets(plan: GatePlan, verdict: Verdict, artifact: Artifact | None) -> Verdict:
    """Return a verdict with the checks of the budgets that are for its artifact."""
    if artifact is None:
        return verdict
    matching = [budget for budget in plan.budgets if budget.matches(artifact, plan.device)]
    if not matching:
        return verdict
    from effbench.api.compare.explanation import source_onnx_path
    from effbench.api.profile.request import BUDGET_S
    from effbench.deploy.graph import onnx_file

    measured = None
    if any(budget.needs_measuring for budget in matching):
        measured, _, _ = _measured(plan, artifact, BUDGET_S)
    operators: dict[str, int] = {}
    graph = source_onnx_path(artifact)
    if graph is not None and any("operators" in budget.limits for budget in matching):
        operators = onnx_file.operators(onnx_file.load(graph))
    return replace(verdict, budgets=budgets.check(matching, artifact, operators, measured, plan.device))


def _measured(plan: GatePlan, artifact: Artifact, budget_s: float) -> tuple[Measurement | None, str, int]:
    """Return the candidate's measurement, or None with the reason and the exit code."""
    from effbench.api.profile.run import profile

    result = profile(
        [str(artifact.folder)],
        threads=plan.settings.threads,
        device=plan.device,
        force=plan.force,
        budget_s=budget_s,
        out=plan.home,
        notify=plan.notify,
    )
    if result.measurements:
        return result.measurements[0], "", 0
    return None, result.cells[0].reason, result.cells[0].exit_code


def _artifact(item: Cell | Artifact) -> Artifact | None:
    if isinstance(item, Artifact):
        return item
    if not item.has_artifact:
        return None
    artifact = bundle.load(Path(item.artifact))
    if item.digest and artifact.digest != item.digest:
        # The other tree's code ran since then, and could have written another artifact in its place.
        raise DataError(f"{artifact.folder} is not the artifact that was exported for this gate.")
    return artifact


def _draws_weights(artifact: Artifact) -> bool:
    """Return whether a factory made the weights, which the other side can share; a torch program keeps its own."""
    return artifact.subject.weights.kind != "file" and artifact.subject.target != "torch"


def _fails_for(cell: Cell, artifact: Artifact) -> bool:
    """Return whether a cell is that of an artifact and failed."""
    subject = artifact.subject
    return not cell.has_artifact and (cell.shapes, cell.target, cell.precision) == (
        subject.shapes,
        subject.target,
        subject.storage_precision,
    )


def _same_cell(a: Artifact, b: Artifact) -> bool:
    left, right = a.subject, b.subject
    return (left.model, left.resolution, left.batch, left.target, left.storage_precision) == (
        right.model,
        right.resolution,
        right.batch,
        right.target,
        right.storage_precision,
    )


def _name(cell: Cell) -> str:
    return f"{cell.model} {cell.shapes.label} {cell.precision} {cell.target}"


def _failed(name: str, reason: str, next_step: str, exit_code: int = 5) -> Verdict:
    return Verdict(name, FAILED, reason=reason, next_step=next_step, exit_code=exit_code)
