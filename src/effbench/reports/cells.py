"""Text from outside as one cell of a table: it stays on its line, and no program that opens the file acts on it."""

from __future__ import annotations

import re
from typing import Any

from effbench.boundary.names import printable

MARKDOWN = re.compile(r"[\\*_|<>`]|\](?=[(\[:])|~(?=~)|^#")
"""Signs that make markup: emphasis, HTML, cells, code, links and images (which a viewer would fetch), headings."""

MENTION = re.compile(r"(?<!\w)([@#])(?=\w)")
"""What a forge turns into a message to somebody, or a link to an issue."""

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
"""What makes a spreadsheet read a cell as a formula."""


def one_line(text: str) -> str:
    """Return a text on one line, its control characters written out."""
    return printable(" ".join(text.split()) if any(sign in text for sign in "\n\r\t\v\f\x85\u2028\u2029") else text)


def markdown(text: str) -> str:
    """Return a text that Markdown shows as it is."""
    return MENTION.sub("\\1\u2060", MARKDOWN.sub(lambda match: f"\\{match[0]}", one_line(text)))


def spreadsheet(value: Any) -> Any:
    """Return a value of a CSV file: a text that a spreadsheet would run gets an apostrophe in front; a number none."""
    if not isinstance(value, str):
        return value
    text = one_line(value)
    return f"'{text}" if text.startswith(FORMULA) else text
