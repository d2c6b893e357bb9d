"""``kit``: a folder for someone who holds a device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from effbench.commands import _shared as shared


@shared.command()
@click.argument("names", metavar="MODEL|ARTIFACT...", nargs=-1, required=True)
@click.option("--device", "-d", required=True, metavar="NAME", help="The device that somebody else holds.")
@click.option("--res", "resolutions", multiple=True, metavar="PX", help="512, or 384x640. Repeatable.")
@shared.target
@click.option("--rounds", default=6, show_default=True, help="Fresh processes per artifact.")
@click.option("--budget", "budget_s", default=20.0, show_default=True, metavar="S", help="Seconds per artifact.")
@click.option("--threads", default=1, show_default=True, help="Threads of the runtime.")
@shared.precision
@click.option("--to", metavar="DIR", help="The folder to write (default: kit-DEVICE).")
@shared.out
@shared.json
def kit(names: Sequence[str], device: str, as_json: bool, **rest: Any) -> None:
    """Write a folder with artifacts, a run script and expected outputs for whoever holds a device."""
    from effbench.api.devices.kits import kit as run
    from effbench.commands.text import tables

    with shared.Progress() as notify:
        found = run(names, device, notify=notify, **rest)
    shared.show(as_json, found, lambda: tables.kit(found))


COMMANDS = (kit,)
