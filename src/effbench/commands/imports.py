"""``import``: figures of other tools."""

from __future__ import annotations

from collections.abc import Sequence

import click

from effbench.commands import _shared as shared
from effbench.commands._types import ARTIFACT, DEVICE, FILE, alternatives, one_of

FORMATS = ("trtexec", "benchmark_app", "litert", "qnn", "onnxruntime", "samples")


@shared.command("import")
@click.argument("files", nargs=-1, required=True, type=FILE)
@click.option("--artifact", "-a", type=ARTIFACT, metavar="NAME", help="What was measured (a kit's result names it).")
@click.option("--device", "-d", type=DEVICE, metavar="NAME", help="Where it was measured (a kit's result names it).")
@click.option(
    "--format",
    "form",
    type=one_of(*FORMATS),
    metavar="NAME",
    help=f"{alternatives(FORMATS)} (default: recognized from the file).",
)
@click.option("--threads", type=int, metavar="N", help=f"{shared.THREADS_HELP}, if the file does not state them.")
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Condition to keep with the figures. Repeatable."
)
@click.option("--force", is_flag=True, help="Keep a kit's result that is unsigned or of another machine; it is marked.")
@shared.out
@shared.json
def import_(
    files: Sequence[str],
    artifact: str | None,
    device: str | None,
    form: str | None,
    threads: int | None,
    settings: Sequence[str],
    force: bool,
    out: str | None,
    as_json: bool,
) -> None:
    """Store figures of another tool, or the result of a kit.

    The tools are trtexec, benchmark_app, LiteRT, QNN and ONNX Runtime; a list of milliseconds works too. Each file is
    one round. Figures are marked as imported, and as aggregates if the tool gives no raw times.
    """
    from effbench.api.devices.imports import imported
    from effbench.commands.text import next_command, results

    measurements = imported(
        files,
        artifact=artifact,
        device=device,
        form=form,
        threads=threads,
        settings=shared.pairs(settings),
        force=force,
        out=out,
    )
    shared.show(as_json, measurements, lambda: results.imported(measurements, next_command.report(out)))


COMMANDS = (import_,)
