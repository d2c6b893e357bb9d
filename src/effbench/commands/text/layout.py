"""How tables are drawn in a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return rows as a table; numbers are printed as they are given. Columns without any value are left out."""
    from tabulate import tabulate

    lines = [list(row) for row in rows]
    columns = [
        index for index in range(len(header)) if not lines or any(line[index] not in ("", None) for line in lines)
    ]
    body = [[line[index] for index in columns] for line in lines]
    return tabulate(body, headers=[header[index] for index in columns], tablefmt="simple", disable_numparse=True)
