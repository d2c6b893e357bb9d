"""``allow``: let the project file of a folder start programs and connect to hosts."""

from __future__ import annotations

import json
from pathlib import Path

import click

from effbench.commands import _shared as shared
from effbench.commands._types import FOLDER


@shared.command()
@click.argument("folder", required=False, type=FOLDER, default=".")
@click.option("--yes", is_flag=True, help="Do not ask.")
@shared.json
def allow(folder: str, yes: bool, as_json: bool) -> None:
    """Allow the programs and hosts that effbench.toml names.

    These are the connections, options and factories that the file in FOLDER declares. They are shown first. Their hash
    is kept in ~/.config/effbench/allowed.txt; after a change they have to be allowed again.
    """
    from effbench.errors import DataError, UsageError
    from effbench.profiles import devices
    from effbench.profiles.devices import allowed

    declared = devices.project_file(Path(folder))
    if declared is None:
        raise DataError(f"{Path(folder) / devices.SUITE}: no such file.")
    path, data = declared
    parts = allowed.sensitive_parts(data)
    text = json.dumps(parts, indent=1, ensure_ascii=True, default=str)
    if parts and not yes:
        click.echo(f"{path} declares:\n{text}", err=True)
        if not click.confirm("Allow this?", default=False, err=True):
            raise UsageError("Nothing was allowed.")
    allowed.allow(path, data)
    result = {"path": str(path), "allowed": parts}
    message = f"{path}: allowed" if parts else f"{path} declares nothing that needs to be allowed"
    shared.show(as_json, result, lambda: message)


COMMANDS = (allow,)
