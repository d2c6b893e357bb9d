"""Where the operators of an artifact run, recorded in the same way for every target."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from effbench.errors import ConversionError


def record(
    units: Mapping[str, int], *, partitions: int | None = 1, copies: int | None = 0, requested: str | None = None
) -> dict[str, Any]:
    """Return the placement that the record of every artifact holds, beside what its runtime reports.

    Args:
        units: Unit (CPU, GPU, HTP, DLA, ...) -> operators that run on it, as the runtime counts them after fusion.
        partitions: Parts that the graph is split into, each on one unit; None if the runtime does not report it.
        copies: Tensors copied from one unit to another inside the graph; None if the runtime does not report it.
        requested: The unit that the user requested; what runs elsewhere is fallback. None if the runtime may choose.
    """
    counts = {unit: number for unit, number in units.items() if number}
    placement: dict[str, Any] = {"units": counts, "partitions": partitions, "copies": copies}
    if requested is not None:
        placement["fallback"] = {unit: number for unit, number in counts.items() if unit != requested}
        if requested != "CPU" and counts:
            placement["accelerator_share"] = counts.get(requested, 0) / sum(counts.values())
    return placement


def check(placement: Mapping[str, Any], name: str) -> None:
    """Refuse an artifact if some of its operators run on another unit than the requested one.

    Raises:
        ConversionError: With the units, and how to accept it.
    """
    fallback = placement.get("fallback")
    if fallback:
        text = ", ".join(f"{number} on {unit}" for unit, number in fallback.items())
        raise ConversionError(
            "placement",
            f"{name} leaves operators to another unit: {text}, in {placement.get('partitions') or '?'} partitions.",
            hint="--allow-fallback accepts that, and records it.",
        )
