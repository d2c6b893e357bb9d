"""``kit``: a folder for the person who has a device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from effbench.commands import _shared as shared
from effbench.commands._types import DEVICE, FOLDER, MODEL_OR_ARTIFACT

if TYPE_CHECKING:
    from effbench.schema import InputShapes


@shared.command()
@click.argument("names", nargs=-1, required=True, type=MODEL_OR_ARTIFACT, metavar="MODEL|ARTIFACT...")
@click.option("--device", "-d", type=DEVICE, required=True, metavar="NAME", help="The device (see `effbench devices`).")
@shared.resolutions
@shared.targets
@click.option("--rounds", default=6, show_default=True, metavar="N", help="Fresh processes per artifact.")
@click.option("--budget", "budget_s", default=20.0, show_default=True, metavar="S", help="Seconds per artifact.")
@shared.threads
@shared.precision
@click.option("--to", type=FOLDER, metavar="DIR", help="The folder to write (default: kit-DEVICE).")
@shared.out
@shared.json
def kit(
    names: Sequence[str],
    device: str,
    resolutions: Sequence[InputShapes],
    targets: Sequence[str],
    rounds: int,
    budget_s: float,
    threads: int,
    precision: str | None,
    to: str | None,
    out: str | None,
    as_json: bool,
) -> None:
    """Write a folder for the person who has a device.

    It holds artifacts, a run script and expected outputs, and needs no effbench there; `effbench import` stores the
    result that comes back.
    """
    from effbench.api.devices.kits import kit as run
    from effbench.commands.text import results

    with shared.Progress() as notify:
        result = run(
            names=names,
            device=device,
            resolutions=resolutions,
            targets=targets,
            rounds=rounds,
            budget_s=budget_s,
            threads=threads,
            precision=precision,
            to=to,
            out=out,
            notify=notify,
        )
    shared.show(as_json, result, lambda: results.kit(result))


COMMANDS = (kit,)
