"""What vendors' tools write, read as times: one module per tool, each ends in ``READER``.

Raw times become samples. A tool that prints only statistics gives an *aggregate*: a single figure, marked as one,
without an interval. Every format is named with where it is described; `effbench import` and the runners on Android
share them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from effbench.errors import DataError, unknown_name
from effbench.registry import constants_in


@dataclass(frozen=True)
class Reading:
    """Times of one run of a tool.

    Args:
        samples_ns: Raw times in order, or the one figure of an aggregate.
        aggregate: What that figure is (``mean of 50 runs``), or empty where the samples are raw.
        scope: ``end-to-end`` (host arrays to host arrays) or ``device-only``.
    """

    samples_ns: tuple[int, ...]
    aggregate: str = ""
    scope: str = "end-to-end"
    warmup: int = 0
    load_ms: float = 0.0
    first_ms: float = 0.0
    settings: dict[str, str] = field(default_factory=dict)
    observed: dict[str, float] = field(default_factory=dict)
    placement: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reader:
    """A format: its name, what it is, whether a text looks like it, and how it is read."""

    name: str
    title: str
    matches: Callable[[str], bool]
    read: Callable[[str, str], Reading]


def readers() -> dict[str, Reader]:
    """Return the formats by name."""
    return {reader.name: reader for reader in constants_in(__name__, "READER")}


def read(text: str, where: str, name: str | None = None) -> tuple[Reader, Reading]:
    """Read what a tool wrote.

    Args:
        text: The file.
        where: Its name, for messages.
        name: The format; None tells it from the text.

    Raises:
        UsageError: There is no such format.
        DataError: The text is of none, or of a damaged one.
    """
    known = readers()
    if name is not None and name not in known:
        raise unknown_name(name, known, "format")
    chosen = [known[name]] if name is not None else [reader for reader in known.values() if reader.matches(text)]
    if len(chosen) != 1:
        listed = "; ".join(f"{key}: {reader.title}" for key, reader in known.items())
        raise DataError(f"{where}: not what any known tool writes.", hint=f"Known, for --format: {listed}.")
    found = chosen[0].read(text, where)
    if not found.samples_ns or min(found.samples_ns) <= 0:
        raise DataError(f"{where}: holds no time above zero ({chosen[0].title}).")
    return chosen[0], found


def to_ns(value: float, unit_s: float) -> int:
    """Return a time as whole nanoseconds; ``unit_s`` is the unit it is given in, in seconds."""
    return round(value * unit_s * 1e9)


MS, US = 1e-3, 1e-6
