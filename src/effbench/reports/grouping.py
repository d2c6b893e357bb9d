"""Group and count: a remark that several rows share is printed once, with the rows that it is about."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

NUMBER = re.compile(r"(?<![\w.\-])[+\-±]?\d+(?:\.\d+)?(?![\w.\-]*\w)")
"""A number by itself, with its sign; digits inside a word or a version are part of its name."""

MOST_NAMES = 3
"""How many rows are named; more are counted."""


def grouped(remarks: Iterable[tuple[str, str]], rows: int, *, ranges: bool = False, noun: str = "cells") -> list[str]:
    """Return one line per remark, in the order of first use: ``all: ...``, ``a, b: ...`` or ``on 6 cells: ...``.

    Args:
        remarks: The name of a row, and a remark about it.
        rows: The number of rows; if there are several, a remark about every one of them begins with ``all``.
        ranges: Remarks that differ only in their numbers are one remark, with the range of each number.
        noun: What a row is, in the plural.
    """
    names: dict[str, dict[str, None]] = {}
    texts: dict[str, list[str]] = {}
    for name, text in remarks:
        key = template(text) if ranges else text
        texts.setdefault(key, []).append(text)
        names.setdefault(key, {})[name] = None
    return [f"{_subject(list(names[key]), rows, noun)}: {merged(texts[key])}" for key in texts]


def template(text: str) -> str:
    """Return a text with a mark in place of each number, one that no text has by itself."""
    return NUMBER.sub("\0", text.replace("\0", ""))


def merged(texts: Sequence[str]) -> str:
    """Return texts of one template as one text: ``-3 % slower`` and ``+7 % slower`` become ``-3 to +7 % slower``."""
    if len(set(texts)) == 1:
        return texts[0]
    columns = zip(*(NUMBER.findall(text) for text in texts), strict=True)
    ranges = iter([_range(numbers) for numbers in columns])
    return NUMBER.sub(lambda _: next(ranges), texts[0])


def _range(numbers: Sequence[str]) -> str:
    low, high = (extreme(numbers, key=_value) for extreme in (min, max))
    return low if _value(low) == _value(high) else f"{low} to {high}"


def _value(number: str) -> float:
    return float(number.removeprefix("±"))


def _subject(names: Sequence[str], rows: int, noun: str) -> str:
    if len(names) == rows and rows > 1:
        return "all"
    return ", ".join(names) if len(names) <= MOST_NAMES else f"on {len(names)} {noun}"


def tally(counts: Mapping[str, int]) -> str:
    """Return how many there are of each kind, the most frequent first: ``3 ok, 1 failed``."""
    return ", ".join(
        f"{number} {kind}" for kind, number in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    )
