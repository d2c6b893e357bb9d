"""What there is: ``models``, ``targets``, ``devices``, and what can run here: ``doctor``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from effbench.commands import _shared as shared
from effbench.commands._types import DEVICE, FAMILY, REGISTERED_MODEL

if TYPE_CHECKING:
    from effbench.schema import Backbone


@shared.command()
@click.argument("name", required=False, type=REGISTERED_MODEL)
@click.option("--family", type=FAMILY, metavar="NAME", help="Only this family.")
@click.option("--mixer", metavar="TEXT", help="Only models whose mixer has this text in its name.")
@click.option("--max-params", type=float, metavar="M", help="At most this many million parameters.")
@click.option("--max-macs", type=float, metavar="G", help="At most this many billion MACs at 224 px.")
@shared.json
def models(
    name: str | None,
    family: str | None,
    mixer: str | None,
    max_params: float | None,
    max_macs: float | None,
    as_json: bool,
) -> None:
    """List the models, or describe one.

    The list has parameters, MACs, and published accuracy with its source.
    """
    from effbench import models as registered
    from effbench.commands.text import catalogue as tables

    if name is not None:
        shared.show(as_json, registered.get(name), lambda: tables.model(registered.get(name)))
        return
    backbones = [
        backbone for backbone in registered.list_models(family) if _within(backbone, mixer, max_params, max_macs)
    ]
    shared.show(as_json, backbones, lambda: tables.models(backbones))


def _within(backbone: Backbone, mixer: str | None, max_params: float | None, max_macs: float | None) -> bool:
    params, macs = backbone.counts.get("params", 0) / 1e6, backbone.counts.get("macs_224", 0) / 1e9
    has_mixer = mixer is None or mixer.lower() in backbone.mixer.lower()
    return has_mixer and params <= (max_params or params) and macs <= (max_macs or macs)


@shared.command()
@shared.json
def targets(as_json: bool) -> None:
    """List the targets (runtimes) and what is missing here."""
    from effbench.api.devices import catalogue
    from effbench.commands.text import catalogue as tables

    rows = catalogue.targets()
    shared.show(as_json, rows, lambda: tables.targets(rows))


@shared.command()
@click.argument("name", required=False, type=DEVICE)
@click.option("--check", "checks", is_flag=True, help="Connect to each device, or to the named one.")
@shared.json
def devices(name: str | None, checks: bool, as_json: bool) -> None:
    """List the devices, or describe one.

    With --check, the command ends with 4 if the named device could not be connected; without NAME, if a device whose
    connection is declared could not, or none could.
    """
    from effbench.api.devices import catalogue
    from effbench.commands.text import catalogue as tables
    from effbench.profiles import devices as declared

    rows = catalogue.devices() if name is None else [declared.get(name)]
    if checks:
        from effbench.api.devices.check import all_connected, connect

        connections = connect(rows)
        shared.show(as_json, connections, lambda: tables.connections(rows, connections))
        sys.exit(0 if all_connected(connections, named=name is not None) else 4)
    if name is None:
        shared.show(as_json, rows, lambda: tables.devices(rows))
    else:
        shared.show(as_json, rows[0], lambda: tables.device(rows[0]))


@shared.command()
@click.option("--device", "name", type=DEVICE, metavar="NAME", help="Look at this device instead of this machine.")
@shared.out
@shared.json
def doctor(name: str | None, out: str | None, as_json: bool) -> None:
    """Check what can run here or on a device.

    It also names what would disturb a measurement.
    """
    from effbench.api.devices import catalogue
    from effbench.commands.text import catalogue as tables

    if name is None or name == "local":
        checks = catalogue.doctor(out)
    else:
        from effbench.api.devices import check

        checks = check.doctor(name)
    shared.show(as_json, checks, lambda: tables.checks(checks))
    sys.exit(4 if any(check.subject == "connection" and not check.ok for check in checks) else 0)


COMMANDS = (models, targets, devices, doctor)
