"""Where the operators of an artifact run, in the same words for every target."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from effbench.errors import ConversionError


def record(
    units: Mapping[str, int], *, partitions: int | None = 1, copies: int | None = 0, wanted: str | None = None
) -> dict[str, Any]:
    """Return the placement that every artifact's record holds, beside what its runtime says in its own words.

    Args:
        units: Unit (CPU, GPU, HTP, DLA, ...) -> operators that run on it, as the runtime counts them after fusion.
        partitions: Parts that the graph falls into, each on one unit; None where the runtime does not tell.
        copies: Tensors handed from one unit to another inside the graph; None where the runtime does not tell.
        wanted: The unit that was asked for; what runs elsewhere is fallback. None where the runtime may choose freely.
    """
    counted = {unit: number for unit, number in units.items() if number}
    found: dict[str, Any] = {"units": counted, "partitions": partitions, "copies": copies}
    if wanted is not None:
        found["fallback"] = {unit: number for unit, number in counted.items() if unit != wanted}
        if wanted != "CPU" and counted:
            found["accelerator_share"] = counted.get(wanted, 0) / sum(counted.values())
    return found


def check(placement: Mapping[str, Any], name: str) -> None:
    """Refuse an artifact of which operators run elsewhere than asked for.

    Raises:
        ConversionError: With the units, and how to accept it.
    """
    left = placement.get("fallback")
    if left:
        text = ", ".join(f"{number} on {unit}" for unit, number in left.items())
        raise ConversionError(
            "placement",
            f"{name} leaves operators to another unit: {text}, in {placement.get('partitions') or '?'} partitions.",
            hint="--allow-fallback accepts that, and records it.",
        )
