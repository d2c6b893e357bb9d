"""Detections in order of their scores: near-tied rows may swap, and one at the end may give way to another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def groups(expected: Mapping[str, Array], kinds: Mapping[str, str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield each output of scores in descending order, and all outputs with the same rows, itself included."""
    for name, kind in kinds.items():
        scores = expected.get(name)
        if kind != "scores" or scores is None or scores.ndim != 2 or (np.diff(scores, axis=1) > 0).any():
            continue
        yield name, tuple(other for other, value in expected.items() if value.shape[:2] == scores.shape)


def aligned(
    expected: Mapping[str, Array], actual: Mapping[str, Array], kinds: Mapping[str, str], allowed: Mapping[str, float]
) -> dict[str, Array]:
    """Return the actual outputs with swapped rows in the order of the expected ones, where a tie explains the swap.

    Args:
        expected: Outputs by name, shape (images, rows, ...).
        actual: The same names and shapes.
        kinds: By name.
        allowed: The largest error of an element, by name, in the output's unit; two scores tie within twice that.
    """
    result = dict(actual)
    for scores, members in groups(expected, kinds):
        tie = 2 * allowed[scores]
        for name in members:
            result[name] = np.array(result[name])
        for image in range(len(expected[scores])):
            rows = {name: (expected[name][image], actual[name][image]) for name in members}
            for row, (name, value) in _moves(rows, expected[scores][image], actual[scores][image], allowed, tie):
                result[name][image, row] = value
    return result


def _moves(
    rows: Mapping[str, tuple[Array, Array]], want: Array, have: Array, allowed: Mapping[str, float], tie: float
) -> Iterator[tuple[int, tuple[str, Array]]]:
    """Yield a row, and the name and values of an output that belong there."""
    in_place = np.max([_errors(*pair, allowed[name]) for name, pair in rows.items()], axis=0)
    wrong = np.flatnonzero(~(in_place <= 1))
    if not len(wrong):
        return
    chosen = {name: (pair[0][wrong], pair[1][wrong]) for name, pair in rows.items()}
    cost = np.max([_distances(*pair, allowed[name]) for name, pair in chosen.items()], axis=0)
    cost[np.abs(want[wrong][:, None] - want[wrong][None]) > tie] = np.inf
    free, last = set(range(len(wrong))), want[-1]
    left = []
    for i, row in enumerate(wrong):
        best = min(free, key=lambda j: (cost[i, j], abs(i - j)), default=None)
        if best is None or not cost[i, best] <= 1:
            left.append(row)
            continue
        free.remove(best)
        yield from ((int(row), (name, pair[1][best])) for name, pair in chosen.items())
    # The last rows may be others, of nearly the same score.
    cut = sorted(j for j in free if abs(have[wrong[j]] - last) <= tie)
    for row in left:
        if abs(want[row] - last) <= tie and cut:
            cut.pop()
            yield from ((int(row), (name, pair[0][row])) for name, pair in rows.items())


def _errors(want: Array, have: Array, allowed: float) -> Array:
    """Return the largest error of each row in units of the allowed one, shape (n,)."""
    result: Array = np.abs(_flat(want) - _flat(have)).max(axis=1) / max(allowed, 1e-300)
    return result


def _distances(want: Array, have: Array, allowed: float) -> Array:
    """Return the same between each expected and each actual row, shape (n, n)."""
    result: Array = np.abs(_flat(want)[:, None] - _flat(have)[None]).max(axis=2) / max(allowed, 1e-300)
    return result


def _flat(rows: Array) -> Array:
    result: Array = np.asarray(rows, np.float64).reshape(len(rows), -1)
    return result
