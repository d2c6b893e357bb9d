"""Readers for the outputs of vendors' tools: one module per tool, each ends in ``READER``.

Raw times become samples. A tool that prints only statistics gives an *aggregate*: a single figure without an interval,
marked as such. Each module states the source of its format; `effbench import` and the runners on Android use them.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from effbench.errors import DataError, unknown_name
from effbench.registry import constants_in


@dataclass(frozen=True)
class Reading:
    """Times of one run of a tool.

    Args:
        samples_ns: Raw times in order, or the single figure of an aggregate.
        aggregate: The statistic of that figure (``mean of 50 runs``), or empty if the samples are raw.
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
    """A format: its name and title, a test whether a text has it, and its reader."""

    name: str
    title: str
    matches: Callable[[str], bool]
    read: Callable[[str, str], Reading]


def readers() -> dict[str, Reader]:
    """Return the formats by name."""
    return {reader.name: reader for reader in constants_in(__name__, "READER")}


def read(text: str, file_name: str, name: str | None = None) -> tuple[Reader, Reading]:
    """Read the output of a tool.

    Args:
        text: The content of the file.
        file_name: Its name, for messages.
        name: The format; None detects it from the text.

    Raises:
        UsageError: There is no such format.
        DataError: The text has no known format, or is damaged.
    """
    known_readers = readers()
    if name is not None and name not in known_readers:
        raise unknown_name(name, known_readers, "format")
    chosen = (
        [known_readers[name]]
        if name is not None
        else [reader for reader in known_readers.values() if _matches(reader, text)]
    )
    if len(chosen) != 1:
        listed = "; ".join(f"{key}: {reader.title}" for key, reader in known_readers.items())
        raise DataError(f"{file_name}: not the output of a known tool.", hint=f"Values of --format: {listed}.")
    try:
        reading = chosen[0].read(text, file_name)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, csv.Error) as error:
        raise DataError(f"{file_name}: not a whole output of {chosen[0].title} ({str(error)[:100]}).") from error
    if not reading.samples_ns or min(reading.samples_ns) <= 0:
        raise DataError(f"{file_name}: holds no time above zero ({chosen[0].title}).")
    return chosen[0], reading


def _matches(reader: Reader, text: str) -> bool:
    try:
        return reader.matches(text)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, DataError):
        return False


def to_ns(value: float, unit_s: float) -> int:
    """Return a time as whole nanoseconds; ``unit_s`` is its unit in seconds."""
    return round(value * unit_s * 1e9)


MS, US = 1e-3, 1e-6
