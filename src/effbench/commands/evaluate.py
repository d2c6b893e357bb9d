"""``evaluate``: accuracy of artifacts."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from effbench.commands import _shared as shared
from effbench.commands._types import FILE, MODEL_OR_ARTIFACT

if TYPE_CHECKING:
    from effbench.schema import InputShapes


@shared.command()
@click.argument("names", nargs=-1, type=MODEL_OR_ARTIFACT, metavar="[MODEL|ARTIFACT]...")
@click.option(
    "--data", type=FILE, required=True, metavar="PATH", help="A folder per class, a list (.csv, .parquet), .tar shards."
)
@click.option("--classes", type=FILE, metavar="FILE", help="Classes in the order of the outputs, one per line.")
@click.option(
    "--max-images", type=int, metavar="N", help="At most N images, drawn with a fixed seed (64 on a simulator)."
)
@shared.resolutions
@shared.targets
@shared.device
@shared.threads
@click.option("--batch", type=int, metavar="N", help="Images per inference (default: the artifact's).")
@click.option("--workers", type=int, metavar="N", help="Threads that decode images (default: all cores but one).")
@click.option("--reference/--no-reference", default=True, show_default=True, help="Compare with the fp32 reference.")
@click.option(
    "--check-preprocessing/--no-check-preprocessing",
    default=True,
    show_default=True,
    help="Try common alternatives of the preprocessing on 64 images.",
)
@shared.precision
@shared.weights
@shared.seed
@shared.out
@shared.json
def evaluate(
    names: Sequence[str],
    data: str,
    classes: str | None,
    max_images: int | None,
    resolutions: Sequence[InputShapes],
    targets: Sequence[str],
    device: str,
    threads: int,
    batch: int | None,
    workers: int | None,
    reference: bool,
    check_preprocessing: bool,
    precision: str | None,
    weights: str | None,
    seed: int,
    out: str | None,
    as_json: bool,
) -> None:
    """Run artifacts on labelled images and print their accuracy.

    Without names, it evaluates everything exported so far.

    --res, --target, --precision, --weights and --seed apply to models, which are exported first.
    """
    from effbench.api.evaluate.run import evaluate as run
    from effbench.commands.text import next_command
    from effbench.commands.text.evaluation import evaluated

    with shared.Progress() as notify:
        result = run(
            names=names,
            data=data,
            classes=classes,
            max_images=max_images,
            resolutions=resolutions,
            targets=targets,
            device=device,
            threads=threads,
            batch=batch,
            workers=workers,
            reference=reference,
            check_preprocessing=check_preprocessing,
            precision=precision,
            weights=weights,
            seed=seed,
            out=out,
            notify=notify,
        )
    following = next_command.after_evaluate(result, device, out)
    shared.show(as_json, result, lambda: evaluated(result, following))
    sys.exit(shared.exit_code(result.cells))


COMMANDS = (evaluate,)
