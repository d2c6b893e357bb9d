"""``numerics``: half precision and a graph."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from effbench.commands import _shared as shared

if TYPE_CHECKING:
    from effbench.deploy.precision.diagnose import NumericsReport


@shared.command()
@click.argument("model")
@click.option("--res", "resolution", metavar="PX", default="224", show_default=True, help="512, or 384x640.")
@click.option("--precision", metavar="P", default="fp16", show_default=True, help="fp16 is the one with islands.")
@click.option("--images", metavar="FOLDER", help="Images to examine with (default: synthetic ones).")
@click.option("--max-images", default=3, show_default=True, help="How many of them.")
@shared.weights
@shared.seed
@click.option("--time-limit", "time_limit_s", default=600.0, show_default=True, metavar="S", help="For each stage.")
@shared.out
@shared.json
def numerics(model: str, as_json: bool, **rest: Any) -> None:
    """Name what half precision breaks in MODEL, by which mechanism, and the fp32 islands that save it."""
    from effbench.api.export.diagnosis import numerics as run

    with shared.Progress() as notify:
        found = run(model, notify=notify, **rest)
    shared.show(as_json, found, lambda: _text(found))
    sys.exit(0 if found.passed else 1)


def _text(found: NumericsReport) -> str:
    from tabulate import tabulate

    share = f"{len(found.islands)} of {found.nodes} operators stay in fp32 ({found.island_share_pct:.1f} %)"
    verdict = "holds" if found.passed else "misses"
    lines = [f"{found.precision} {verdict} the bound over {found.images} images; {share}."]
    errors = [(e.mode, _multiple(e.without_islands), _multiple(e.with_islands)) for e in found.errors]
    lines.append(tabulate(errors, headers=("simulated", "error / allowed", "with islands"), disable_numparse=True))
    if found.findings:
        lines.append(tabulate(found.rows(), headers="keys", disable_numparse=True))
    lines.append("nearest to the end of the range of half precision (65504):")
    lines.append(tabulate(found.range_rows(5), headers="keys", floatfmt=".3g"))
    return "\n".join([*lines, *found.notes])


def _multiple(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.2f}"


COMMANDS = (numerics,)
