"""``distill``."""

from __future__ import annotations

import dataclasses
import os
import shlex
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from effbench.commands import _shared as shared
from effbench.training.recipe import Recipe

if TYPE_CHECKING:
    from effbench.api.distill.run import Trained

KINDS = {"int": int, "float": float, "str": str}


def _recipe(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option for each setting of a recipe."""
    for field in reversed(dataclasses.fields(Recipe)):
        option = click.option(
            f"--{field.name.replace('_', '-')}",
            type=KINDS[str(field.type)],
            default=field.default,
            show_default=True,
            help=field.metadata["help"],
        )
        function = option(function)
    return function


@shared.command()
@click.argument("student")
@click.option("--teacher", "teachers", multiple=True, metavar="MODEL", help="MODEL or MODEL@WEIGHTS. Repeatable.")
@click.option("--data", required=True, metavar="PATH", help="A folder (per class or not), a list, or tar shards.")
@click.option("--val", "validation", metavar="PATH", help="Labelled images for an accuracy at the end.")
@click.option("--classes", metavar="FILE", help="The classes in the order of the student's outputs, one a line.")
@click.option("--res", "resolution", default="224", show_default=True, metavar="PX", help="Of the student's images.")
@click.option("--weights", metavar="FILE", help="A .safetensors file to begin from.")
@click.option("--workers", default=0, show_default=True, help="Processes that decode images.")
@click.option("--threads", type=int, metavar="N", help="Of torch, in each process.")
@_recipe
@shared.out
@shared.json
def distill(student: str, teachers: Sequence[str], data: str, out: str | None, as_json: bool, **rest: Any) -> None:
    """Train STUDENT from labels, from frozen teachers, or both; started again after a kill it goes on.

    STUDENT and teachers are names or package.module:factory; a teacher may be an .onnx file. Several processes: start
    it with `torchrun --nproc-per-node N -m effbench.cli distill ...`.
    """
    from effbench.api.distill.run import distill as run
    from effbench.codec import plain

    recipe = Recipe(**{field.name: rest.pop(field.name) for field in dataclasses.fields(Recipe)})
    with shared.Progress() as notify:
        made = run(student, data, teachers, recipe=recipe, out=out, notify=notify, **rest)
    if os.environ.get("RANK", "0") == "0":
        record = {**plain(made), "folder": str(made.folder), "weights": str(made.weights)}
        shared.show(as_json, record, lambda: _text(made, student, out))


def _text(made: Trained, student: str, out: str | None) -> str:

    taught = f"{len(made.teachers)} teachers" if len(made.teachers) != 1 else "one teacher"
    lines = [
        f"{made.student} at {made.shapes} px: {made.steps} steps on {made.images} images, "
        f"{made.labelled} of them labelled, {taught}",
        f"last loss {made.loss:.4f}" + ("" if made.top1 is None else f", validation top-1 {100 * made.top1:.2f} %"),
        f"weights {made.weights} (sha256 {made.sha256[:12]})",
        *(f"note: {note}" for note in made.notes),
    ]
    size = made.shapes
    after = f"effbench export {student} --weights {shlex.quote(str(made.weights))} --res {size}"
    return "\n".join([*lines, "", "next: " + after + (f" --out {out}" if out else "")])


COMMANDS = (distill,)
