"""``profile``: latency of artifacts."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import click

from effbench.commands import _shared as shared


@click.command()
@click.argument("names", metavar="[MODEL|ARTIFACT]...", nargs=-1)
@click.option("--res", "resolutions", multiple=True, metavar="PX", help="512, or 384x640. Repeatable.")
@shared.target
@click.option("--threads", default=1, show_default=True, help="Threads of the runtime.")
@shared.batch
@click.option("--device", default="local", show_default=True, help="Where to measure (see `devices`).")
@click.option("--budget", "budget_s", default=20.0, show_default=True, metavar="S", help="Seconds per artifact.")
@click.option("--rounds", default=10, show_default=True, help="Fresh processes per artifact.")
@shared.precision
@shared.weights
@shared.seed
@shared.out
@shared.json
def profile(names: Sequence[str], resolutions: Sequence[str], as_json: bool, **rest: Any) -> None:
    """Measure latency. With no name: everything exported so far; with nothing exported: regla_m."""
    from effbench.api import show
    from effbench.api.profile import profile as run

    with shared.Progress() as notify:
        found = run(names, resolutions, notify=notify, **rest)
    shared.show(as_json, found, lambda: show.profile(found, rest["out"]))
    if found.interrupted:
        sys.exit(130)
    problems = [cell for cell in found.cells if cell.status == "failed" or not found.measurements]
    sys.exit(shared.worst(problems))


COMMANDS = (profile,)
