"""What there is: ``models``, ``targets``, ``devices``, and what can run here: ``doctor``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from effbench.commands import _shared as shared

if TYPE_CHECKING:
    from effbench.schema import Backbone


@shared.command()
@click.argument("name", required=False)
@click.option("--family", metavar="NAME", help="Only this family.")
@click.option("--mixer", metavar="TEXT", help="Only those whose mixer's name holds this.")
@click.option("--max-params", type=float, metavar="M", help="At most so many million parameters.")
@click.option("--max-macs", type=float, metavar="G", help="At most so many billion MACs at 224 px.")
@shared.json
def models(name: str | None, family: str | None, as_json: bool, **limits: Any) -> None:
    """List the backbones: parameters, MACs, published accuracy with its source; with NAME, its stages."""
    from effbench import models as registered
    from effbench.commands.text import tables
    from effbench.errors import unknown_name

    if name is not None:
        shared.show(as_json, registered.get(name), lambda: tables.model(registered.get(name)))
        return
    every = registered.models().values()
    families = {item.family for item in every}
    if family is not None and family not in families:
        raise unknown_name(family, families, "family")
    found = [item for item in every if family in (None, item.family) and _within(item, **limits)]
    shared.show(as_json, found, lambda: tables.models(found))


def _within(item: Backbone, mixer: str | None, max_params: float | None, max_macs: float | None) -> bool:
    params, macs = item.counts.get("params", 0) / 1e6, item.counts.get("macs_224", 0) / 1e9
    named = mixer is None or mixer.lower() in item.mixer.lower()
    return named and params <= (max_params or params) and macs <= (max_macs or macs)


@shared.command()
@shared.json
def targets(as_json: bool) -> None:
    """List the targets and whether they can be made here."""
    from effbench.api.devices import catalogue
    from effbench.commands.text import tables

    rows = catalogue.targets()
    shared.show(as_json, rows, lambda: tables.targets(rows))


@shared.command()
@click.argument("name", required=False)
@click.option("--check", "checking", is_flag=True, help="Try to reach each of them (or the one named).")
@shared.json
def devices(name: str | None, checking: bool, as_json: bool) -> None:
    """List the devices effbench knows, or all that is declared of one."""
    from effbench.api.devices import catalogue
    from effbench.commands.text import tables
    from effbench.profiles import devices as declared

    rows = catalogue.devices() if name is None else [declared.get(name)]
    if checking:
        from effbench.api.devices.check import tried

        found = tried(rows)
        shared.show(as_json, found, lambda: tables.devices(rows, found))
    elif name is None:
        shared.show(as_json, rows, lambda: tables.devices(rows))
    else:
        shared.show(as_json, rows[0], lambda: tables.device(rows[0]))


@shared.command()
@click.option("--device", "name", metavar="NAME", help="Look at that device instead of this machine.")
@shared.out
@shared.json
def doctor(name: str | None, out: str | None, as_json: bool) -> None:
    """Tell what can run here or on a device, what is missing, and what to do about it."""
    from effbench.api.devices import catalogue
    from effbench.commands.text import tables

    if name is None or name == "local":
        checks = catalogue.doctor(out)
    else:
        from effbench.api.devices import check

        checks = check.doctor(name)
    shared.show(as_json, checks, lambda: tables.checks(checks))
    sys.exit(4 if any(item.what == "connection" and not item.ok for item in checks) else 0)


COMMANDS = (models, targets, devices, doctor)
