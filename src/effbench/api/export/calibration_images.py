"""The calibration images of one export: where they lie, and their hash at each size, which is part of a key."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from effbench.api.export.inputs import Inputs
from effbench.errors import UsageError
from effbench.schema import CALIBRATED, InputShapes, Preprocessing


@dataclass(frozen=True)
class CalibrationImages:
    """``place`` is a folder or ``synthetic``; ``hashes`` are those of the images as the model sees them."""

    place: str = ""
    hashes: dict[InputShapes, str] = field(default_factory=dict)


def calibration_images(
    folder: str | Path | None, inputs: Inputs, preprocessing: Preprocessing, precisions: Iterable[str]
) -> CalibrationImages:
    """Read the calibration images if a precision needs them.

    A model without an image input, or one that is fed from a user's file of arrays, needs none.

    Raises:
        UsageError: They are missing, or no precision needs them.
        DataError: The folder is missing, holds no images, or one cannot be read.
    """
    if not set(precisions) & set(CALIBRATED):
        if folder is not None:
            raise UsageError("--images belongs to int8 and a16w8.", hint="Add --precision int8.")
        return CalibrationImages()
    from effbench.deploy.precision.calibration import SYNTHETIC, stamps  # numpy, which most exports do not need here

    if folder is None and inputs.needs_no_images:
        folder = SYNTHETIC
    place = None if folder is None else SYNTHETIC if str(folder) == SYNTHETIC else str(Path(folder).resolve())
    stamp = stamps(place) if place not in (None, SYNTHETIC) else ()
    return CalibrationImages(
        place or "", {shapes: _sha256(place, shapes, preprocessing, inputs.channels, stamp) for shapes in inputs.sizes}
    )


@lru_cache(256)
def _sha256(
    place: str | None,
    shapes: InputShapes,
    preprocessing: Preprocessing,
    channels: int,
    stamp: tuple[tuple[str, int, int], ...],
) -> str:
    """Return the hash of the images of a folder; a sweep needs the same hash for hundreds of cells."""
    from effbench.deploy.precision.calibration import load_calibration

    return load_calibration(place, shapes.image, preprocessing, channels).sha256
