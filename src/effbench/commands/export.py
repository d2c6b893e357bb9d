"""``export`` and ``verify``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import click

from effbench.commands import _shared as shared


@shared.command()
@click.argument("model", required=False)
@click.option("--finish", "bundle", metavar="BUNDLE", help="Build, on its device, what an export elsewhere left.")
@shared.target
@click.option(
    "--res", "resolutions", multiple=True, metavar="PX", default=("224",), help="512, or 384x640. Repeatable."
)
@shared.precision
@shared.images
@click.option("--max-drop", type=float, metavar="POINTS", help="With int8: of top-1; what costs more stays in float.")
@click.option("--data", metavar="PLACE", help="The images that --max-drop is judged on (see `evaluate`).")
@click.option("--classes", metavar="FILE", help="The classes of --data in the order of the outputs.")
@shared.batch
@click.option("--dynamic-batch", is_flag=True, help="Leave the batch open.")
@shared.weights
@click.option("--pretrained", is_flag=True, help="timm/NAME: its trained weights; opens the network.")
@shared.seed
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="An option of the target.")
@click.option("--device", metavar="NAME", help="Its profile picks target, precision and options (see `devices`).")
@click.option("--verify/--no-verify", default=True, help="Compare with the fp32 reference.", show_default=True)
@click.option("--time-limit", default=600.0, show_default=True, metavar="S", help="Seconds for each stage.")
@click.option("--memory-limit", type=float, metavar="MIB", help="For each stage (default: 80 % of what there is).")
@click.option("--allow-fallback", is_flag=True, help="Accept and record operators left to another unit.")
@shared.out
@shared.json
def export(
    model: str | None,
    bundle: str | None,
    targets: Sequence[str],
    resolutions: Sequence[str],
    as_json: bool,
    settings: Sequence[str],
    **rest: Any,
) -> None:
    """Export MODEL (a name, a .onnx file, or package.module:factory) and verify what was made."""
    from effbench.api.export.run import export as run
    from effbench.api.export.verification import finish
    from effbench.api.quantize import quantize
    from effbench.commands.text import tables
    from effbench.errors import UsageError

    rest["time_limit_s"] = rest.pop("time_limit")
    memory_mib = rest.pop("memory_limit")
    rest["memory_limit_bytes"] = None if memory_mib is None else int(memory_mib * 2**20)
    if rest.pop("pretrained"):
        if rest["weights"] is not None:
            raise UsageError("--pretrained and --weights are two answers to one question.", hint="Give one of them.")
        rest["weights"] = "pretrained"
        click.echo("--pretrained: timm may open the network for the weights", err=True)
    if (model is None) == (bundle is None):
        raise UsageError("Name one MODEL to export, or one bundle with --finish.", hint="effbench export regla_m")
    options = shared.pairs(settings)
    bounded = {name: value for name in ("max_drop", "data", "classes") if (value := rest.pop(name)) is not None}
    if bounded and {"max_drop", "data"} - bounded.keys():
        missing = "--data PLACE with images to judge on" if "max_drop" in bounded else "--max-drop POINTS"
        raise UsageError("A bound takes --max-drop and --data.", hint=f"Add {missing}.")
    with shared.Progress() as notify:
        if bundle is not None:
            cells = finish(bundle, options=options, out=rest["out"])
        elif bounded:
            cells = quantize(str(model), targets, resolutions, options=options, notify=notify, **bounded, **rest)
        else:
            cells = run(str(model), targets, resolutions, options=options, notify=notify, **rest)
    shared.show(as_json, cells, lambda: tables.cells(cells, next_command=_after_export(cells, rest["out"])))
    sys.exit(shared.exit_code(cells))


@shared.command()
@click.argument("artifacts", nargs=-1, required=True)
@click.option("--device", default="local", show_default=True, help="Where to run them (see `devices`).")
@shared.out
@shared.json
def verify(artifacts: Sequence[str], device: str, out: str | None, as_json: bool) -> None:
    """Compare ARTIFACTS (folders, or names below the output folder) with their fp32 reference once more."""
    from effbench.api.export.verification import verify as run
    from effbench.commands.text import tables

    with shared.Progress() as notify:
        cells = run(artifacts, device=device, out=out, notify=notify)
    shared.show(as_json, cells, lambda: tables.cells(cells))
    sys.exit(shared.exit_code(cells))


def _after_export(cells: Sequence[Any], out: str | None) -> str | None:

    sizes = sorted({cell.shapes for cell in cells if cell.status.made})
    if not sizes:
        return None
    return "effbench profile" + "".join(f" --res {size}" for size in sizes) + (f" --out {out}" if out else "")


COMMANDS = (export, verify)
