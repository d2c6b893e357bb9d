"""Outputs of variable length are judged as sets of rows."""

from __future__ import annotations

import numpy as np
import pytest

from effbench.deploy import Array
from effbench.deploy.artifact import fidelity, kinds, row_sets
from effbench.deploy.artifact.judge import Terms, own_rounding, verdict

RNG = np.random.default_rng(0)
COUNTS = (4, 7, 1, 5, 0, 6, 3, 8, 2)
BOXES = [RNG.uniform(0, 64, (count, 4)) for count in COUNTS]
SCORES = [np.sort(RNG.uniform(0, 1, (count, 1)), axis=0)[::-1] for count in COUNTS]
TERMS = Terms({"boxes": "rows", "scores": "rows"})


def outputs(boxes: list[Array] = BOXES, scores: list[Array] = SCORES) -> dict[str, Array]:
    return {
        "boxes": row_sets.stacked([value[None] for value in boxes]),
        "scores": row_sets.stacked([value[None] for value in scores]),
    }


def changed(image: int, row: int, **values: Array | float) -> dict[str, Array]:
    boxes, scores = ([value.copy() for value in part] for part in (BOXES, SCORES))
    for name, value in values.items():
        (boxes if name == "boxes" else scores)[image][row] = value
    return outputs(boxes, scores)


def test_rows_in_another_order_are_the_same_set() -> None:
    order = [RNG.permutation(count) for count in COUNTS]
    boxes = [value[rows] for value, rows in zip(BOXES, order, strict=True)]
    scores = [value[rows] for value, rows in zip(SCORES, order, strict=True)]
    result = verdict(outputs(), outputs(boxes, scores), "fp32", TERMS)
    assert (result.reasons, result.unverifiable) == ((), "")
    assert [0.0, 0.0] == [item.mismatches for item in result.outputs]


def test_boxes_with_the_scores_of_other_boxes_fail() -> None:
    scores = [value[::-1] for value in SCORES]
    (reason,) = verdict(outputs(), outputs(BOXES, scores), "fp32", TERMS).reasons
    assert "rows have no partner" in reason
    assert "output 'boxes' with 'scores'" in reason


def test_a_missing_row_fails_with_its_values_unless_it_is_one_of_many() -> None:
    few = {name: value[2:5] for name, value in outputs().items()}
    less = {name: np.array(value) for name, value in few.items()}
    less["boxes"][1, 4], less["scores"][1, 4] = np.nan, np.nan
    (reason,) = verdict(few, less, "fp32", TERMS).reasons
    assert reason.startswith(
        "1 of 6 rows have no partner, above 0.001: output 'boxes' with 'scores', row 4 of image 1 is only"
    )
    many = outputs([*BOXES[:-1], BOXES[-1][:7]], [*SCORES[:-1], SCORES[-1][:7]])
    assert not verdict(outputs(), many, "fp32", TERMS).reasons


def test_a_box_that_moves_is_another_row_by_the_precision() -> None:
    moved = {name: [value.copy() for value in part] for name, part in (("b", BOXES), ("s", SCORES))}
    for value in moved["b"]:
        value += 0.5
    shifted = outputs(moved["b"], moved["s"])
    assert verdict(outputs(), shifted, "fp32", TERMS).reasons
    assert not verdict(outputs(), shifted, "fp16", TERMS).reasons


def test_the_number_of_rows_is_found_where_both_have_equally_many_columns() -> None:
    """NonZero writes (rank, rows): rows are on the last axis."""
    places = [np.argwhere(RNG.uniform(size=(5, 5)) > 0.5).T for _ in COUNTS]
    expected = {"at": row_sets.stacked([value[None] for value in places])}
    assert kinds.guess("at", expected["at"], (64, 64), "NonZero") == "rows"
    assert not verdict(expected, expected, "fp32", Terms({"at": "rows"})).reasons
    mirrored = {"at": row_sets.stacked([value[None, ::-1] for value in places])}
    assert verdict(expected, mirrored, "fp32", Terms({"at": "rows"})).reasons


@pytest.mark.parametrize("constant", [True, False])
def test_rows_that_are_the_same_for_all_images_prove_nothing(constant: bool) -> None:
    rows = [BOXES[0] if constant else value for value in BOXES]
    expected = {"boxes": row_sets.stacked([value[None] for value in rows])}
    result = verdict(expected, expected, "fp32", Terms({"boxes": "rows"}))
    assert bool(result.unverifiable) is constant


def test_every_run_of_a_graph_with_another_length_becomes_one_array() -> None:
    lengths = iter((1, 3, 0))

    def run(feeds: dict[str, Array]) -> dict[str, Array]:
        return {"kept": np.ones((next(lengths), 3), np.int64), "y": np.ones((1, 5), np.float32)}

    result = fidelity.run_all(run, [{"image": np.zeros((1, 3, 4, 4))}] * 3)  # type: ignore[arg-type]
    assert (result["kept"].shape, result["y"].shape) == ((3, 3, 3), (3, 5))
    assert [len(rows) for rows in row_sets.rows_of(result["kept"], 1)] == [1, 3, 0]
    assert own_rounding(result, result)["kept"] == 0


def test_a_second_run_of_one_image_has_the_shape_of_all() -> None:
    boxes = {"kept": np.ones((9, 5, 3), np.int64)}
    assert row_sets.like({"kept": np.ones((1, 3), np.int64)}, boxes)["kept"].shape == (1, 5, 3)
    assert row_sets.like({"kept": np.ones((1, 2, 3), np.int64)}, boxes)["kept"].shape == (1, 5, 3)
