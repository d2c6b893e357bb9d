"""Claims of papers, tested on this machine as far as it can test them."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from effbench import deploy
from effbench.api.claims.campaign import Campaign
from effbench.api.claims.kinds import Grows
from effbench.api.claims.registry import claims_named
from effbench.api.claims.request import ClaimsRequest
from effbench.api.claims.scaling import FOLDER, series, sizes
from effbench.api.export.run import at_hand
from effbench.api.keywords import from_fields
from effbench.errors import DataError, UnavailableError, counted
from effbench.profiles import environment
from effbench.reports.claims import Finding, markdown
from effbench.reports.growth import Series
from effbench.store import home as home_of
from effbench.store import write_atomically

PREFERRED = ("ort", "ov")
"""Growth is measured on the first of these that is installed, ratios on all."""


@dataclass(frozen=True)
class Claims:
    """The result of `claims`: a finding per claim, the series behind them, and the files that were written."""

    findings: tuple[Finding, ...]
    series: tuple[Series, ...]
    files: tuple[Path, ...]
    interrupted: bool = False


@from_fields(ClaimsRequest)
def claims(request: ClaimsRequest) -> Claims:
    """Test claims of papers on this machine, and write a page with the verdict on each.

    Arguments are the fields of `ClaimsRequest`.

    Raises:
        UsageError: A claim or target is unknown.
        UnavailableError: No runtime is installed.
    """
    selected = claims_named(tuple(request.names))
    targets = list(request.targets) or [name for name in at_hand() if name in PREFERRED]
    if not targets:
        raise UnavailableError(
            "Neither ONNX Runtime nor OpenVINO is installed here.", hint="pip install 'effbench[ort]'"
        )
    home = home_of(request.out) / FOLDER
    campaign = Campaign(home, request.threads, request.notify)
    for claim in selected:
        claim.test.plan(campaign, targets)
    campaign.prepare()
    interrupted = campaign.run(request.passes, request.minutes)
    findings = tuple(
        Finding(claim.name, claim.text, claim.source, claim.test.method, claim.test.judge(campaign, targets))
        for claim in selected
    )
    tests = [claim.test for claim in selected if isinstance(claim.test, Grows)]
    grown = {test.part: sizes(test.resolutions) for test in tests}
    measured = tuple(series(campaign, part, px, targets[0]) for part, px in grown.items())
    page = Path(request.page) if request.page else home / "claims.md"
    files = write_page(findings, measured, page, targets, request.threads)
    return Claims(findings, measured, files, interrupted)


def write_page(
    findings: Sequence[Finding], measured: Sequence[Series], page: Path, targets: Sequence[str], threads: int
) -> tuple[Path, ...]:
    """Write the page and its plot.

    Raises:
        DataError: It cannot be written there.
    """
    from effbench.reports.scaling import draw_series, table

    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        drawable = [item for item in measured if item.growth("latency")]
        plots = draw_series(drawable, page.parent / "img", "claims")[:1] if drawable else ()
        image = plots[0].relative_to(page.parent).as_posix() if plots else ""
        laws = table(drawable, "github") if drawable else ""
        write_atomically(page, markdown(findings, machine(targets, threads), laws, image))
    except OSError as error:
        raise DataError(f"Cannot write {page}: {error.strerror}.", hint="Choose another with --page.") from error
    return (page, *plots)


def machine(targets: Sequence[str], threads: int) -> list[str]:
    """Return one sentence about the machine, its runtimes and the settings."""
    observed = environment.observe([package for name in targets for package in deploy.get(name).packages])
    cores = f"{observed['cores_allowed']} cores" if observed["cores_allowed"] else "cores unknown"
    return [
        f"Measured on {observed['cpu_model']} ({observed['machine']}, {cores}), {platform.system()}, "
        f"{observed['runtime']}; batch 1, {counted(threads, 'thread')}, fp32."
    ]
