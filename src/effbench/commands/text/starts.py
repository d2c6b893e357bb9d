"""How long a start takes, cold and cached, as lines below a table."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from effbench.schema import Round, Samples, Start


def lines(samples: Samples) -> list[str]:
    """Return the parts of the first start, if it was to be cold, and of the cached ones; nothing if none were timed."""
    cached = [item for item in samples.cached_starts if item.start is not None]
    result = []
    for item in samples.rounds:
        if item.start is not None and (item.start.cold or item.start.still_cached):
            result.append(_first(item, item.start))
            cached = [other for other in cached if other is not item]
    if cached:
        count = f"median of {len(cached)}" if len(cached) > 1 else "one"
        result.append(f"cached start ({count}): {_parts(cached)}")
    return result


def _first(item: Round, start: Start) -> str:
    head = "cold start" if start.cold else "first start, not cold"
    text = f"{head}: {_parts([item])}"
    if start.cold and start.disk_bytes is not None:
        text += f"; {start.disk_bytes / 2**20:.0f} MiB read from the disk"
    return f"{text}; still cached: {'; '.join(start.still_cached)}" if start.still_cached else text


def _parts(rounds: Sequence[Round]) -> str:
    starts = [item.start for item in rounds if item.start is not None]
    parts = {
        "import": [start.import_ms for start in starts],
        "read and check": [start.read_ms for start in starts],
        "session": [start.session_ms for start in starts],
        "first inference": [item.first_ms for item in rounds],
    }
    medians = {name: statistics.median(values) for name, values in parts.items()}
    shown = ", ".join(f"{name} {value:.0f}" for name, value in medians.items())
    return f"{sum(medians.values()):.0f} ms ({shown})"
