"""``claims``: claims of papers, tested on this machine; and how mixers and models scale."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import click

from effbench.commands import _shared as shared
from effbench.commands._types import FILE, MODEL


@dataclass(frozen=True)
class ClaimsOptions:
    """The options that both claims and --scaling take."""

    names: Sequence[str]
    targets: Sequence[str]
    threads: int
    passes: int | None
    minutes: float | None
    out: str | None


@shared.command()
@click.argument("names", nargs=-1, type=MODEL, metavar="[CLAIM|MIXER|MODEL]...")
@click.option("--scaling", "is_scaling", is_flag=True, help="Measure latency and memory of NAMES over resolution.")
@click.option("--res", "resolutions", metavar="PX..PX", help="Sizes of --scaling (default: 224..1024).")
@shared.targets
@shared.threads
@click.option("--passes", type=int, metavar="N", help="Fresh processes per size (default: 8; 6 give an interval).")
@click.option("--minutes", type=float, metavar="M", help="Stop measuring after M minutes; the next run continues.")
@click.option("--page", type=FILE, metavar="FILE", help="Write the claims as Markdown here (default: below --out).")
@shared.out
@shared.json
@shared.grouped(ClaimsOptions)
def claims(is_scaling: bool, resolutions: str | None, page: str | None, as_json: bool, options: ClaimsOptions) -> None:
    """Test the claims of papers on this machine.

    With --scaling, it measures how the latency and memory of NAMES grow with resolution.
    """
    from effbench.errors import UsageError

    if is_scaling:
        if page is not None:
            raise UsageError("--page is for claims; --scaling draws below the output folder.")
        _scaling(options, resolutions, as_json)
    elif resolutions is not None:
        raise UsageError("--res belongs to --scaling; a claim has its own sizes.")
    else:
        _claims(options, page, as_json)


def _claims(options: ClaimsOptions, page: str | None, as_json: bool) -> None:
    from effbench.api.claims.request import ClaimsRequest
    from effbench.api.claims.run import claims as run
    from effbench.reports.claims import terminal

    with shared.Progress() as notify:
        result = run(
            names=options.names,
            targets=options.targets,
            threads=options.threads,
            passes=ClaimsRequest.passes if options.passes is None else options.passes,
            minutes=options.minutes,
            page=page,
            out=options.out,
            notify=notify,
        )
    shared.show(
        as_json, result, lambda: "\n".join([terminal(result.findings), *(f"wrote {path}" for path in result.files)])
    )
    if result.interrupted:
        sys.exit(130)


def _scaling(options: ClaimsOptions, resolutions: str | None, as_json: bool) -> None:
    from effbench.api.claims.request import ScalingRequest
    from effbench.api.claims.scaling import scaling
    from effbench.errors import UsageError
    from effbench.reports.scaling import table

    if not options.names:
        raise UsageError("Name a mixer, block or model.", hint="effbench claims --scaling rgma softmax --res 128..1024")
    with shared.Progress() as notify:
        result = scaling(
            names=options.names,
            resolutions=resolutions or ScalingRequest.resolutions,
            targets=options.targets or ScalingRequest.targets,
            threads=options.threads,
            passes=ScalingRequest.passes if options.passes is None else options.passes,
            minutes=options.minutes,
            out=options.out,
            notify=notify,
        )
    shared.show(as_json, result, lambda: "\n".join([table(result.series), *(f"wrote {path}" for path in result.files)]))
    if result.interrupted:
        sys.exit(130)
    sys.exit(0 if any(series.latency_ms for series in result.series) else 5)


COMMANDS = (claims,)
