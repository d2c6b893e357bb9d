"""``report``: accuracy against latency."""

from __future__ import annotations

from typing import Any

import click

from effbench.commands import _shared as shared


@shared.command()
@click.option("--metric", default="top1", show_default=True, help="top1, coco_ap or ade_miou.")
@click.option("--format", "formats", multiple=True, help="Also write: markdown, csv, json, html, latex. Repeatable.")
@click.option("--plot", is_flag=True, help="Also draw the Pareto plots (PNG, SVG).")
@click.option("--paper", is_flag=True, help="Also write a booktabs table, caption, methods and BibTeX.")
@click.option("--published", default="same", show_default=True, help="Published rows beside: none, same, all.")
@shared.out
@shared.json
def report(metric: str, as_json: bool, **rest: Any) -> None:
    """Print accuracy against latency, one table per device and resolution."""
    from effbench.api.report import write

    written = write(metric, **rest)
    if as_json:
        click.echo(written.json.rstrip())
        return
    click.echo(written.text.rstrip())
    for path in written.files:
        click.echo(f"wrote {path}")


COMMANDS = (report,)
