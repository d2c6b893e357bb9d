"""Figures as files: whole or not there, though two reports may write them at once; equal figures give equal bytes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from effbench import drafts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OPTIONS: dict[str, dict[str, Any]] = {
    ".png": {"dpi": 160, "metadata": {"Software": None}},
    ".svg": {"metadata": {"Date": None, "Creator": None}},
}
"""By the suffix of a file; without these metadata the bytes would change with the day and the version."""


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG or SVG, by the suffix of the path.

    Raises:
        OSError: The folder cannot be written.
    """
    with drafts.draft(path.parent, f".{path.name}.") as draft:
        figure.savefig(draft, format=path.suffix[1:], **OPTIONS[path.suffix])
        draft.replace(path)
