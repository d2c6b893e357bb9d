"""Scaling: latency and memory of mixers and models over resolution, with the law they follow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from effbench import models
from effbench.api.claims.campaign import Campaign, Point, check_name, median_ms
from effbench.api.claims.request import ScalingRequest
from effbench.api.keywords import from_fields
from effbench.errors import UsageError
from effbench.models.parts import parts
from effbench.profiles.trust import grade
from effbench.reports.growth import MIN_SIZES, Series
from effbench.schema import Samples
from effbench.store import home as home_of

FOLDER = "claims"
"""Below the output folder: parts of networks are not models, and stay out of the reports of models."""

STRIDE = 32
"""Sizes are multiples of it, or of twice this where the range is wide enough."""


@dataclass(frozen=True)
class Scaling:
    """The result of `scaling`: a series per name and target, and the files that were drawn."""

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
    ends = [low_text, high_text] if dots else [low_text]
    if not all(end.isdecimal() and int(end) > 0 for end in ends):
        raise UsageError(f"Resolution '{text}' is no size and no range of sizes.", hint="Write it like 128..1024.")
    low, high = int(ends[0]), int(ends[-1])
    if high < low:
        raise UsageError(f"Range '{text}' runs backwards.", hint=f"Write it like {high}..{low}.")
    steps = round(2 * math.log2(high / low))
    grid = 2 * STRIDE if high >= 4 * 2 * STRIDE else STRIDE
    inner = [low * (high / low) ** (step / steps) for step in range(1, steps)]
    return sorted({low, high, *(grid * round(size / grid) for size in inner)})


@from_fields(ScalingRequest)
def scaling(request: ScalingRequest) -> Scaling:
    """Measure mixers, blocks and models over resolution, interleaved, and fit the laws they follow.

    Arguments are the fields of `ScalingRequest`.

    Raises:
        UsageError: A name, target or range is invalid; nothing was done then.
    """
    px = sorted({size for text in request.resolutions.split(",") for size in sizes(text)})
    if len(px) < MIN_SIZES:
        raise UsageError(
            f"{len(px)} sizes cannot show how a quantity grows.", hint="Take a wider range, such as 128..1024."
        )
    for name in request.names:
        check_name(name)
    home = home_of(request.out) / FOLDER
    campaign = Campaign(home, request.threads, request.notify)
    for name in request.names:
        for target in request.targets:
            for size in px:
                campaign.add(name, size, target)
    campaign.prepare()
    interrupted = campaign.run(request.passes, request.minutes)
    measured = tuple(series(campaign, name, px, target) for name in request.names for target in request.targets)
    files: tuple[Path, ...] = ()
    if request.plot and any(item.growth("latency") for item in measured):
        from effbench.reports.scaling import draw_series

        files = draw_series(measured, home, "scaling")
    return Scaling(measured, min((len(item.latency_ms) for item in measured), default=0), files, interrupted)


def series(campaign: Campaign, name: str, px: Sequence[int], target: str) -> Series:
    """Return the measurements of a name over resolution; sizes that failed are listed with their reasons."""
    points = [campaign.point(name, size, target) for size in px]
    measured = [point for point in points if point.rounds and point.artifact is not None]
    passes = min((len(point.rounds) for point in measured), default=0)
    return Series(
        name,
        target,
        order_of(name),
        tuple(point.px for point in measured),
        tuple((point.artifact.subject.macs or 0) if point.artifact else 0 for point in measured),
        tuple(tuple(median_ms(point.rounds[i]) for point in measured) for i in range(passes)),
        tuple(tuple(float(point.rounds[i].peak_rss_bytes) for point in measured) for i in range(passes)),
        max((_grade(point) for point in measured), default=""),
        {point.px: point.failure or "not measured yet" for point in points if point not in measured},
    )


def order_of(name: str) -> str:
    """Return the stated order of growth of a part or model, or an empty string."""
    if name in parts():
        return parts()[name].order
    return models.models()[name].mixer_order if name in models.models() else ""


def _grade(point: Point) -> str:
    (before, _), (_, after) = point.states[0], point.states[-1]
    return grade(Samples(tuple(point.rounds)), before, after)[0]
