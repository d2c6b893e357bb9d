"""``compare`` and ``gate``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from effbench.boundary.names import printable
from effbench.commands import _shared as shared
from effbench.commands._types import DEVICE, FILE, FOLDER, MODEL, MODEL_OR_ARTIFACT, TARGET, alternatives, one_of
from effbench.reports import gate as reports

if TYPE_CHECKING:
    from effbench.schema import InputShapes
    from effbench.statistics.sequential import Rules
    from effbench.statistics.verdict import ComparisonReport


@dataclass(frozen=True)
class PairOptions:
    """The options that both commands take."""

    resolutions: Sequence[InputShapes]
    targets: Sequence[str]
    threads: int | None
    device: str | None
    record: str | None
    force: bool
    budget_s: float | None
    floor_pct: float | None
    margin_pct: float | None
    fail_above_pct: float | None
    processes: int | None
    inconclusive: str | None
    base_python: str | None
    workers: int | None
    latency: bool
    plan: bool
    formats: Sequence[str]
    out: str | None
    as_json: bool

    def rules(self, base: Rules | None = None) -> Rules | None:
        """Return the base with the thresholds that the options set; None if there is neither."""
        from effbench.statistics.sequential import Rules

        names = ("floor_pct", "margin_pct", "fail_above_pct", "processes")
        thresholds = {name: value for name in names if (value := getattr(self, name)) is not None}
        return replace(base or Rules(), **thresholds) if thresholds else base


def _options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that both commands take; a default applies if effbench.toml has no value for a gate."""
    options = [
        shared.resolutions,
        click.option("--target", "-t", "targets", type=TARGET, multiple=True, metavar="NAME",
                     help="Runtime (default: ort). Repeatable."),
        click.option("--threads", type=int, metavar="N", help=f"{shared.THREADS_HELP} (default: 1)."),
        click.option("--device", type=DEVICE, metavar="NAME", help="Where both sides run (default: this machine)."),
        click.option("--record", type=FILE, metavar="FILE",
                     help="Record the exchange with the device, for the transport 'replay'."),
        click.option("--force", is_flag=True,
                     help="Measure also where the machine is not the device; verdicts say so."),
        click.option("--budget", "budget_s", type=float, metavar="S", help="Seconds per comparison (default: 60)."),
        click.option("--floor", "floor_pct", type=float, metavar="PCT", help="Noise floor (default: 1)."),
        click.option("--margin", "margin_pct", type=float, metavar="PCT",
                     help="Unchanged: the interval is within this margin (default: 5)."),
        click.option("--fail-above", "fail_above_pct", type=float, metavar="PCT",
                     help="Exit with 1 above this slowdown (default: the floor)."),
        click.option("--processes", type=int, metavar="N",
                     help="Unchanged: needs N processes without a slow one (default: 23, excludes 10 % slow ones)."),
        click.option("--inconclusive", type=click.Choice(["code", "pass", "fail"]),
                     help="Exit with 3 (code, the default), 0 or 1 if inconclusive."),
        click.option("--base-python", type=FILE, metavar="FILE", help="Run the base with this Python interpreter."),
        click.option("--workers", type=click.IntRange(1, 2), metavar="N",
                     help="Processes per round, 1 or 2 (default: 1, or as measured)."),
        click.option("--latency", is_flag=True, help="Also measure the candidate's latency, in separate runs."),
        click.option("--plan", is_flag=True, help="Measure a few rounds only, and say how long verdicts take."),
        click.option("--format", "formats", type=one_of(*reports.FILES), multiple=True, metavar="NAME",
                     help=f"Also write a file: {alternatives(reports.FILES)}. Repeatable."),
        shared.out,
        shared.json,
    ]  # fmt: skip
    command = shared.grouped(PairOptions)(command)
    for option in reversed(options):
        command = option(command)
    return command


@shared.command()
@click.argument("a", type=MODEL_OR_ARTIFACT)
@click.argument("b", type=MODEL_OR_ARTIFACT)
@_options
def compare(a: str, b: str, options: PairOptions) -> None:
    """Measure A and B in the same run: is B slower?

    A and B are artifacts, .onnx files or models; --res and --target apply to models, which are exported first.
    """
    from effbench.api.compare.request import CompareRequest
    from effbench.api.compare.run import compare as run

    with shared.Progress() as notify:
        report = run(
            a=a,
            b=b,
            resolutions=options.resolutions,
            targets=options.targets,
            threads=CompareRequest.threads if options.threads is None else options.threads,
            device=options.device or CompareRequest.device,
            budget_s=CompareRequest.budget_s if options.budget_s is None else options.budget_s,
            rules=options.rules(),
            workers=options.workers,
            base_python=options.base_python,
            latency=options.latency,
            plan=options.plan,
            inconclusive=options.inconclusive or CompareRequest.inconclusive,
            record=options.record,
            force=options.force,
            out=options.out,
            notify=notify,
        )
    _finish(report, options)


@shared.command()
@click.argument("models", nargs=-1, type=MODEL, metavar="[MODEL]...")
@click.option("--base", metavar="REF", help="A git ref; its models are exported from a separate worktree.")
@click.option("--baseline", type=FILE, metavar="PATH", help="Artifacts or measurements instead of a git ref.")
@shared.precisions
@shared.images
@click.option("--batch", type=int, metavar="N", help=f"{shared.BATCH_HELP} (default: 1).")
@shared.weights
@click.option("--seed", type=int, metavar="N", help="Seed of untrained weights (default: 0).")
@click.option(
    "--allow-fallback",
    is_flag=True,
    default=None,
    help="Accept operators that run on another unit, and record them.",
)
@click.option("--always-time", is_flag=True, default=None, help="Time both sides even if they are identical.")
@click.option("--path", type=FOLDER, multiple=True, metavar="DIR", help="Further folder of modules. Repeatable.")
@click.option("--measure-noise", "measures_noise", is_flag=True, help="Measure the noise of this machine instead.")
@click.option("--minutes", default=5.0, show_default=True, metavar="M", help="How long --measure-noise runs.")
@_options
def gate(
    models: Sequence[str],
    base: str | None,
    baseline: str | None,
    precisions: Sequence[str],
    images: str | None,
    weights: str | None,
    seed: int | None,
    allow_fallback: bool | None,
    always_time: bool | None,
    path: Sequence[str],
    measures_noise: bool,
    minutes: float,
    batch: int | None,
    options: PairOptions,
) -> None:
    """Compare the working tree with a base, and check budgets.

    Each MODEL is exported from the working tree and from the base, and both are measured in the same run. Models,
    budgets and defaults can be stated in effbench.toml; an option wins over it.
    """
    from effbench.api.compare.budgets import read_suite
    from effbench.api.compare.gate_plan import rules_of
    from effbench.api.compare.run_gate import gate as run

    if measures_noise:
        _measure_noise(models, minutes, options)
        return
    with shared.Progress() as notify:
        report = run(
            models=models,
            base=base,
            baseline=baseline,
            resolutions=options.resolutions,
            targets=options.targets,
            precisions=precisions,
            threads=options.threads,
            batch=batch,
            device=options.device,
            budget_s=options.budget_s,
            rules=options.rules(rules_of(read_suite(Path()))),
            workers=options.workers,
            base_python=options.base_python,
            latency=options.latency,
            plan=options.plan,
            inconclusive=options.inconclusive,
            weights=weights,
            seed=seed,
            images=images,
            allow_fallback=allow_fallback,
            always_time=always_time,
            path=path,
            record=options.record,
            force=options.force,
            out=options.out,
            notify=notify,
        )
    _finish(report, options)


def _finish(report: ComparisonReport, options: PairOptions) -> None:
    """Write and print a report, and end with its exit code."""
    from effbench.store import home

    files = reports.write(report, options.formats, home(options.out))
    text = reports.render(report, "json") if options.as_json else printable(reports.render(report, "terminal"))
    click.echo(text.rstrip())
    for path in files:
        click.echo(f"wrote {path}", err=options.as_json)
    sys.exit(130 if report.interrupted else report.exit_code())


def _measure_noise(models: Sequence[str], minutes: float, options: PairOptions) -> None:
    from effbench.api.compare.request import NoiseRequest
    from effbench.api.compare.run_noise import measure_machine_noise
    from effbench.commands.text.noise import text
    from effbench.errors import UsageError

    for name, values in (("model", models), ("resolution", options.resolutions), ("target", options.targets)):
        if len(values) > 1:
            raise UsageError(f"--measure-noise runs one {name}, not {', '.join(map(str, values))}.")
    with shared.Progress() as notify:
        noise = measure_machine_noise(
            model=models[0] if models else NoiseRequest.model,
            resolution=options.resolutions[0] if options.resolutions else NoiseRequest.resolution,
            target=options.targets[0] if options.targets else NoiseRequest.target,
            threads=NoiseRequest.threads if options.threads is None else options.threads,
            device=options.device or NoiseRequest.device,
            budget_s=NoiseRequest.budget_s if options.budget_s is None else options.budget_s,
            minutes=minutes,
            rules=options.rules(),
            out=options.out,
            notify=notify,
        )
    shared.show(options.as_json, noise, lambda: text(noise))


COMMANDS = (compare, gate)
