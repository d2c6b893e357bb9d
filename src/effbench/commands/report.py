"""``report``: accuracy against latency."""

from __future__ import annotations

from collections.abc import Sequence

import click

from effbench.boundary.names import printable
from effbench.commands import _shared as shared
from effbench.commands._types import alternatives, one_of
from effbench.reports import FILES


@shared.command()
@click.option(
    "--metric",
    type=one_of("top1", "coco_ap", "ade_miou"),
    default="top1",
    show_default=True,
    metavar="NAME",
    help="Accuracy: top1, coco_ap or ade_miou.",
)
@click.option(
    "--format",
    "formats",
    type=one_of(*FILES),
    multiple=True,
    metavar="NAME",
    help=f"Also write a file: {alternatives(FILES)}. Repeatable.",
)
@click.option("--plot", is_flag=True, help="Also draw the Pareto plots (PNG, SVG).")
@click.option("--paper", is_flag=True, help="Also write a LaTeX table, its caption, the methods, and BibTeX.")
@click.option(
    "--published",
    type=one_of("none", "same", "all"),
    default="same",
    show_default=True,
    metavar="NAME",
    help="Published latencies to list: none, same (models and sizes) or all.",
)
@shared.out
@shared.json
def report(
    metric: str, formats: Sequence[str], plot: bool, paper: bool, published: str, out: str | None, as_json: bool
) -> None:
    """Print accuracy against latency of everything measured.

    There is one table per device and size.
    """
    from effbench.api.report import write
    from effbench.commands.text import next_command

    result = write(metric, formats=formats, plot=plot, paper=paper, published=published, out=out)
    click.echo((result.json if as_json else printable(result.text)).rstrip())
    for path in result.files:
        click.echo(f"wrote {path}", err=as_json)
    following = next_command.after_report(result.rows, out)
    if following is not None and not as_json:
        click.echo(following)


COMMANDS = (report,)
