"""``claims``: claims of papers, tested on this machine; and how mixers and models scale."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import click

from effbench.commands import _shared as shared


@shared.command()
@click.argument("names", metavar="[CLAIM|MIXER|MODEL]...", nargs=-1)
@click.option("--scaling", "is_scaling", is_flag=True, help="Measure latency and memory of NAMES over resolution.")
@click.option("--res", "resolutions", metavar="PX..PX", help="Of --scaling (default: 224..1024).")
@shared.target
@click.option("--threads", default=1, show_default=True, help="Threads of the runtime.")
@click.option("--passes", type=int, metavar="N", help="Fresh processes per size (default: 8; 6 give an interval).")
@click.option("--minutes", type=float, metavar="M", help="Stop measuring after M minutes; the next run continues.")
@click.option("--page", metavar="FILE", help="Write the claims as Markdown here (default: below --out).")
@shared.out
@shared.json
def claims(
    names: Sequence[str],
    is_scaling: bool,
    resolutions: str | None,
    targets: Sequence[str],
    page: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Test the claims of papers as far as this machine can, or measure how NAMES scale (--scaling)."""
    from effbench.errors import UsageError

    arguments = {key: value for key, value in options.items() if value is not None}
    if targets:
        arguments["targets"] = targets
    if is_scaling:
        if page is not None:
            raise UsageError("--page is for claims; --scaling draws below the output folder.")
        _scaling(names, resolutions, as_json, arguments)
    elif resolutions is not None:
        raise UsageError("--res belongs to --scaling; a claim has its own sizes.")
    else:
        _claims(names, page, as_json, arguments)


def _claims(names: Sequence[str], page: str | None, as_json: bool, arguments: dict[str, Any]) -> None:
    from effbench.api.claims.run import claims as run
    from effbench.reports.claims import terminal

    with shared.Progress() as notify:
        result = run(names, page=page, notify=notify, **arguments)
    shared.show(
        as_json, result, lambda: "\n".join([terminal(result.findings), *(f"wrote {path}" for path in result.files)])
    )
    if result.interrupted:
        sys.exit(130)


def _scaling(names: Sequence[str], resolutions: str | None, as_json: bool, arguments: dict[str, Any]) -> None:
    from effbench.api.claims.request import RANGE
    from effbench.api.claims.scaling import scaling
    from effbench.errors import UsageError
    from effbench.reports.scaling import table

    if not names:
        raise UsageError("Name a mixer, block or model.", hint="effbench claims --scaling rgma softmax --res 128..1024")
    with shared.Progress() as notify:
        result = scaling(names, resolutions or RANGE, notify=notify, **arguments)
    shared.show(as_json, result, lambda: "\n".join([table(result.series), *(f"wrote {path}" for path in result.files)]))
    if result.interrupted:
        sys.exit(130)
    sys.exit(0 if any(item.latency_ms for item in result.series) else 5)


COMMANDS = (claims,)
