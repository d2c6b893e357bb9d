"""Reference samples with the outputs that the model has for them, as a file: all that a device needs to verify."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from effbench import reading
from effbench.deploy.artifact import encoded
from effbench.deploy.artifact.feeding import SYNTHETIC_IMAGES, Samples, count_of, take
from effbench.errors import DataError

Array = npt.NDArray[Any]


class Reference(NamedTuple):
    """Samples of the inputs, and the outputs that the model has for them.

    ``engine`` computed ``outputs``; ``source`` says what the samples are; ``rounding`` is the model's own
    (`rounding_of`), by output, and empty if it is unknown; ``kinds`` says how each output is judged.
    """

    samples: Samples
    outputs: Mapping[str, Array]
    engine: str
    source: str = SYNTHETIC_IMAGES
    rounding: Mapping[str, float] = MappingProxyType({})
    kinds: Mapping[str, str] = MappingProxyType({})


def save_reference(path: Path, reference: Reference, example: encoded.Example | None = None) -> None:
    """Write samples and expected outputs: all that a device needs to verify an artifact."""
    arrays = {f"output:{name}": value for name, value in reference.outputs.items()}
    arrays |= {f"rounding:{name}": np.array(value) for name, value in reference.rounding.items()}
    arrays |= {f"kind:{name}": np.array(value) for name, value in reference.kinds.items()}
    arrays |= {name: np.array(text) for name, text in (("engine", reference.engine), ("source", reference.source))}
    arrays |= encoded.arrays(example) if example else {}
    arrays |= {f"sample:{name}": value for name, value in reference.samples.items()}
    np.savez(path, **arrays)  # type: ignore[arg-type]


def load_reference(path: Path) -> Reference:
    """Read a file of expected outputs.

    Raises:
        DataError: The file is missing or not a reference.
    """
    try:
        data = reading.arrays(path)
        outputs, rounding, stored, samples = (
            {name.removeprefix(prefix): data[name] for name in data if name.startswith(prefix)}
            for prefix in ("output:", "rounding:", "kind:", "sample:")
        )
        own = {name: float(value) for name, value in rounding.items()}
        by_kind = {name: str(value) for name, value in stored.items()}
        if not samples or not outputs:
            raise KeyError("samples or outputs")
        return Reference(samples, outputs, str(data["engine"]), str(data["source"]), own, by_kind)
    except KeyError as error:
        raise DataError(f"{path}: not a file of expected outputs (no {error}).", hint="Export again.") from error


def first(reference: Reference, limit: int | None, batch: int) -> Reference:
    """Return the first samples of a reference with their expected outputs, in full batches; None takes all."""
    if limit is None:
        return reference
    count = min(count_of(reference.samples), -(-limit // batch) * batch)
    outputs = {name: value[:count] for name, value in reference.outputs.items()}
    return reference._replace(samples=take(reference.samples, slice(count)), outputs=outputs)
