"""Outputs of variable length, such as the boxes that a suppression leaves: as many rows as an image has.

Arrays of one output are stacked over images and filled at the end: with NaN, or the least integer. Two stacks are
compared as sets of rows, image by image, whatever the order; rows of outputs that have as many rows as each other, such
as boxes and their scores, belong together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from effbench.deploy.artifact import limits
from effbench.deploy.artifact.synthetic import NATURAL
from effbench.schema import OutputFidelity

Array = npt.NDArray[Any]
Compared = tuple[OutputFidelity, list[str], bool]
"""The figures of an output, the reasons of a failure, and whether all images have the same rows."""

KIND = "rows"
WRITERS = ("NonMaxSuppression", "NonZero")
"""Operators whose results have as many rows as an image asks for."""
MOST_PAIRS = 4_000_000
"""Of rows that are not in place, those that are compared with each other."""


def fill_of(dtype: Any) -> Any:
    """Return the value behind the last row."""
    kind = np.dtype(dtype).kind
    return np.nan if kind == "f" else np.iinfo(dtype).min if kind in "iu" else False


def stacked(values: Sequence[Array]) -> Array:
    """Concatenate outputs, images first; where shapes differ behind the first axis, all are filled to the largest."""
    if len({value.shape[1:] for value in values}) > 1 and len({value.ndim for value in values}) == 1:
        shape = np.max([value.shape for value in values], axis=0)
        values = [filled(value, (len(value), *shape[1:])) for value in values]
    return np.concatenate(values)


def filled(value: Array, shape: Sequence[int]) -> Array:
    """Return an array that is filled at the end of each axis to a shape, where it is smaller."""
    if value.ndim == len(shape) - 1:
        value = value[None]  # a single row was taken for the images' axis
    more = [(0, max(0, want - have)) for want, have in zip(shape, value.shape, strict=True)]
    return np.pad(value, more, constant_values=fill_of(value.dtype)) if np.any(more) else value


def like(values: Mapping[str, Array], others: Mapping[str, Array]) -> dict[str, Array]:
    """Return outputs filled to the shapes that the same outputs have elsewhere, apart from the number of images."""
    result = dict(values)
    for name, value in values.items():
        other = others.get(name)
        if other is not None and value.ndim in (other.ndim - 1, other.ndim) and value.shape[1:] != other.shape[1:]:
            rank_less = value.ndim < other.ndim
            result[name] = filled(value, (1 if rank_less else len(value), *other.shape[1:]))
    return result


def is_filled(value: Array) -> bool:
    """Return whether an output of at least one image ends in filled rows."""
    return value.ndim > 1 and bool(_last_filled(value))


def _last_filled(value: Array) -> list[int]:
    """Return the axes whose last place is filled for some image."""
    if value.dtype.kind not in "fiu" or not value.size:
        return []

    def ends(axis: int) -> bool:
        last = _is_fill(np.take(value, -1, axis)).reshape(len(value), -1)
        return bool(last.all(axis=1).any())

    return [axis for axis in range(1, value.ndim) if ends(axis)]


def _is_fill(value: Array) -> Array:
    result: Array = np.isnan(value) if value.dtype.kind == "f" else value == fill_of(value.dtype)
    return result


def rows_of(value: Array, axis: int) -> list[Array]:
    """Return for each image its rows, shape (rows, values); ``axis`` holds the rows."""
    result = []
    for image in np.moveaxis(value, axis, 1):
        flat = image.reshape(len(image), -1)
        real = ~_is_fill(flat).all(axis=1) if flat.dtype.kind in "fiu" and flat.size else np.ones(len(flat), bool)
        result.append(flat[real])
    return result


def compared(
    expected: Mapping[str, Array], actual: Mapping[str, Array], precision: str, natural: int = NATURAL
) -> dict[str, Compared]:
    """Compare outputs of variable length as sets of rows.

    Args:
        expected: By name, images first, filled.
        actual: The same names.
        precision: Storage precision; selects how far a row may be from its partner, and how many may lack one.
        natural: How many of the first images are natural; the spread is that of all rows of these.
    """
    result: dict[str, Compared] = {}
    for names in _groups(expected, actual):
        result |= _compared(names, expected, actual, precision, natural)
    return result


def _groups(expected: Mapping[str, Array], actual: Mapping[str, Array]) -> Iterator[dict[str, int]]:
    """Yield the outputs that have as many rows as each other for every image, each with the axis of its rows."""
    groups: dict[tuple[int, ...], dict[str, int]] = {}
    for name, want in expected.items():
        axis = _row_axis(want, actual[name])
        groups.setdefault(tuple(len(rows) for rows in rows_of(want, axis)), {})[name] = axis
    yield from groups.values()


def _row_axis(want: Array, have: Array) -> int:
    differ = [axis for axis in range(1, want.ndim) if have.ndim == want.ndim and want.shape[axis] != have.shape[axis]]
    return next(iter([*differ, *_last_filled(want), *_last_filled(have), 1]))


def _compared(
    names: Mapping[str, int], expected: Mapping[str, Array], actual: Mapping[str, Array], precision: str, natural: int
) -> dict[str, Compared]:
    want = {name: rows_of(expected[name], axis) for name, axis in names.items()}
    have = {name: rows_of(actual[name], axis) for name, axis in names.items()}
    scales = {name: _scale(rows[:natural]) for name, rows in want.items()}
    allowed = {name: limits.SAME_ROW[precision] * scale for name, scale in scales.items()}
    alone = total = 0
    example = ""
    for image in range(len(next(iter(want.values())))):
        pairs = [(want[name][image], have[name][image], allowed[name]) for name in names]
        left, right = _without_partner(pairs)
        alone += max(len(left), len(right))
        total += max(len(pairs[0][0]), len(pairs[0][1]))
        if not example and (len(left) or len(right)):
            example = _example(image, pairs, left, right)
    share = alone / max(total, 1)
    first = next(iter(want.values()))
    constant = all(np.array_equal(first[0], rows) for rows in first)
    bound = max(limits.ROWS[precision], 1 / total if total >= limits.MANY_ROWS else 0.0)
    label = " with ".join(f"'{name}'" for name in names)
    text = f"{alone} of {total} rows have no partner, above {bound:.3g}: output {label}, {example}"
    results = {}
    for index, name in enumerate(names):
        figures = OutputFidelity(
            name=name,
            kind=KIND,
            max_error=share,
            p99_error=share,
            cosine=1 - share,
            top1_agreement=1 - share,
            spread=0.0 if constant else 1.0,
            snr_db=float(-10 * np.log10(max(share, 1e-30))),
            limit=bound,
            mismatches=share,
        )
        results[name] = (figures, [text] if share > bound and index == 0 else [], constant)
    return results


def _scale(rows: Sequence[Array]) -> float:
    """Return the spread of the values of all rows, column by column; 0 for integers, whose rows have to be equal."""
    values = np.concatenate(list(rows)) if rows else np.zeros((0, 1))
    if values.dtype.kind != "f" or not values.size:
        return 0.0
    spread = float(np.sqrt(np.mean((values - values.mean(axis=0)) ** 2)))
    return spread or float(np.abs(values).max())


def _without_partner(pairs: Sequence[tuple[Array, Array, float]]) -> tuple[Array, Array]:
    """Return the rows of the expected and of the actual set that have no partner, by index."""
    count, other = len(pairs[0][0]), min(len(have) for _, have, _ in pairs)
    same = min(count, other)
    in_place = np.ones(same, bool)
    for want, have, allowed in pairs:
        in_place &= (np.abs(_double(want[:same]) - _double(have[:same])) <= allowed).all(axis=1)
    left = np.array([i for i in range(count) if i >= same or not in_place[i]], int)
    right = np.array([i for i in range(len(pairs[0][1])) if i >= same or not in_place[i]], int)
    if not len(left) or not len(right) or len(left) * len(right) > MOST_PAIRS:
        return left, right
    cost = np.zeros((len(left), len(right)))
    for want, have, allowed in pairs:
        distance = np.abs(_double(want[left])[:, None] - _double(have[right])[None]).max(axis=2, initial=0)
        cost = np.maximum(cost, np.where(distance <= allowed, distance / max(allowed, 1e-300), np.inf))
    free, unmatched = set(range(len(right))), []
    for i in range(len(left)):
        best = min(free, key=lambda j: cost[i, j], default=None)
        if best is None or not np.isfinite(cost[i, best]):
            unmatched.append(i)
        else:
            free.remove(best)
    return left[unmatched], right[sorted(free)]


def _example(image: int, pairs: Sequence[tuple[Array, Array, float]], left: Array, right: Array) -> str:
    side, rows = ("expected", left) if len(left) else ("observed", right)
    values = [float(x) for want, have, _ in pairs for x in (want if len(left) else have)[rows[0]][:4]]
    return f"row {int(rows[0])} of image {image} is only {side}: {', '.join(f'{value:.6g}' for value in values)}"


def _double(value: Array) -> Array:
    return np.asarray(value, np.float64)
