"""The calibration pictures of one export: where they lie, and their hash at each size, which is part of a key."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from effbench.deploy.calibration import SYNTHETIC, load_calibration
from effbench.errors import UsageError
from effbench.schema import CALIBRATED, Backbone

Size = tuple[int, int]


@dataclass(frozen=True)
class Pictures:
    """``place`` is a folder or ``synthetic``; ``hashes`` are those of the pictures as the model sees them."""

    place: str = ""
    hashes: dict[Size, str] = field(default_factory=dict)


def pictures_for(
    folder: str | Path | None, backbone: Backbone, sizes: Sequence[Size], precisions: Iterable[str]
) -> Pictures:
    """Read the pictures where a precision needs them.

    Raises:
        UsageError: They are needed and not given, or given and not needed.
        DataError: The folder is missing, holds no pictures, or one cannot be read.
    """
    if not set(precisions) & set(CALIBRATED):
        if folder is not None:
            raise UsageError("--calibration belongs to int8 and a16w8.", hint="Add --precision int8.")
        return Pictures()
    given = None if folder is None else SYNTHETIC if str(folder) == SYNTHETIC else str(Path(folder).resolve())
    found = {size: load_calibration(given, size, backbone.preprocessing, backbone.in_channels) for size in sizes}
    return Pictures(given or "", {size: one.sha256 for size, one in found.items()})
