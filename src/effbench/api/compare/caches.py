"""Whether the weights of two models displace each other in the last-level cache of this machine.

Where the weights of one side would stay in the cache but those of both do not fit, alternation finds the cache full of
the other side's at each inference: both become slower, and a change that is bound by memory looks smaller than it is.
Such sides are timed in blocks: some inferences of one side in a row, after one that is not timed and fills the cache.
"""

from __future__ import annotations

from pathlib import Path

from effbench.profiles.paired import BLOCK

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


def block(a_bytes: int, b_bytes: int, cache_bytes: int | None, workers: int = 1) -> int:
    """Return how many inferences of one side run in a row: `BLOCK` if both sides do not fit into the cache together.

    Two workers take turns inference by inference in any case.
    """
    return 1 if workers == 2 or not _displaced(a_bytes, b_bytes, cache_bytes) else BLOCK


def note(a_bytes: int, b_bytes: int, cache_bytes: int | None, workers: int = 1) -> str:
    """Return what was done about two models of these sizes, or what is hidden; nothing if both fit into the cache."""
    if cache_bytes is None or not _displaced(a_bytes, b_bytes, cache_bytes):
        return ""
    a, b, cache = (size / 2**20 for size in (a_bytes, b_bytes, cache_bytes))
    text = f"the weights of both sides ({a:.0f} and {b:.0f} MiB) exceed the last-level cache ({cache:.0f} MiB)"
    if workers == 2:
        return f"{text}, so that turns of two workers hide part of a change that is bound by memory: use --workers 1"
    return f"{text}: timed in blocks of {BLOCK} inferences instead of one by one"


def _displaced(a_bytes: int, b_bytes: int, cache_bytes: int | None) -> bool:
    return cache_bytes is not None and a_bytes + b_bytes > cache_bytes
