"""``import``: figures of other tools."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from effbench.commands import _shared as shared


@shared.command("import")
@click.argument("files", nargs=-1, required=True)
@click.option("--artifact", "-a", metavar="NAME", help="Whose files were run (a kit's result knows).")
@click.option("--device", "-d", metavar="NAME", help="What they were run on (a kit's result knows).")
@click.option("--format", "form", metavar="NAME", help="trtexec, benchmark_app, litert, qnn, onnxruntime or samples.")
@click.option("--threads", type=int, help="Of the runtime, where the file does not tell.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="A condition to keep with the figures.")
@shared.out
@shared.json
def import_(files: Sequence[str], settings: Sequence[str], as_json: bool, **rest: Any) -> None:
    """Keep what a kit brought home, or what another tool measured: trtexec, benchmark_app, LiteRT, QNN, ORT.

    Each file is one round. The figures are marked as imported, and as aggregates where the tool gives no raw times.
    """
    from effbench.api.devices.imports import imported
    from effbench.commands.text import tables

    found = imported(files, settings=shared.pairs(settings), **rest)
    shared.show(as_json, found, lambda: "\n".join(tables.imported(one, rest["out"]) for one in found))


COMMANDS = (import_,)
