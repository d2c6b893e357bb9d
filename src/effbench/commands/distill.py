"""``distill``."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import click

from effbench.commands import _shared as shared
from effbench.commands._types import FILE, MODEL
from effbench.training.recipe import Recipe

if TYPE_CHECKING:
    from effbench.api.distill.run import Trained
    from effbench.schema import InputShapes

TYPES = {"int": int, "float": float, "str": str}


def _recipe(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option for each field of a `Recipe`."""
    function = shared.grouped(Recipe, "recipe")(function)
    for field in reversed(dataclasses.fields(Recipe)):
        option = click.option(
            f"--{field.name.replace('_', '-')}",
            type=TYPES[str(field.type)],
            default=field.default,
            show_default=True,
            help=field.metadata["help"],
        )
        function = option(function)
    return function


@shared.command()
@click.argument("student", type=MODEL)
@click.option(
    "--teacher", "teachers", type=MODEL, multiple=True, metavar="MODEL", help="MODEL or MODEL@WEIGHTS. Repeatable."
)
@click.option(
    "--data", type=FILE, required=True, metavar="PATH", help="A folder (per class or not), a list, tar shards."
)
@click.option("--val", "validation", type=FILE, metavar="PATH", help="Labelled images for an accuracy at the end.")
@click.option("--classes", type=FILE, metavar="FILE", help="Classes in the order of the outputs, one per line.")
@shared.resolution
@click.option("--weights", type=FILE, metavar="FILE", help="A .safetensors file to start from.")
@click.option("--workers", default=0, show_default=True, metavar="N", help="Processes that decode images.")
@click.option("--threads", type=int, metavar="N", help="Threads of torch in each process.")
@_recipe
@shared.out
@shared.json
def distill(
    student: str,
    teachers: Sequence[str],
    data: str,
    validation: str | None,
    classes: str | None,
    resolution: InputShapes,
    weights: str | None,
    workers: int,
    threads: int | None,
    out: str | None,
    as_json: bool,
    recipe: Recipe,
) -> None:
    """Train STUDENT from labels, from frozen teachers, or both.

    If it is interrupted or killed, the same command continues.

    STUDENT and teachers are names or package.module:factory; a teacher may be an .onnx file. For several processes,
    start it with `torchrun --nproc-per-node N -m effbench.cli distill ...`.
    """
    from effbench.api.distill.run import distill as run
    from effbench.codec import plain

    with shared.Progress() as notify:
        trained = run(
            student=student,
            data=data,
            teachers=teachers,
            resolution=resolution,
            recipe=recipe,
            validation=validation,
            classes=classes,
            weights=weights,
            workers=workers,
            threads=threads,
            out=out,
            notify=notify,
        )
    if os.environ.get("RANK", "0") == "0":
        record = {**plain(trained), "folder": str(trained.folder), "weights": str(trained.weights)}
        shared.show(as_json, record, lambda: _text(trained, student, out))


def _text(trained: Trained, student: str, out: str | None) -> str:
    from effbench.commands.text import next_command

    teachers = f"{len(trained.teachers)} teachers" if len(trained.teachers) != 1 else "one teacher"
    accuracy = "" if trained.top1 is None else f", validation top-1 {100 * trained.top1:.2f} %"
    lines = [
        f"{trained.student} at {trained.shapes.label}: {trained.steps} steps on {trained.images} images, "
        f"{trained.labelled} of them labelled, {teachers}",
        f"last loss {trained.loss:.4f}{accuracy}",
        f"weights {trained.weights} (sha256 {trained.sha256[:12]})",
        *(f"note: {note}" for note in trained.notes),
    ]
    words = ("export", student, "--weights", str(trained.weights), "--res", str(trained.shapes))
    return "\n".join([*lines, next_command.line(*words, out=out)])


COMMANDS = (distill,)
