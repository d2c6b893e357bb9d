"""``evaluate``: accuracy of artifacts."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import click

from effbench.commands import _shared as shared


@shared.command()
@click.argument("names", metavar="[MODEL|ARTIFACT]...", nargs=-1)
@click.option(
    "--data", required=True, metavar="PLACE", help="A folder per class, a list (.csv, .parquet), .tar shards."
)
@click.option("--classes", metavar="FILE", help="The classes in the order of the outputs, one a line.")
@click.option(
    "--max-images", type=int, metavar="N", help="At most N, drawn at random (default: all; 64 on a simulator)."
)
@click.option("--res", "resolutions", multiple=True, metavar="PX", help="For models: 512, or 384x640. Repeatable.")
@shared.target
@click.option("--device", default="local", show_default=True, help="Where to run them (see `devices`).")
@click.option("--threads", default=1, show_default=True, help="Threads of the runtime.")
@click.option("--batch", type=int, help="Images per inference (default: as exported).")
@click.option("--workers", type=int, help="Threads that decode (default: one less than the cores).")
@click.option("--reference/--no-reference", default=True, show_default=True, help="Compare with the fp32 reference.")
@click.option(
    "--check-preprocessing/--no-check-preprocessing",
    default=True,
    show_default=True,
    help="Try common alternatives on 64 images.",
)
@shared.precision
@shared.weights
@shared.seed
@shared.out
@shared.json
def evaluate(names: Sequence[str], as_json: bool, **rest: Any) -> None:
    """Run the deployed files over labelled images. With no name: everything exported so far."""
    from effbench.api.evaluate.run import evaluate as run
    from effbench.commands.text.evaluation import evaluated

    with shared.Progress() as notify:
        found = run(names, notify=notify, **rest)
    shared.show(as_json, found, lambda: evaluated(found))
    sys.exit(shared.exit_code(found.cells))


COMMANDS = (evaluate,)
