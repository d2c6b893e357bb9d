"""The gate: did this change make a model slower? The base from git or from stored files, the candidate from here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from effbench.api.compare import budgets, noise
from effbench.api.compare.baseline import against_stored, is_stored, read_stored, stored_artifacts
from effbench.api.compare.rounds import RoundSettings
from effbench.api.compare.run import TARGET, Pair, contest, explain, name_of, report, setting_of, with_latency
from effbench.api.compare.weights import share_weights
from effbench.api.compare.worktree import Exported, export_tree, git, top_of, worktree
from effbench.api.export.run import Notify, silent
from effbench.api.remote import Remote, device_of
from effbench.deploy.artifact import bundle
from effbench.errors import DataError, EffbenchError, UsageError
from effbench.schema import Artifact, Measurement, parse_resolution, resolution_text
from effbench.statistics.sequential import Rules
from effbench.statistics.verdict import FAILED, WHEN_INCONCLUSIVE, ComparisonReport, Verdict
from effbench.store import home as home_of

NEW = "new"
"""The outcome of a model that the base does not have: nothing to compare, its budgets still count."""


@dataclass(frozen=True)
class Asked:
    """What one gate is about, after flags, ``effbench.toml`` and defaults were put together."""

    models: tuple[str, ...]
    targets: tuple[str, ...]
    resolutions: tuple[str, ...]
    batch: int
    threads: int
    seed: int
    weights: str | None
    device: str
    verify: bool
    path: tuple[str, ...]
    home: Path
    notify: Notify

    def job(self, model: str) -> dict[str, Any]:
        """Return what a tree has to export of one model."""
        return {
            "models": [model],
            "targets": self.targets,
            "resolutions": self.resolutions,
            "batch": self.batch,
            "seed": self.seed,
            "weights": self.weights,
            "verify": self.verify,
        }


def gate(
    models: Sequence[str] = (),
    *,
    base: str | None = None,
    baseline: str | None = None,
    resolutions: Sequence[str | int] = (),
    targets: Sequence[str] = (),
    threads: int | None = None,
    batch: int | None = None,
    device: str = "local",
    budget_s: float | None = None,
    rules: Rules | None = None,
    workers: int | None = None,
    base_python: str | None = None,
    latency: bool = False,
    inconclusive: str | None = None,
    weights: str | None = None,
    seed: int = 0,
    order_seed: int | None = None,
    path: Sequence[str] = (),
    record: str | Path | None = None,
    folder: str | Path = ".",
    out: str | Path | None = None,
    notify: Notify = silent,
) -> ComparisonReport:
    """Compare the working tree with a base, model by model, and hold its figures to the budgets of ``effbench.toml``.

    Args:
        models: ``package.module:factory``, .onnx files of the tree, or registered names; none means the suite's.
        base: A git ref; exported from a worktree of its own.
        baseline: Artifacts (a folder of one, or of many) or stored measurements instead.
        resolutions: Pixels; none means the suite's, or 224.
        targets: None means the suite's, or ``ort``.
        threads: Intra-operator threads of the runtime.
        batch: Images per inference.
        device: Where both sides run: here, or in pairs inside one agent there. Models are exported on this machine.
        budget_s: Wall-clock seconds per comparison.
        rules: Floor, margin, chance of a false alarm; None takes the suite's.
        workers: As in `compare`.
        base_python: Run the base under this interpreter.
        latency: Also measure the candidate's latency, in runs of its own; budgets on latency imply it.
        inconclusive: ``code`` (exit 3), ``pass`` or ``fail``.
        weights: A .safetensors file for both sides.
        seed: Of untrained weights.
        order_seed: Of the order of sides; None draws one.
        path: Further folders of the tree that hold modules, beside ``src`` and the tree itself.
        record: Write the exchange with the device to this file.
        folder: Where the user stands.
        out: The folder to write below.
        notify: Called with one line per step.

    Raises:
        UsageError: No model is named anywhere, or not exactly one of base and baseline.
        EffbenchError: A factory's file lies outside its tree.
    """
    here = Path(folder).resolve()
    suite = budgets.read_suite(here)
    if base is None and baseline is None:
        base = suite.get("base", None)
    if (base is None) == (baseline is None):
        raise UsageError("A gate needs a base.", hint="Give --base REF (a git ref) or --baseline PATH, one of them.")
    used = device_of(device)
    if base_python is not None and used.transport != "local":
        raise UsageError("--base-python is an interpreter of this machine.", hint=f"Leave --device {device} out.")
    asked = _asked(
        models, resolutions, targets, threads, batch, seed, weights, device, path, suite, home_of(out), notify
    )
    when = inconclusive or suite.get("inconclusive", "code")
    if when not in WHEN_INCONCLUSIVE:
        raise UsageError(f"--inconclusive {when}: code, pass or fail is meant.")
    known = noise.load(asked.home, asked.threads) if used.transport == "local" else None  # of this machine
    rules = noise.raise_floor(rules or rules_of(suite), known.layout_noise_pct if known else 0.0)
    seconds = float(budget_s or suite.get("budget_s", 60.0))
    setting = setting_of(known, asked.threads, asked.batch, seconds, workers, base_python, order_seed)
    flow = _Flow(asked, setting, rules, suite, latency, here, Path(record) if record else None)
    verdicts, interrupted = flow.from_git(base) if base is not None else flow.from_files(Path(str(baseline)))
    return report(base or str(baseline), "working tree", verdicts, rules, setting, when, interrupted)


def rules_of(suite: budgets.Suite) -> Rules:
    """Return the rules that a suite file names, defaults for the rest."""
    names = ("floor_pct", "margin_pct", "fail_above_pct", "false_alarms")
    return Rules(**{name: suite.gate[name] for name in names if name in suite.gate})


def _asked(
    models: Sequence[str],
    resolutions: Sequence[str | int],
    targets: Sequence[str],
    threads: int | None,
    batch: int | None,
    seed: int,
    weights: str | None,
    device: str,
    path: Sequence[str],
    suite: budgets.Suite,
    home: Path,
    notify: Notify,
) -> Asked:
    names = tuple(models) or tuple(suite.get("models", ()))
    if not names:
        raise UsageError(
            "No model is named.",
            hint='Name one (package.module:factory), or write [suite] models = ["..."] in effbench.toml.',
        )
    sizes = [str(size) for size in (resolutions or suite.get("resolutions", (224,)))]
    return Asked(
        models=names,
        targets=tuple(targets) or tuple(suite.get("targets", (TARGET,))),
        resolutions=tuple(resolution_text(parse_resolution(size)) for size in sizes),
        batch=batch or int(suite.get("batch", 1)),
        threads=threads or int(suite.get("threads", 1)),
        seed=seed,
        weights=str(Path(weights).resolve()) if weights else None,
        device=device,
        verify=any("fidelity" in budget.limits for budget in suite.budgets),
        path=tuple(path) or tuple(suite.get("path", ())),
        home=home,
        notify=notify,
    )


@dataclass(frozen=True)
class _Flow:
    """One run of the gate."""

    asked: Asked
    setting: RoundSettings
    rules: Rules
    suite: budgets.Suite
    latency: bool
    here: Path
    record: Path | None

    def from_git(self, base: str) -> tuple[list[Verdict], bool]:
        top = top_of(self.here)
        below = self.here.relative_to(top.resolve())
        with worktree(base, top) as tree:
            self.asked.notify(f"base {base} is {git('rev-parse', '--short', 'HEAD', cwd=tree)}")
            sides = [
                (model, self._side(tree, model, below), self._side(top, model, below)) for model in self.asked.models
            ]
        return self._decide(sides)

    def from_files(self, path: Path) -> tuple[list[Verdict], bool]:
        try:
            root = top_of(self.here)
        except UsageError:
            root = self.here
        below = self.here.relative_to(root.resolve())
        made = [(model, self._side(root, model, below)) for model in self.asked.models]
        if is_stored(path):
            return self._stored(made, read_stored(path)), False
        known = stored_artifacts(path)
        return self._decide([(model, known, candidate) for model, candidate in made])

    def _side(self, root: Path, model: str, below: Path) -> list[Exported] | EffbenchError:
        """Export one model of one tree; what went wrong is returned, to be judged beside the other side."""
        self.asked.notify(f"export {model} from {root}")
        try:
            return export_tree(
                root, self.asked.job(model), self.asked.home, self.asked.notify, subfolder=below, extra=self.asked.path
            )
        except (UsageError, DataError) as error:
            return error

    def _decide(
        self,
        sides: Sequence[tuple[str, list[Exported] | list[Artifact] | EffbenchError, list[Exported] | EffbenchError]],
    ) -> tuple[list[Verdict], bool]:
        pairs: list[Pair] = []
        lonely: list[tuple[Verdict, Artifact | None]] = []
        for model, base, candidate in sides:
            if isinstance(candidate, EffbenchError):
                lonely.append((_failed(model, candidate.message, candidate.hint or "", 5), None))
                continue
            known = [] if isinstance(base, EffbenchError) else base
            for item in candidate:
                self._sort(model, item, known, pairs, lonely)
        with Remote(device_of(self.asked.device), self.record) as remote:
            verdicts, interrupted = contest(pairs, self.setting, self.rules, self.asked.notify, remote=remote)
        artifacts = [b for _, _, b in pairs]
        if remote.local:  # layers are timed on this machine
            verdicts = [
                explain(item, a, b, self.setting, self.asked.notify)
                for item, (_, a, b) in zip(verdicts, pairs, strict=True)
            ]
        if self.latency:
            asked = self.asked
            verdicts = with_latency(verdicts, artifacts, asked.threads, asked.device, asked.home, asked.notify)
        every = [*zip(verdicts, artifacts, strict=True), *lonely]
        return [self._bounded(item, artifact) for item, artifact in every], interrupted

    def _sort(
        self,
        model: str,
        item: Exported,
        known: Sequence[Exported] | Sequence[Artifact],
        pairs: list[Pair],
        lonely: list[tuple[Verdict, Artifact | None]],
    ) -> None:
        cell = item.cell
        if cell.status != "ok":
            code = 4 if cell.status == "unavailable" else 5
            lonely.append((_failed(model, f"candidate: {cell.reason}", cell.next_step, code), None))
            return
        candidate = bundle.load(Path(cell.artifact))
        partner = next((one for one in map(_artifact, known) if one and _same_cell(one, candidate)), None)
        if partner is None:
            failed = next((one.cell for one in known if isinstance(one, Exported) and one.cell.status != "ok"), None)
            name = name_of(candidate, candidate)
            if failed is not None:
                lonely.append((_failed(name, f"base: {failed.reason}", failed.next_step, 5), None))
            else:
                lonely.append(
                    (Verdict(name, NEW, reason="the base has no such model", b_digest=candidate.digest), candidate)
                )
            return
        if partner.digest != candidate.digest and "factory" in candidate.options and self.asked.weights is None:
            candidate = share_weights(partner, candidate, self.asked.home)
        pairs.append((name_of(partner, candidate), partner, candidate))

    def _stored(
        self, made: Sequence[tuple[str, list[Exported] | EffbenchError]], stored: Sequence[Measurement]
    ) -> list[Verdict]:
        verdicts = []
        for model, candidate in made:
            if isinstance(candidate, EffbenchError):
                verdicts.append(_failed(model, candidate.message, candidate.hint or "", 5))
                continue
            for item in candidate:
                if item.cell.status != "ok":
                    verdicts.append(_failed(model, item.cell.reason, item.cell.next_step, 5))
                    continue
                artifact = bundle.load(Path(item.cell.artifact))
                asked = self.asked
                found = against_stored(
                    artifact,
                    stored,
                    self.rules,
                    asked.threads,
                    asked.device,
                    asked.home,
                    self.setting.budget_s,
                    asked.notify,
                )
                verdicts.append(self._bounded(found, artifact))
        return verdicts

    def _bounded(self, item: Verdict, artifact: Artifact | None) -> Verdict:
        if artifact is None or not self.suite.budgets:
            return item
        from effbench.api.compare.why import source_onnx_path
        from effbench.deploy.graph import onnx_file

        mine = [budget for budget in self.suite.budgets if budget.matches(artifact, self.asked.device)]
        measured = None
        if any(budget.needs_measuring for budget in mine):
            measured = self._measured(artifact)
        operators: dict[str, int] = {}
        graph = source_onnx_path(artifact)
        if graph is not None and any("operators" in budget.limits for budget in mine):
            operators = onnx_file.operators(onnx_file.load(graph))
        return replace(item, budgets=budgets.check(mine, artifact, operators, measured, self.asked.device))

    def _measured(self, artifact: Artifact) -> Measurement | None:
        from effbench.api.profile.run import profile

        asked = self.asked
        made = profile(
            [str(artifact.folder)], threads=asked.threads, device=asked.device, out=asked.home, notify=asked.notify
        )
        return made.measurements[0] if made.measurements else None


def _artifact(item: Exported | Artifact) -> Artifact | None:
    if isinstance(item, Artifact):
        return item
    return bundle.load(Path(item.cell.artifact)) if item.cell.status == "ok" else None


def _same_cell(a: Artifact, b: Artifact) -> bool:
    one, two = a.subject, b.subject
    return (one.model, one.resolution, one.batch, one.target, one.storage_precision) == (
        two.model,
        two.resolution,
        two.batch,
        two.target,
        two.storage_precision,
    )


def _failed(name: str, reason: str, next_step: str, code: int) -> Verdict:
    return Verdict(name, FAILED, reason=reason, next_step=next_step, exit_code=code)
