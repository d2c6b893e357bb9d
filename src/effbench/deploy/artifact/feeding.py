"""What a model is fed: samples of each of its inputs, by role, and batches of them.

Samples are arrays by input name whose first axis counts them. An image is stored as pixels, shape (N, C, H, W), uint8,
so that photographs can stand in for scenes; other inputs are stored in the type that the model takes, with a batch axis
of 1.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from effbench import reading
from effbench.data.pixels import normalize
from effbench.deploy.artifact.synthetic import NATURAL, reference_images
from effbench.errors import DataError
from effbench.schema import InputSpec, Preprocessing, image_of

Array = npt.NDArray[Any]
Samples = Mapping[str, Array]
SYNTHETIC_IMAGES = f"{NATURAL} synthetic scenes, then black, white, noise and further scenes"


MOST_VALUES = 1 << 32
"""Of one input, over all samples."""


def count_of(samples: Samples) -> int:
    """Return how many samples there are."""
    return len(next(iter(samples.values())))


def take(samples: Samples, chosen: slice | Sequence[int]) -> dict[str, Array]:
    """Return some of the samples."""
    return {name: value[chosen] for name, value in samples.items()}


def synthetic(inputs: Sequence[InputSpec], count: int, seed: int = 0) -> dict[str, Array]:
    """Return samples of every input, drawn from a seed; the same for the same signature.

    Several image inputs get different images.

    Raises:
        DataError: They would take more than `MOST_VALUES` values.
    """
    for spec in inputs:
        values = count * math.prod(1 if axis == spec.batch_axis else side or 1 for axis, side in enumerate(spec.shape))
        if values > MOST_VALUES:
            raise DataError(
                f"The input '{spec.name}' of shape {list(spec.shape)} takes {values:.1e} values for {count} samples.",
                hint="Check its shape; --shape NAME=1x3x224x224 and --batch give another where it is open.",
            )
    image = image_of(inputs)
    size = _size(image) if image is not None else (0, 0)
    images = [spec for spec in inputs if spec.role == "image"]
    return {
        spec.name: reference_images(count, spec.channels, _size(spec), seed + 17 * images.index(spec))
        if spec.role == "image"
        else np.stack([_values(spec, size, seed + index) for index in range(count)])
        for spec in inputs
    }


def unsampled(inputs: Iterable[InputSpec]) -> tuple[InputSpec, ...]:
    """Return inputs that are fed by their role alone, where the user's file of arrays is not at hand."""
    return tuple(replace(spec, sampled=False) for spec in inputs)


def _size(spec: InputSpec) -> tuple[int, int]:
    height, width = spec.size
    return height or 1, width or 1


def _values(spec: InputSpec, size: tuple[int, int], seed: int) -> Array:
    """Return one sample of an input that is no image."""
    shape = [1 if axis == spec.batch_axis else side or 1 for axis, side in enumerate(spec.shape)]
    if spec.role == "constant":
        return np.full(shape, spec.value).astype(spec.dtype)
    if spec.role == "size":
        return np.resize(np.asarray(size), shape).astype(spec.dtype)
    random = np.random.default_rng([seed, zlib.crc32(spec.name.encode())])
    if spec.role == "tokens":
        return random.integers(0, spec.vocabulary or 2, shape).astype(spec.dtype)
    values = random.uniform(size=shape) if spec.role == "uniform" else random.normal(size=shape)
    return values.astype(spec.dtype)


def from_file(path: Path, inputs: Sequence[InputSpec], count: int) -> dict[str, Array]:
    """Return the samples of a user's ``.npz`` file for the inputs that it names.

    An array counts its samples along the batch axis, or along one more axis in front. If there are fewer samples than
    asked for, they are repeated.

    Raises:
        DataError: The file names no input of the model, or an array has another shape.
    """
    arrays = reading.arrays(path)
    by_name = {spec.name: spec for spec in inputs}
    samples = {}
    for name, array in arrays.items():
        if name not in by_name:
            raise DataError(f"{path}: the model has no input '{name}'.", hint=f"Its inputs: {', '.join(by_name)}.")
        samples[name] = _stacked(array, by_name[name], path)
    lengths = {len(value) for value in samples.values()}
    if len(lengths) != 1 or 0 in lengths:
        raise DataError(f"{path}: its arrays hold {sorted(lengths)} samples; all need the same number, 1 or more.")
    return {name: value[np.arange(count) % len(value)] for name, value in samples.items()}


def _stacked(array: Array, spec: InputSpec, path: Path) -> Array:
    """Return samples first, each in the shape of the input with a batch axis of 1."""
    one = tuple(1 if axis == spec.batch_axis else side for axis, side in enumerate(spec.shape))
    if array.ndim == len(one) and spec.batch_axis is not None:
        array = np.expand_dims(np.moveaxis(array, spec.batch_axis, 0), 1 + spec.batch_axis)
    fits = array.ndim == len(one) + 1 and all(b in (None, a) for a, b in zip(array.shape[1:], one, strict=True))
    if not fits:
        needed_shape = "x".join(["samples", *("?" if side is None else str(side) for side in one)])
        raise DataError(f"{path}: '{spec.name}' has shape {list(array.shape)}; {needed_shape} is needed.")
    if not np.can_cast(array.dtype, spec.dtype, "same_kind"):
        raise DataError(f"{path}: '{spec.name}' holds {array.dtype}; the model takes {spec.dtype}.")
    return array.astype(spec.dtype)


def images_in(images: npt.NDArray[np.uint8], spec: InputSpec, preprocessing: Preprocessing) -> Array:
    """Return images, shape (N, C, H, W), uint8, in the layout and type of an image input, the batch axis first.

    Numbers with a fraction are scaled and normalized as the preprocessing declares; integers stay pixels.
    """
    floating = np.issubdtype(np.dtype(spec.dtype), np.floating)
    tensor = normalize(images, preprocessing, spec.dtype) if floating else images.astype(spec.dtype)
    if "C" not in spec.layout:
        tensor = tensor[:, 0]
    order = [letter for letter in "NCHW" if letter == "N" or letter in spec.layout]
    return np.ascontiguousarray(tensor.transpose([0, *(order.index(x) for x in spec.layout if x != "N")]))


def feeds(
    samples: Samples, batch: int, inputs: Sequence[InputSpec], preprocessing: Preprocessing
) -> list[dict[str, Array]]:
    """Return the inputs of each batch, by name, as the model takes them."""
    count = count_of(samples)
    return [
        {spec.name: _batch(samples[spec.name][start : start + batch], spec, preprocessing) for spec in inputs}
        for start in range(0, count, batch)
    ]


def _batch(samples: Array, spec: InputSpec, preprocessing: Preprocessing) -> Array:
    if spec.role == "image" and not spec.sampled:
        tensor = images_in(samples, spec, preprocessing)
        return tensor if "N" in spec.layout else tensor[0]
    if spec.batch_axis is None:
        first: Array = np.asarray(samples[0])  # one of no dimensions would be a number
        return first
    joined: Array = np.concatenate(list(samples), axis=spec.batch_axis)
    return np.ascontiguousarray(joined)


def described(inputs: Iterable[InputSpec], samples_file: str | None = None) -> str:
    """Say what `synthetic` or a file feeds; scenes alone have the words that a count can be put in."""
    specs = list(inputs)
    if [(spec.role, spec.sampled) for spec in specs] == [("image", False)]:
        return SYNTHETIC_IMAGES
    return "; ".join(f"{spec.name}: {f'arrays of {samples_file}' if spec.sampled else _words(spec)}" for spec in specs)


def _words(spec: InputSpec) -> str:
    return {
        "image": "scenes",
        "tokens": f"tokens below {spec.vocabulary}",
        "normal": "normal values",
        "uniform": "values from 0 to 1",
        "constant": f"{spec.value:g}",
        "size": "the size of the image",
    }[spec.role]
