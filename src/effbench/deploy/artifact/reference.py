"""Reference images with the outputs that the model has for them, as a file: all that a device needs to verify."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from effbench import reading
from effbench.deploy.artifact import encoded
from effbench.deploy.artifact.synthetic import NATURAL
from effbench.errors import DataError

Array = npt.NDArray[Any]

SYNTHETIC_IMAGES = f"{NATURAL} synthetic scenes, then black, white, noise and further scenes"


class Reference(NamedTuple):
    """Images and the outputs that the model has for them.

    ``engine`` computed ``outputs``; ``source`` says what the images are; ``rounding`` is the model's own
    (`rounding_of`), by output, and empty if it is unknown; ``kinds`` says how each output is judged.
    """

    images: npt.NDArray[np.uint8]
    outputs: Mapping[str, Array]
    engine: str
    source: str = SYNTHETIC_IMAGES
    rounding: Mapping[str, float] = MappingProxyType({})
    kinds: Mapping[str, str] = MappingProxyType({})


def save_reference(path: Path, reference: Reference, example: encoded.Example | None = None) -> None:
    """Write images and expected outputs: all that a device needs to verify an artifact."""
    arrays = {f"output:{name}": value for name, value in reference.outputs.items()}
    arrays |= {f"rounding:{name}": np.array(value) for name, value in reference.rounding.items()}
    arrays |= {f"kind:{name}": np.array(value) for name, value in reference.kinds.items()}
    arrays |= {name: np.array(text) for name, text in (("engine", reference.engine), ("source", reference.source))}
    arrays |= encoded.arrays(example) if example else {}
    np.savez(path, images=reference.images, **arrays)  # type: ignore[arg-type]


def load_reference(path: Path) -> Reference:
    """Read a file of expected outputs.

    Raises:
        DataError: The file is missing or not a reference.
    """
    try:
        data = reading.arrays(path)
        outputs, rounding, stored = (
            {name.removeprefix(prefix): data[name] for name in data if name.startswith(prefix)}
            for prefix in ("output:", "rounding:", "kind:")
        )
        own = {name: float(value) for name, value in rounding.items()}
        by_kind = {name: str(value) for name, value in stored.items()}
        return Reference(data["images"], outputs, str(data["engine"]), str(data["source"]), own, by_kind)
    except KeyError as error:
        raise DataError(f"{path}: not a file of expected outputs (no {error}).", hint="Export again.") from error


def first(reference: Reference, limit: int | None, batch: int) -> Reference:
    """Return the first images of a reference with their expected outputs, in full batches; None takes all."""
    if limit is None:
        return reference
    count = min(len(reference.images), -(-limit // batch) * batch)
    outputs = {name: value[:count] for name, value in reference.outputs.items()}
    return reference._replace(images=reference.images[:count], outputs=outputs)
