"""``compare`` and ``gate``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from effbench.commands import _shared as shared


def _both(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that both commands take."""
    options = [
        click.option("--res", "resolutions", multiple=True, metavar="PX", help="512, or 384x640. Repeatable."),
        click.option("--target", "-t", "targets", multiple=True, metavar="NAME", help="Repeatable (default: ort)."),
        click.option("--device", metavar="NAME", help="Where both sides run, in pairs (default: this machine)."),
        click.option("--record", metavar="FILE", help="Keep the exchange with the device (`replay` reads it)."),
        click.option("--budget", "budget_s", type=float, metavar="SECONDS", help="Per comparison (default: 60)."),
        click.option("--floor", "floor_pct", type=float, metavar="PCT", help="The noise floor (default: 1)."),
        click.option("--margin", "margin_pct", type=float, metavar="PCT", help="Unchanged lies within (default: 5)."),
        click.option("--fail-above", "fail_above_pct", type=float, metavar="PCT", help="Exit 1 above (default: floor)"),
        click.option("--inconclusive", type=click.Choice(["code", "pass", "fail"]), help="code is exit 3 (default)."),
        click.option("--base-python", metavar="PATH", help="Run side A under this interpreter."),
        click.option("--workers", type=click.IntRange(1, 2), help="Processes a round (default: 1, or as measured)."),
        click.option("--latency", is_flag=True, help="Also measure B's latency, in separate runs."),
        click.option("--format", "formats", multiple=True, metavar="NAME", help="Also write: markdown, junit, json, "
                     "github, bencher, action-benchmark. Repeatable."),
        click.option("--out", metavar="DIR", help="Write below this folder (default: EFFBENCH_HOME, else runs)."),
        click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else."),
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


def _rules(options: dict[str, Any], base: Any = None) -> Any:
    """Return the rules that the flags name, or None where they name none."""
    from dataclasses import replace

    from effbench.statistics.sequential import Rules

    flags = {name: options.pop(name) for name in ("floor_pct", "margin_pct", "fail_above_pct")}
    flags = {name: value for name, value in flags.items() if value is not None}
    return replace(base or Rules(), **flags) if flags else base


def _finish(report: Any, formats: Sequence[str], out: str | None, as_json: bool) -> None:
    """Write and print a report, and end with its exit code."""
    from effbench.reports import gate as reports
    from effbench.store import home

    files = reports.write(report, list(formats), home(out))
    click.echo((reports.as_json(report) if as_json else reports.terminal(report)).rstrip())
    for path in files:
        click.echo(f"wrote {path}", err=as_json)
    sys.exit(130 if report.interrupted else report.exit_code())


@shared.command()
@click.argument("a")
@click.argument("b")
@click.option("--threads", default=1, show_default=True, help="Intra-operator threads of the runtime.")
@_both
def compare(a: str, b: str, formats: Sequence[str], as_json: bool, **options: Any) -> None:
    """Say whether B is slower than A: artifacts, .onnx files or model names, measured in the same run."""
    from effbench.api.compare.run import compare as run

    out = options["out"]
    rules = _rules(options)
    arguments = {key: value for key, value in options.items() if value is not None}
    with shared.Progress() as notify:
        report = run(a, b, rules=rules, notify=notify, **arguments)
    _finish(report, formats, out, as_json)


@shared.command()
@click.argument("models", nargs=-1)
@click.option("--base", metavar="REF", help="A git ref; it is exported from a separate worktree.")
@click.option("--baseline", metavar="PATH", help="Artifacts or measurements instead of a git ref.")
@click.option("--precision", "precisions", multiple=True, metavar="P", help="Repeatable (default: each target's).")
@click.option("--images", metavar="FOLDER", help="Both sides are calibrated with these; or synthetic: latency only.")
@click.option("--threads", type=int, help="Intra-operator threads of the runtime (default: 1).")
@click.option("--batch", type=int, help="Images per inference (default: 1).")
@click.option("--weights", metavar="FILE", help="A .safetensors file for both sides.")
@click.option("--seed", type=int, help="Of untrained weights (default: 0).")
@click.option("--allow-fallback", is_flag=True, default=None, help="Accept and record operators left to another unit.")
@click.option("--path", "path", multiple=True, metavar="DIR", help="A further folder of the tree that holds modules.")
@click.option("--measure-noise", "measures_noise", is_flag=True, help="Measure the noise of this machine.")
@click.option("--minutes", default=5.0, show_default=True, help="How long --measure-noise runs.")
@_both
def gate(
    models: Sequence[str], measures_noise: bool, minutes: float, formats: Sequence[str], as_json: bool, **options: Any
) -> None:
    """Compare the working tree with a base, and hold it to the budgets of effbench.toml."""
    if measures_noise:
        _measure_noise(models, minutes, as_json, options)
        return
    from effbench.api.compare.budgets import read_suite
    from effbench.api.compare.gate_plan import rules_of
    from effbench.api.compare.run_gate import gate as run

    out = options["out"]
    rules = _rules(options, rules_of(read_suite(Path())))
    arguments = {key: value for key, value in options.items() if value is not None}
    with shared.Progress() as notify:
        report = run(models, rules=rules, notify=notify, **arguments)
    _finish(report, formats, out, as_json)


def _measure_noise(models: Sequence[str], minutes: float, as_json: bool, options: dict[str, Any]) -> None:
    from effbench.api.compare.run_noise import measure_machine_noise
    from effbench.commands.text.noise import text
    from effbench.errors import UsageError

    first = {"model": models, "resolution": options["resolutions"], "target": options["targets"]}
    for name, values in first.items():
        if len(values) > 1:
            raise UsageError(f"--measure-noise runs one {name}, not {', '.join(values)}.")
    arguments = {name: values[0] for name, values in first.items() if values}
    arguments |= {name: options[name] for name in ("threads", "device", "budget_s", "out") if options[name] is not None}
    with shared.Progress() as notify:
        noise = measure_machine_noise(minutes=minutes, rules=_rules(options), notify=notify, **arguments)
    shared.show(as_json, noise, lambda: text(noise))


COMMANDS = (compare, gate)
