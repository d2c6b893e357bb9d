"""What there is: ``models``, ``targets``, ``devices``, and what can run here: ``doctor``."""

from __future__ import annotations

import click

from effbench.commands import _shared as shared


@click.command()
@click.argument("name", required=False)
@click.option("--family", metavar="NAME", help="Only this family.")
@shared.json
def models(name: str | None, family: str | None, as_json: bool) -> None:
    """List the backbones: parameters, MACs, published accuracy with its source."""
    from effbench import models as registered
    from effbench.api import show
    from effbench.errors import did_you_mean

    if name is not None:
        shared.show(as_json, registered.get(name), lambda: show.model(registered.get(name)))
        return
    every = registered.models().values()
    families = {item.family for item in every}
    if family is not None and family not in families:
        raise did_you_mean(family, families, "family")
    found = [item for item in every if family in (None, item.family)]
    shared.show(as_json, found, lambda: show.models(found))


@click.command()
@shared.json
def targets(as_json: bool) -> None:
    """List the targets and whether they can be made here."""
    from effbench.api import inspect, show

    rows = inspect.targets()
    shared.show(as_json, rows, lambda: show.targets(rows))


@click.command()
@shared.json
def devices(as_json: bool) -> None:
    """List the devices effbench can measure on."""
    from effbench.api import inspect, show

    rows = inspect.devices()
    shared.show(as_json, rows, lambda: show.devices(rows))


@click.command()
@shared.out
@shared.json
def doctor(out: str | None, as_json: bool) -> None:
    """Tell what can run here, what is missing, and the line that installs it."""
    from effbench.api import inspect, show

    checks = inspect.doctor(out)
    shared.show(as_json, checks, lambda: show.checks(checks))


COMMANDS = (models, targets, devices, doctor)
