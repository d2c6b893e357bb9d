"""``export`` and ``verify``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import click

from effbench.commands import _shared as shared
from effbench.commands._types import ARTIFACT, DEVICE, FILE, FOLDER, MODEL

if TYPE_CHECKING:
    from effbench.api.export.request import ExportRequest
    from effbench.api.export.stage import Notify
    from effbench.api.quantize.bound import QuantizeRequest
    from effbench.schema import InputShapes


@dataclass(frozen=True)
class ExportOptions:
    """The options of ``export`` that every model's request takes."""

    targets: Sequence[str]
    resolutions: Sequence[InputShapes]
    precisions: Sequence[str]
    images: str | None
    batch: int | None
    dynamic_batch: bool
    seed: int
    settings: Sequence[str]
    device: str | None
    output_kinds: Sequence[str]
    input_roles: Sequence[str]
    input_shapes: Sequence[str]
    inputs: str | None
    vocabulary: int | None
    verify: bool
    time_limit_s: float
    memory_limit_mib: float | None
    allow_fallback: bool
    out: str | None

    def requests(self, models: Sequence[str], weights: str | None, notify: Notify) -> list[ExportRequest]:
        """Return a request for each model in each precision; options that are texts are parsed here."""
        from effbench.api.export.request import ExportRequest
        from effbench.deploy.artifact import kinds
        from effbench.schema import parse_roles, parse_shapes

        names = {item.name for item in fields(self)} & {item.name for item in fields(ExportRequest)}
        common = {
            **{name: getattr(self, name) for name in names},
            "weights": weights,
            "options": shared.pairs(self.settings),
            "output_kinds": kinds.parse(self.output_kinds),
            "input_roles": parse_roles(self.input_roles),
            "input_shapes": parse_shapes(self.input_shapes),
            "memory_limit_bytes": shared.mebibytes(self.memory_limit_mib),
            "notify": notify,
        }
        precisions = dict.fromkeys(self.precisions) or (None,)
        return [ExportRequest(model, precision=precision, **common) for model in models for precision in precisions]


@shared.command()
@click.argument("models", nargs=-1, type=MODEL, metavar="[MODEL]...")
@click.option("--finish", "bundle", type=FOLDER, metavar="BUNDLE", help="Build a bundle from elsewhere on its device.")
@shared.targets
@shared.resolutions
@shared.precisions
@shared.images
@click.option("--max-drop", type=float, metavar="POINTS", help="With int8: the top-1 accuracy that it may cost.")
@click.option("--data", type=FILE, metavar="PATH", help="Images that --max-drop is judged on (see `evaluate`).")
@click.option("--classes", type=FILE, metavar="FILE", help="Classes of --data in the order of the outputs.")
@click.option("--batch", type=int, metavar="N", help="Images per inference (default: the file's, else 1).")
@click.option("--dynamic-batch", is_flag=True, help="Leave the batch open.")
@shared.weights
@click.option("--pretrained", is_flag=True, help="For timm/NAME: trained weights; timm may download them.")
@shared.seed
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Option of the target. Repeatable.")
@click.option("--device", type=DEVICE, metavar="NAME", help="Take targets, precisions and options from this device.")
@click.option(
    "--output-kind",
    "output_kinds",
    multiple=True,
    metavar="NAME=KIND",
    help="How an output is judged, where the guess is wrong. Repeatable.",
)
@shared.inputs
@click.option("--verify/--no-verify", default=True, help="Compare with the fp32 reference.", show_default=True)
@click.option("--time-limit", "time_limit_s", default=600.0, show_default=True, metavar="S", help="Seconds per stage.")
@click.option(
    "--memory-limit", "memory_limit_mib", type=float, metavar="MIB", help="Per stage (default: 80 % of the memory)."
)
@click.option("--allow-fallback", is_flag=True, help="Accept operators that run on another unit, and record them.")
@shared.out
@shared.json
@shared.grouped(ExportOptions)
def export(
    models: Sequence[str],
    bundle: str | None,
    max_drop: float | None,
    data: str | None,
    classes: str | None,
    weights: str | None,
    pretrained: bool,
    as_json: bool,
    options: ExportOptions,
) -> None:
    """Export models to runtimes and verify the results.

    Each MODEL is exported for each target, at each size and precision.

    MODEL is a name (see `effbench models`), an .onnx file, timm/NAME, or package.module:factory.
    """
    from effbench.api.export.run import run_exports
    from effbench.api.export.verification import finish
    from effbench.commands.text import next_command, results
    from effbench.errors import UsageError

    if bool(models) == (bundle is not None):
        raise UsageError("Name a MODEL to export, or a bundle with --finish.", hint="effbench export regla_m")
    _check_bound(max_drop, data, classes)
    trained = _weights(models, weights, pretrained)
    with shared.Progress() as notify:
        requests = options.requests(models, trained, notify)
        if bundle is not None:
            cells = finish(bundle, options=shared.pairs(options.settings), out=options.out)
        elif max_drop is not None and data is not None:
            from effbench.api.quantize.bound import run_quantize

            cells = run_exports([_bounded(request, max_drop, data, classes) for request in requests], run_quantize)
        else:
            cells = run_exports(requests)
    following = next_command.after_export(cells, options.device, options.out)
    shared.show(as_json, cells, lambda: results.cells(cells, following))
    sys.exit(shared.exit_code(cells))


def _check_bound(max_drop: float | None, data: str | None, classes: str | None) -> None:
    from effbench.errors import UsageError

    if (max_drop, data, classes) != (None, None, None) and None in (max_drop, data):
        missing = "--max-drop POINTS" if max_drop is None else "--data PATH with images to judge on"
        raise UsageError("A bound takes --max-drop and --data.", hint=f"Add {missing}.")


def _bounded(request: ExportRequest, max_drop: float, data: str, classes: str | None) -> QuantizeRequest:
    from effbench.api.quantize.bound import QuantizeRequest

    return QuantizeRequest(**vars(request), max_drop=max_drop, data=data, classes=classes)


def _weights(models: Sequence[str], weights: str | None, pretrained: bool) -> str | None:
    from effbench.errors import UsageError

    if weights is not None and len(models) > 1:
        raise UsageError(f"--weights {weights} belongs to one model, not to {len(models)}.", hint="Name one.")
    if not pretrained:
        return weights
    if weights is not None:
        raise UsageError("--pretrained and --weights exclude each other.", hint="Give one of them.")
    click.echo("--pretrained: timm may download the weights", err=True)
    return "pretrained"


@shared.command()
@click.argument("artifacts", nargs=-1, required=True, type=ARTIFACT)
@click.option("--mutate", is_flag=True, help="Count the seeded wrong conversions that the check finds.")
@click.option("--each", type=int, metavar="N", help="With --mutate: wrong conversions of each kind (default: 6).")
@shared.device
@shared.out
@shared.json
def verify(
    artifacts: Sequence[str], mutate: bool, each: int | None, device: str, out: str | None, as_json: bool
) -> None:
    """Compare artifacts with their fp32 reference once more.

    ARTIFACTS are folders, or beginnings of names below the output folder; with --mutate also models.
    """
    from effbench.api.export.verification import verify as run
    from effbench.commands.text import next_command, results
    from effbench.errors import UsageError

    if mutate:
        if device != "local":
            raise UsageError(f"--mutate runs here, not on '{device}'.", hint="Leave out --device.")
        _mutate(artifacts, each, out, as_json)
        return
    if each is not None:
        raise UsageError("--each counts the wrong conversions of --mutate.", hint="Add --mutate.")
    with shared.Progress() as notify:
        cells = run(artifacts, device=device, out=out, notify=notify)
    following = next_command.after_export(cells, device, out)
    shared.show(as_json, cells, lambda: results.cells(cells, following))
    sys.exit(shared.exit_code(cells))


def _mutate(names: Sequence[str], each: int | None, out: str | None, as_json: bool) -> None:
    from effbench.api.export.mutate import EACH, mutate
    from effbench.commands.text import mutations

    with shared.Progress() as notify:
        reports = mutate(names, each=EACH if each is None else each, out=out, notify=notify)
    shared.show(as_json, reports, lambda: mutations.reports(reports))


COMMANDS = (export, verify)
