"""``numerics``: half precision and a graph."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from effbench.commands import _shared as shared
from effbench.commands._types import FOLDER, MODEL, PRECISION, SIZE

if TYPE_CHECKING:
    from effbench.deploy.precision.diagnose import NumericsReport
    from effbench.schema import InputShapes


@shared.command()
@click.argument("model", type=MODEL)
@click.option("--res", "resolution", type=SIZE, metavar="PX", help="Image size (default: the file's, else 224).")
@click.option("--precision", type=PRECISION, default="fp16", show_default=True, metavar="NAME", help="Only fp16.")
@click.option("--images", type=FOLDER, metavar="FOLDER", help="Images to examine (default: synthetic ones).")
@click.option("--max-images", default=3, show_default=True, metavar="N", help="At most N images, two or more.")
@shared.weights
@shared.seed
@click.option("--time-limit", "time_limit_s", default=600.0, show_default=True, metavar="S", help="Seconds per stage.")
@shared.out
@shared.json
def numerics(
    model: str,
    resolution: InputShapes | None,
    precision: str,
    images: str | None,
    max_images: int,
    weights: str | None,
    seed: int,
    time_limit_s: float,
    out: str | None,
    as_json: bool,
) -> None:
    """Show which operators lose accuracy in half precision.

    It names the mechanism of each loss, and the operators of MODEL that must stay in fp32.
    """
    from effbench.api.export.diagnosis import numerics as run

    with shared.Progress() as notify:
        report = run(
            model,
            resolution,
            precision=precision,
            images=images,
            max_images=max_images,
            weights=weights,
            seed=seed,
            out=out,
            time_limit_s=time_limit_s,
            notify=notify,
        )
    shared.show(as_json, report, lambda: _text(report))
    sys.exit(0 if report.passed else 1)


def _text(report: NumericsReport) -> str:
    from tabulate import tabulate

    share = f"{len(report.islands)} of {report.nodes} operators stay in fp32 ({report.island_share_pct:.1f} %)"
    verdict = "holds" if report.passed else "misses"
    lines = [f"{report.precision} {verdict} the bound over {report.images} images; {share}."]
    errors = [(e.mode, _multiple(e.without_islands), _multiple(e.with_islands)) for e in report.errors]
    lines.append(tabulate(errors, headers=("simulated", "error / allowed", "with islands"), disable_numparse=True))
    if report.findings:
        lines.append(tabulate(report.rows(), headers="keys", disable_numparse=True))
    lines.append("nearest to the end of the range of half precision (65504):")
    lines.append(tabulate(report.range_rows(5), headers="keys", floatfmt=".3g"))
    return "\n".join([*lines, *report.notes])


def _multiple(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.2f}"


COMMANDS = (numerics,)
