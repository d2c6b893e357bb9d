"""``sweep``: a whole matrix, resumed where it was left."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import click

from effbench.commands import _shared as shared


@shared.command()
@click.argument("names", metavar="[MODEL|SUITE.toml]...", nargs=-1)
@shared.target
@click.option("--res", "resolutions", multiple=True, metavar="PX", help="512, or 384x640. Repeatable.")
@click.option("--precision", "precisions", multiple=True, metavar="P", help="Repeatable (default: each target's).")
@click.option("--batch", type=int, help="Images per inference (default: 1).")
@shared.weights
@click.option("--seed", type=int, help="Of untrained weights (default: 0).")
@click.option("--images", metavar="DIR", help="Images for int8 and a16w8, or `synthetic`.")
@click.option("--allow-fallback", is_flag=True, default=None, help="Accept and record operators left to another unit.")
@click.option("--profile/--no-profile", "measure", default=None, help="Measure what is ok (default), or stop there.")
@click.option("--threads", type=int, help="Of the runtime, when measured (default: 1).")
@click.option("--devices", multiple=True, metavar="A,B", help="Measure on these, all at once (see `devices`).")
@click.option("--scheduler", metavar="ADDRESS", help="With --devices: of a Dask scheduler (docs/how-to/lab.md).")
@click.option("--store", metavar="PLACE", help="With --devices: folder or fsspec address (default: OUT/lab).")
@click.option("--rounds", type=int, help="Fresh processes per artifact (default: 10).")
@click.option("--budget", "budget_s", type=float, metavar="S", help="Seconds of measuring per artifact (default: 20).")
@click.option("--workers", type=click.IntRange(1), help="Cells at a time (default: as cores and memory allow).")
@click.option("--time-limit", "time_limit_s", type=float, metavar="S", help="Seconds for each cell (default: 600).")
@click.option("--memory-limit", "memory_limit_mib", type=float, metavar="MIB", help="For each stage.")
@click.option("--retry", is_flag=True, help="Do again what did not end as ok in an earlier sweep.")
@click.option("--format", "formats", multiple=True, metavar="NAME", help="Also write: markdown, csv, json. Repeatable.")
@shared.out
@shared.json
def sweep(
    names: Sequence[str], formats: Sequence[str], as_json: bool, memory_limit_mib: float | None, **flags: Any
) -> None:
    """Export, verify and measure models x resolutions x precisions x targets: from flags, a suite, or effbench.toml."""
    from effbench.api.sweep import suite
    from effbench.api.sweep.run import run_sweep
    from effbench.reports.matrix import render

    if memory_limit_mib is not None:
        flags["memory_limit_bytes"] = int(memory_limit_mib * 2**20)
    values = suite.arguments(names, {name: value for name, value in flags.items() if value not in (None, (), False)})
    if flags["measure"] is False:
        values["measure"] = False
    if suite.over_devices(values):
        _over_devices(values, formats, as_json)
        return
    with shared.Progress() as notify:
        result = run_sweep(suite.sweep_request(values, notify))
    table = suite.table(result)
    files = suite.write(table, formats, flags["out"])
    click.echo(render(table, "json" if as_json else "terminal").rstrip())
    for path in files:
        click.echo(f"wrote {path}", err=as_json)
    if result.interrupted:
        click.echo("Interrupted: cells that ended are kept; the same command continues from there.", err=True)
        sys.exit(130)
    sys.exit(shared.exit_code([*result.cells, *result.unmeasured]))


def _over_devices(values: dict[str, Any], formats: Sequence[str], as_json: bool) -> None:
    from effbench.api.keywords import build
    from effbench.errors import worst_exit_code
    from effbench.lab import table
    from effbench.lab.sweep import LabRequest, run_lab_sweep
    from effbench.reports.lab import render

    chosen = {name: value for name, value in values.items() if name not in ("measure", "retry")}
    with shared.Progress() as notify:
        result = run_lab_sweep(build(LabRequest, {**chosen, "notify": notify}, "option of a sweep over devices:"))
    click.echo(render(table.records(result), result.set_aside, "json" if as_json else "terminal").rstrip())
    for path in table.write(result, formats, values.get("out")):
        click.echo(f"wrote {path}", err=as_json)
    if result.interrupted:
        click.echo("Interrupted: cells that ended are kept; the same command continues from there.", err=True)
        sys.exit(130)
    codes = {"failed": 5, "unavailable": 4, "unsupported": 4}
    sys.exit(worst_exit_code(codes.get(outcome.status, 0) for outcome in result.outcomes))


COMMANDS = (sweep,)
