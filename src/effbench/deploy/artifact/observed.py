"""The outputs of an artifact for the reference images, as a file: a device returns them, and others can judge them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from effbench import reading
from effbench.errors import DataError

Array = npt.NDArray[Any]

MOST_BYTES = 256 << 20
"""Of the outputs that a device returns; those of a model with larger ones stay there."""
GROUPS = ("output", "again", "decoded", "of_decoded")


@dataclass(frozen=True)
class Observed:
    """The outputs of an artifact for the reference images, from which a check decides.

    Attributes:
        outputs: By name, images first.
        again: Of the first batch, run a second time.
        decoded: The encoded image as it was decoded and preprocessed there, shape (C, H, W); None if it was not.
        of_decoded: The outputs of one batch of that.

    Raises:
        DataError: They are no numbers, or the second run has other outputs.
    """

    outputs: Mapping[str, Array]
    again: Mapping[str, Array]
    decoded: Array | None = None
    of_decoded: Mapping[str, Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.outputs or any(value.dtype.kind not in "biuf" or not value.ndim for value in self._arrays()):
            raise DataError("The outputs are no numbers.")
        if self.again.keys() != self.outputs.keys():
            raise DataError("The outputs of the second run have other names.")
        if any(self.again[name].shape[1:] != value.shape[1:] for name, value in self.outputs.items()):
            raise DataError("The outputs of the second run have another shape.")

    def _arrays(self) -> list[Array]:
        single = [] if self.decoded is None else [self.decoded]
        return [*self.outputs.values(), *self.again.values(), *self.of_decoded.values(), *single]


def save(path: Path, checks: Sequence[Observed]) -> bool:
    """Write the outputs of each check of an artifact; return False, and write nothing, if they are too large."""
    arrays = {
        f"{index}:{group}:{name}": _compact(value)
        for index, check in enumerate(checks)
        for group, values in zip(GROUPS, _groups(check), strict=True)
        for name, value in values.items()
    }
    if sum(value.nbytes for value in arrays.values()) > MOST_BYTES:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return True


def load(path: Path) -> list[Observed]:
    """Read the outputs of each check of an artifact.

    Raises:
        DataError: The file is damaged, larger than what `save` writes, or holds something else.
    """
    checks: dict[str, dict[str, dict[str, Array]]] = {}
    for key, value in reading.arrays(path, MOST_BYTES).items():
        index, group, name = (*key.split(":", 2), "", "")[:3]
        if group not in GROUPS:
            raise DataError(f"{path}: not a file of returned outputs ({key[:60]!r}).")
        checks.setdefault(index, {}).setdefault(group, {})[name] = value
    if not checks:
        raise DataError(f"{path}: it holds no outputs.")
    try:
        return [_observed(groups) for groups in checks.values()]
    except DataError as error:
        raise DataError(f"{path}: {error.message}") from error


def _groups(check: Observed) -> tuple[Mapping[str, Array], ...]:
    return check.outputs, check.again, {} if check.decoded is None else {"": check.decoded}, check.of_decoded


def _observed(groups: Mapping[str, Mapping[str, Array]]) -> Observed:
    outputs, again, decoded, of_decoded = (dict(groups.get(group, {})) for group in GROUPS)
    return Observed(outputs, again, decoded.get(""), of_decoded)


def _compact(value: Array) -> Array:
    """Return float64 numbers as float32 where that loses nothing."""
    single = value.astype(np.float32) if value.dtype == np.float64 else value
    return single if np.array_equal(single, value, equal_nan=value.dtype.kind == "f") else value
