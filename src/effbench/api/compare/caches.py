"""Whether the weights of two models displace each other in the last-level cache of this machine.

Sides alternate inference by inference. Where the weights of one would stay in the cache but those of both do not fit,
each inference finds the cache full of the other's: both sides become slower, and a change that is bound by memory looks
smaller than it is.
"""

from __future__ import annotations

from pathlib import Path

CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}


def last_level_bytes(folder: Path = CACHES) -> int | None:
    """Return the size of the last-level cache of the first core, or None where the system does not tell."""
    sizes = []
    for path in folder.glob("index*/size"):
        try:
            text = path.read_text().strip()
            sizes.append(int(text.rstrip("KMG")) * UNITS.get(text[-1:], 1))
        except (OSError, ValueError):
            continue
    return max(sizes, default=None)


def warning(a_bytes: int, b_bytes: int, cache_bytes: int | None) -> str:
    """Return what alternation hides for two models of these sizes; nothing if both fit into the cache."""
    if cache_bytes is None or a_bytes + b_bytes <= cache_bytes:
        return ""
    a, b, cache = (size / 2**20 for size in (a_bytes, b_bytes, cache_bytes))
    return (
        f"the weights of both sides ({a:.0f} and {b:.0f} MiB) exceed the last-level cache ({cache:.0f} MiB), so that "
        "alternation can hide part of a change that is bound by memory; measure separate runs too (--latency)"
    )
