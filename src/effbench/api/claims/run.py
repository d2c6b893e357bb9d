"""Claims: what the papers say, tested on this machine as far as it can be."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from effbench import deploy
from effbench.api.claims.campaign import PASSES, Campaign
from effbench.api.claims.kinds import Grows
from effbench.api.claims.registry import chosen
from effbench.api.claims.scaling import FOLDER, series, sizes
from effbench.api.export.run import at_hand, check_target
from effbench.api.export.stage import Notify, silent
from effbench.errors import DataError, UnavailableError, UsageError
from effbench.profiles import environment
from effbench.reports.claims import Finding, markdown
from effbench.reports.growth import Series
from effbench.store import home as home_of

PREFERRED = ("ort", "ov")
"""Growth is measured on the first of these that is here, ratios on all."""


@dataclass(frozen=True)
class Claims:
    """What `claims` gave: a finding per claim, the series behind them, and the files that were written."""

    findings: tuple[Finding, ...]
    series: tuple[Series, ...]
    files: tuple[Path, ...]
    interrupted: bool = False


def claims(
    names: Sequence[str] = (),
    *,
    targets: Sequence[str] = (),
    threads: int = 1,
    passes: int = PASSES,
    minutes: float | None = None,
    page: str | Path | None = None,
    out: str | Path | None = None,
    notify: Notify = silent,
) -> Claims:
    """Test claims of papers on this machine, and write the page that tells what became of each.

    Args:
        names: Of claims; none means all.
        targets: Where to measure; none means ONNX Runtime and OpenVINO, as far as they are here.
        threads: Of the runtimes.
        passes: Fresh processes per artifact, and rounds per pair; fewer than 6 give no verdict.
        minutes: Stop measuring then; what is stored counts when it is run again. Exporting comes on top.
        page: The Markdown file to write; None means ``claims.md`` below the output folder. Plots lie in ``img`` beside.
        out: The folder to write below.
        notify: Called with one line per step.

    Raises:
        UsageError: A claim or target that is unknown.
        UnavailableError: No runtime is here.
    """
    wanted = chosen(tuple(names))
    for label, value in (("--passes", passes), ("--threads", threads)):
        if value < 1:
            raise UsageError(f"{label} {value} is too few.", hint="Give 1 or more.")
    for target in targets:
        check_target(target, {})
    where = list(targets) or [name for name in at_hand() if name in PREFERRED]
    if not where:
        raise UnavailableError(
            "Neither ONNX Runtime nor OpenVINO is installed here.", hint="pip install 'effbench[ort]'"
        )
    home = home_of(out) / FOLDER
    campaign = Campaign(home, threads, notify)
    for claim in wanted:
        claim.test.ask(campaign, where)
    campaign.prepare()
    interrupted = campaign.run(passes, minutes)
    findings = tuple(
        Finding(one.name, one.text, one.source, one.test.method, one.test.judge(campaign, where)) for one in wanted
    )
    grown = {test.what: sizes(test.resolutions) for test in (one.test for one in wanted) if isinstance(test, Grows)}
    found = tuple(series(campaign, what, px, where[0]) for what, px in grown.items())
    files = write_page(findings, found, Path(page) if page else home / "claims.md", where, threads)
    return Claims(findings, found, files, interrupted)


def write_page(
    findings: Sequence[Finding], found: Sequence[Series], page: Path, targets: Sequence[str], threads: int
) -> tuple[Path, ...]:
    """Write the page and its plot.

    Raises:
        DataError: It cannot be written there.
    """
    from effbench.reports.scaling import draw_series, table

    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        drawable = [one for one in found if one.growth("latency")]
        plots = draw_series(drawable, page.parent / "img", "claims")[:1] if drawable else ()
        image = plots[0].relative_to(page.parent).as_posix() if plots else ""
        laws = table(drawable, "github") if drawable else ""
        page.write_text(markdown(findings, machine(targets, threads), laws, image))
    except OSError as error:
        raise DataError(f"Cannot write {page}: {error.strerror}.", hint="Choose another with --page.") from error
    return (page, *plots)


def machine(targets: Sequence[str], threads: int) -> list[str]:
    """Return what the figures were measured on, in a sentence."""
    seen = environment.observe([package for name in targets for package in deploy.get(name).packages])
    cores = f"{seen['cores_allowed']} cores" if seen["cores_allowed"] else "cores unknown"
    return [
        f"Measured on {seen['cpu_model']} ({seen['machine']}, {cores}), {platform.system()}, {seen['runtime']}; "
        f"batch 1, {threads} thread{'s' if threads > 1 else ''}, fp32."
    ]
