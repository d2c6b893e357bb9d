"""Scaling: latency and memory of mixers and models over resolution, with the law they follow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from effbench import models
from effbench.api.claims.campaign import PASSES, Campaign, Point, check_name, median_ms
from effbench.api.export.run import check_target
from effbench.api.export.stage import Notify, silent
from effbench.errors import UsageError
from effbench.models.parts import parts
from effbench.profiles.trust import grade
from effbench.reports.growth import MIN_SIZES, Series
from effbench.schema import Samples
from effbench.store import home as home_of

FOLDER = "claims"
"""Below the output folder: parts of networks are no models, and do not belong into reports of models."""

RANGE = "224..1024"

STRIDE = 32
"""Sizes are multiples of it, or of its double where the range is wide enough."""


@dataclass(frozen=True)
class Scaling:
    """What `scaling` gave: a series per name and target, and the files that were drawn."""

    series: tuple[Series, ...]
    passes: int
    files: tuple[Path, ...] = ()
    interrupted: bool = False


def sizes(text: str) -> list[int]:
    """Read ``128..1024`` as sizes in pixels, about two per doubling; ``512`` is one size.

    Raises:
        UsageError: It is neither, or the range runs backwards.
    """
    low_text, dots, high_text = text.partition("..")
    parts = [low_text, high_text] if dots else [low_text]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UsageError(f"Resolution '{text}' is no size and no range of sizes.", hint="Write it like 128..1024.")
    low, high = int(parts[0]), int(parts[-1])
    if high < low:
        raise UsageError(f"Range '{text}' runs backwards.", hint=f"Write it like {high}..{low}.")
    steps = round(2 * math.log2(high / low))
    grid = 2 * STRIDE if high >= 4 * 2 * STRIDE else STRIDE
    inner = [low * (high / low) ** (step / steps) for step in range(1, steps)]
    return sorted({low, high, *(grid * round(size / grid) for size in inner)})


def scaling(
    names: Sequence[str],
    resolutions: str = RANGE,
    *,
    targets: Sequence[str] = ("ort",),
    threads: int = 1,
    passes: int = PASSES,
    minutes: float | None = None,
    out: str | Path | None = None,
    plot: bool = True,
    notify: Notify = silent,
) -> Scaling:
    """Measure mixers, blocks and models over resolution, interleaved, and fit the laws they follow.

    Args:
        names: Parts (`effbench.models.parts`) or whatever `export` takes.
        resolutions: Pixels, as a range ``128..1024`` or sizes with commas; a part works on the map that an image of
            that size has at the part's stage.
        targets: Where to measure.
        threads: Of the runtime.
        passes: Fresh processes per size; fewer than 6 give no interval.
        minutes: Stop measuring then; what is stored counts when it is run again. Exporting comes on top.
        out: The folder to write below.
        plot: Draw both quantities on logarithmic axes.
        notify: Called with one line per step.

    Raises:
        UsageError: A name, target or range that cannot be meant.
    """
    wanted = sorted({size for text in resolutions.split(",") for size in sizes(text)})
    if len(wanted) < MIN_SIZES:
        raise UsageError(
            f"{len(wanted)} sizes cannot tell how something grows.", hint="Take a wider range, such as 128..1024."
        )
    if passes < 1:
        raise UsageError(f"--passes {passes} is too few.", hint="Give 1 or more; 6 give an interval.")
    for name in names:
        check_name(name)
    for target in targets:
        check_target(target, {})
    home = home_of(out) / FOLDER
    campaign = Campaign(home, threads, notify)
    for name in names:
        for target in targets:
            for px in wanted:
                campaign.measured(name, px, target)
    campaign.prepare()
    interrupted = campaign.run(passes, minutes)
    found = tuple(series(campaign, name, wanted, target) for name in names for target in targets)
    files: tuple[Path, ...] = ()
    if plot and any(one.growth("latency") for one in found):
        from effbench.reports.scaling import draw_series

        files = draw_series(found, home, "scaling")
    return Scaling(found, min((len(one.latency_ms) for one in found), default=0), files, interrupted)


def series(campaign: Campaign, name: str, px: Sequence[int], target: str) -> Series:
    """Return what is known of a name over resolution; sizes that failed are left out, with their reasons."""
    points = [campaign.point(name, size, target) for size in px]
    good = [point for point in points if point.rounds and point.artifact is not None]
    passes = min((len(point.rounds) for point in good), default=0)
    return Series(
        name,
        target,
        order_of(name),
        tuple(point.px for point in good),
        tuple((point.artifact.subject.macs or 0) if point.artifact else 0 for point in good),
        tuple(tuple(median_ms(point.rounds[i]) for point in good) for i in range(passes)),
        tuple(tuple(float(point.rounds[i].peak_rss_bytes) for point in good) for i in range(passes)),
        max((_grade(point) for point in good), default=""),
        {point.px: point.failure or "not measured yet" for point in points if point not in good},
    )


def order_of(name: str) -> str:
    """Return how the cost of a part or model is said to grow, or nothing."""
    if name in parts():
        return parts()[name].order
    return models.models()[name].mixer_order if name in models.models() else ""


def _grade(point: Point) -> str:
    (before, _), (_, after) = point.states[0], point.states[-1]
    return grade(Samples(tuple(point.rounds)), before, after)[0]
