"""What kind of output each output of a model is, which decides how it is judged; guessed from the reference outputs.

A guess looks at the type, the shape, the range of values over the reference images, the operator that writes the
output, and last at the name. A user's word wins over it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from effbench.errors import UsageError, unknown_name

if TYPE_CHECKING:  # an export whose artifacts exist reads the names of kinds, and needs no numpy
    import numpy.typing as npt

    Array = npt.NDArray[Any]

KINDS: dict[str, str] = {
    "logits": "relative to the spread between images",
    "features": "relative to the spread between images",
    "sequence": "relative to the spread between images",
    "probabilities": "relative to the spread, or to a smallest scale where all values are near zero",
    "scores": "as probabilities; rows in order of score may swap where their scores tie",
    "boxes": "relative to the spread; rows follow their scores",
    "mask": "relative to the spread, with the agreement of labels; labels themselves by the share that differs",
    "integers": "by the share of elements that differ",
    "booleans": "by the share of elements that differ",
    "rows": "as a set of rows, as many as an image has; by the share of rows without a partner",
}
"""The kinds, and how each is judged."""
FLOORED = ("probabilities", "scores")
"""Kinds whose values lie between 0 and 1, so that an absolute error has a meaning."""
_SQUASHING = ("Sigmoid", "Softmax", "HardSigmoid")
_BOXES = ("box", "bbox", "loc", "rect")


def parse(pairs: Iterable[str]) -> dict[str, str]:
    """Return the kinds that a user gave as ``NAME=KIND``.

    Raises:
        UsageError: A pair has another form, or the kind is unknown.
    """
    result = {}
    for pair in pairs:
        name, sign, kind = pair.rpartition("=")
        if not sign or not name:
            raise UsageError(f"'{pair}' is not NAME=KIND.", hint="--output-kind scores=probabilities")
        result[name] = checked(kind)
    return result


def checked(kind: str) -> str:
    """Return a kind that exists.

    Raises:
        UsageError: It does not; the valid ones are listed.
    """
    if kind not in KINDS:
        raise unknown_name(kind, KINDS, "kind of output")
    return kind


def chosen(guesses: Mapping[str, str], overrides: Mapping[str, str]) -> dict[str, str]:
    """Return the kinds of a model's outputs: a user's word, else the guess.

    Raises:
        UsageError: The user names an output that the model does not have, or an unknown kind.
    """
    for name in overrides:
        if name not in guesses:
            raise unknown_name(name, guesses, "output")
    return {name: checked(overrides.get(name, guess)) for name, guess in guesses.items()}


def guess_all(
    outputs: Mapping[str, Array], image: tuple[int, int] | None, writers: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return the guessed kind of every output.

    Args:
        outputs: Reference outputs by name, images first.
        image: Height and width of the image input; None if there is none.
        writers: The type of the operator that computes an output's values, by name (`onnx_file.writers`).
    """
    return {name: guess(name, value, image, (writers or {}).get(name, "")) for name, value in outputs.items()}


def guess(name: str, value: Array, image: tuple[int, int] | None, writer: str = "") -> str:
    """Return the guessed kind of one output, shape (images, ...)."""
    from effbench.deploy.artifact import row_sets

    if writer in row_sets.WRITERS or row_sets.is_filled(value):
        return row_sets.KIND
    if value.dtype.kind == "b":
        return "booleans"
    spatial = image is not None and value.ndim >= 3 and min(value.shape[-2:]) * 4 >= min(image)
    if value.dtype.kind in "iu":
        return "mask" if spatial and value.ndim in (3, 4) else "integers"
    if value.shape[-1] == 4 and value.ndim == 3:
        return "boxes"
    if _ranked(value):
        return "scores"
    if _between_0_and_1(value) and (writer in _SQUASHING or _sums_to_1(value) or "prob" in name.lower()):
        return "probabilities"
    if any(part in name.lower() for part in _BOXES) and value.shape[-1] == 4:
        return "boxes"
    if value.ndim == 4 and spatial:
        return "mask"
    if value.ndim == 3:
        return "sequence"
    return "logits" if value.ndim == 2 else "features"


def _between_0_and_1(value: Array) -> bool:
    return bool(value.size) and float(value.min()) >= 0 and float(value.max()) <= 1 + 1e-6


def _sums_to_1(value: Array) -> bool:
    import numpy as np

    axes = {axis for axis in (1, value.ndim - 1) if 0 < axis < value.ndim and value.shape[axis] > 1}
    return any(np.allclose(value.sum(axis=axis), 1, atol=1e-3) for axis in axes)


def _ranked(value: Array) -> bool:
    """Return whether the rows of every image are in descending order, as behind a TopK."""
    import numpy as np

    if value.ndim != 2 or value.shape[1] < 3 or not np.isfinite(value).all():
        return False
    steps = np.diff(value.astype(np.float64), axis=1)
    return bool((steps <= 0).all() and (steps < 0).any())


def batch_axis(shape: tuple[int, ...], batch: int) -> int | None:
    """Return the axis of an output that holds the images of a batch; None if no axis has that length."""
    return next((axis for axis, size in enumerate(shape) if size == batch), None)


def images_first(values: Sequence[Array], counts: Sequence[int]) -> list[Array]:
    """Return an output of several runs with the batch axis first; without one, each becomes a single row.

    Args:
        values: The output of each run.
        counts: The number of images of each run. The batch axis has that length in every run.
    """
    import numpy as np

    axes = [
        {axis for axis, size in enumerate(value.shape) if size == count}
        for value, count in zip(values, counts, strict=True)
    ]
    axis = min(set.intersection(*axes), default=None)
    return [value[None] if axis is None else np.moveaxis(value, axis, 0) for value in values]
