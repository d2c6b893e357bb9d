"""``sweep``: a whole matrix, continued where it was stopped."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from effbench.boundary.names import printable
from effbench.commands import _shared as shared
from effbench.commands._types import DEVICE, MODEL, alternatives, one_of
from effbench.reports import TABLE_FORMATS

if TYPE_CHECKING:
    from effbench.schema import InputShapes

INTERRUPTED = "Interrupted: cells that ended are kept; the same command continues from there."


@shared.command()
@click.argument("names", nargs=-1, type=MODEL, metavar="[MODEL|SUITE.toml]...")
@shared.targets
@shared.resolutions
@shared.precisions
@click.option("--batch", type=int, metavar="N", help=f"{shared.BATCH_HELP} (default: 1).")
@shared.weights
@click.option("--seed", type=int, metavar="N", help="Seed of untrained weights (default: 0).")
@shared.images
@click.option(
    "--allow-fallback",
    is_flag=True,
    default=None,
    help="Accept operators that run on another unit, and record them.",
)
@click.option("--profile/--no-profile", "measure", default=None, help="Measure the latency (default), or only export.")
@click.option("--threads", type=int, metavar="N", help=f"{shared.THREADS_HELP} (default: 1).")
@click.option(
    "--devices", type=DEVICE, multiple=True, metavar="A,B", help="Measure on these devices, all at once. Repeatable."
)
@click.option("--scheduler", metavar="ADDRESS", help="With --devices: a Dask scheduler (docs/how-to/lab.md).")
@click.option("--store", metavar="PATH", help="With --devices: folder or fsspec address (default: OUT/lab).")
@click.option("--rounds", type=int, metavar="N", help="Fresh processes per artifact (default: 10).")
@click.option("--budget", "budget_s", type=float, metavar="S", help="Seconds of measuring per artifact (default: 20).")
@click.option(
    "--workers", type=click.IntRange(1), metavar="N", help="Cells at a time (default: what cores and memory allow)."
)
@click.option("--time-limit", "time_limit_s", type=float, metavar="S", help="Seconds per cell (default: 600).")
@click.option("--memory-limit", "memory_limit_mib", type=float, metavar="MIB", help="Per stage.")
@click.option("--retry", is_flag=True, help="Run again the cells that did not end as ok in an earlier sweep.")
@click.option(
    "--format",
    "formats",
    type=one_of(*TABLE_FORMATS),
    multiple=True,
    metavar="NAME",
    help=f"Also write a file: {alternatives(TABLE_FORMATS)}. Repeatable.",
)
@shared.out
@shared.json
def sweep(
    names: Sequence[str],
    targets: Sequence[str],
    resolutions: Sequence[InputShapes],
    precisions: Sequence[str],
    batch: int | None,
    weights: str | None,
    seed: int | None,
    images: str | None,
    allow_fallback: bool | None,
    measure: bool | None,
    threads: int | None,
    devices: Sequence[str],
    scheduler: str | None,
    store: str | None,
    rounds: int | None,
    budget_s: float | None,
    workers: int | None,
    time_limit_s: float | None,
    memory_limit_mib: float | None,
    retry: bool,
    formats: Sequence[str],
    out: str | None,
    as_json: bool,
) -> None:
    """Export, verify and measure a matrix of models.

    A cell is one model, size, precision and target. They come from the options, a suite file, or effbench.toml; an
    option wins over a suite.
    """
    from effbench.api.sweep import suite

    options = {
        "targets": targets or None,
        "resolutions": resolutions or None,
        "precisions": precisions or None,
        "batch": batch,
        "weights": weights,
        "seed": seed,
        "images": images,
        "allow_fallback": allow_fallback,
        "measure": measure,
        "threads": threads,
        "devices": devices or None,
        "scheduler": scheduler,
        "store": store,
        "rounds": rounds,
        "budget_s": budget_s,
        "workers": workers,
        "time_limit_s": time_limit_s,
        "memory_limit_bytes": shared.mebibytes(memory_limit_mib),
        "retry": retry or None,
        "out": out,
    }
    arguments = suite.arguments(names, {name: value for name, value in options.items() if value is not None})
    if suite.over_devices(arguments):
        _over_devices(arguments, formats, out, as_json)
    else:
        _here(arguments, formats, out, as_json)


def _here(arguments: Mapping[str, Any], formats: Sequence[str], out: str | None, as_json: bool) -> None:
    from effbench.api.sweep import suite
    from effbench.api.sweep.run import run_sweep
    from effbench.commands.text import next_command
    from effbench.reports.matrix import render

    with shared.Progress() as notify:
        result = run_sweep(suite.sweep_request(arguments, notify))
    table = suite.table(result)
    files = suite.write(table, formats, out)
    click.echo(printable(render(table, "json" if as_json else "terminal")).rstrip())
    _wrote(files, as_json)
    if result.interrupted:
        click.echo(INTERRUPTED, err=True)
        sys.exit(130)
    following = next_command.report(out) if result.measurements else next_command.after_export(result.cells, None, out)
    if following is not None and not as_json:
        click.echo(following)
    sys.exit(shared.exit_code([*result.cells, *result.unmeasured]))


def _over_devices(arguments: Mapping[str, Any], formats: Sequence[str], out: str | None, as_json: bool) -> None:
    from effbench.api.keywords import build
    from effbench.commands.text import next_command
    from effbench.errors import worst_exit_code
    from effbench.lab import table
    from effbench.lab.sweep import LabRequest, run_lab_sweep
    from effbench.reports.lab import render

    fields = {name: value for name, value in arguments.items() if name not in ("measure", "retry")}
    with shared.Progress() as notify:
        result = run_lab_sweep(build(LabRequest, {**fields, "notify": notify}, "option of a sweep over devices:"))
    click.echo(printable(render(table.records(result), result.set_aside, "json" if as_json else "terminal")).rstrip())
    _wrote(table.write(result, formats, out), as_json)
    if result.interrupted:
        click.echo(INTERRUPTED, err=True)
        sys.exit(130)
    if result.measurements and not as_json:
        click.echo(next_command.report(out))
    codes = {"failed": 5, "unavailable": 4, "unsupported": 4}
    sys.exit(worst_exit_code(codes.get(outcome.status, 0) for outcome in result.outcomes))


def _wrote(files: Sequence[object], as_json: bool) -> None:
    for path in files:
        click.echo(f"wrote {path}", err=as_json)


COMMANDS = (sweep,)
