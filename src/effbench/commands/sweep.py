"""``sweep``: a whole matrix, resumed where it was left."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import click

from effbench.commands import _shared as shared


@click.command()
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
def sweep(names: Sequence[str], formats: Sequence[str], as_json: bool, **flags: Any) -> None:
    """Export, verify and measure models x resolutions x precisions x targets: from flags, a suite, or effbench.toml."""
    from effbench.api.sweep import suite
    from effbench.reports.matrix import render

    chosen = suite.settings(names, {key: value for key, value in flags.items() if value not in (None, ())})
    if suite.over_devices(chosen):
        _over_devices(chosen, formats, as_json)
        return
    with shared.Progress() as notify:
        found = suite.run(chosen, notify)
    table = suite.table(found)
    files = suite.write(table, formats, flags["out"])
    click.echo(render(table, "json" if as_json else "terminal").rstrip())
    for path in files:
        click.echo(f"wrote {path}", err=as_json)
    if found.interrupted:
        click.echo("Interrupted: what ended is kept; the same command goes on from there.", err=True)
        sys.exit(130)
    sys.exit(shared.worst([*found.cells, *found.unmeasured]))


def _over_devices(chosen: dict[str, Any], formats: Sequence[str], as_json: bool) -> None:
    from effbench.errors import worst_exit_code
    from effbench.lab import table
    from effbench.lab.sweep import sweep as run
    from effbench.reports.lab import render

    out = chosen.get("out")
    with shared.Progress() as notify:
        found = run(**{key: value for key, value in chosen.items() if key not in ("measure", "retry")}, notify=notify)
    click.echo(render(table.records(found), found.set_aside, "json" if as_json else "terminal").rstrip())
    for path in table.write(found, formats, out):
        click.echo(f"wrote {path}", err=as_json)
    if found.interrupted:
        click.echo("Interrupted: what ended is kept; the same command goes on from there.", err=True)
        sys.exit(130)
    codes = {"failed": 5, "unavailable": 4, "unsupported": 4}
    sys.exit(worst_exit_code(codes.get(one.status, 0) for one in found.outcomes))


COMMANDS = (sweep,)
