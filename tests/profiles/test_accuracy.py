"""The evaluation loop and the predictions from scores, against torch's functions and by hand."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from effbench.errors import DataError
from effbench.profiles.accuracy import EvaluationSettings, Images, evaluate, predictions, score_output
from effbench.schema import InputSpec, Predictions, TensorSpec

SPEC = InputSpec("image", "float32", (1, 1, 2, 2))


@seed(2)
@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 9), st.integers(2, 12))
def test_logits_give_the_predictions_of_torch(start: int, count: int, classes: int):
    rng = np.random.default_rng(start)
    scores, labels = rng.normal(0, 4, (count, classes)), rng.integers(0, classes, count)
    result = predictions(scores, range(count), [int(label) for label in labels])
    logits = torch.from_numpy(scores)
    cross = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels), reduction="none")
    top = logits.topk(classes).indices
    assert [int(row[0]) for row in top] == list(result.top1)
    assert [row.tolist().index(label) for row, label in zip(top, labels, strict=True)] == list(result.ranks)
    assert np.allclose(-cross.numpy(), result.log_likelihoods, rtol=1e-5)
    assert np.allclose(logits.softmax(1).amax(1).numpy(), result.confidences, rtol=1e-5)


def test_probabilities_are_not_passed_through_softmax_again():
    result = predictions(np.array([[0.7, 0.2, 0.1]]), [0], [1])
    assert np.allclose((np.log(0.2), 0.7), (result.log_likelihoods[0], result.confidences[0]), rtol=1e-6)
    assert np.allclose(np.log(0.7 / 0.2), result.margins[0], rtol=1e-6)


def test_of_equal_scores_the_lower_class_ranks_first():
    result = predictions(np.zeros((3, 4)), [0, 1, 2], [0, 3, -1])
    assert ((0, 0, 0), (0, 3, -1)) == (result.top1, result.ranks)


def test_nan_and_infinity_are_refused():
    with pytest.raises(DataError, match="NaN or infinite"):
        predictions(np.array([[0.0, np.nan]]), [0], [0])


class Session:
    """A session with one high score, at the class given by the image's first pixel."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        image = feeds["image"]
        self.batches.append(len(image))
        return {"scores": np.eye(5)[image[:, 0, 0, 0].astype(int)] * 9}


def load(index: int) -> Any:
    return np.full((1, 2, 2), index % 5, np.float32)


def run(session: Any, indices: list[int], batch: int = 1, load: Any = load, clock: Any = None) -> list[Predictions]:
    extra = {} if clock is None else {"clock": clock}
    labels = [index % 5 for index in indices]
    portions = evaluate(
        session, Images(load, indices, labels), EvaluationSettings(SPEC, "scores", batch, workers=3), **extra
    )
    return [portion for portion, _ in portions]


@pytest.mark.parametrize("batch", [1, 4])
def test_every_image_is_evaluated_once_and_in_order(batch: int):
    session, indices = Session(), [3, 1, 7, 0, 12, 5, 2, 9, 30]
    (result,) = run(session, indices, batch)
    assert (tuple(indices), (0,) * 9) == (result.images, result.ranks)
    assert {batch} == set(session.batches)


def test_predictions_are_yielded_once_a_second():
    ticks = iter(range(0, 100))
    portions = run(Session(), list(range(7)), clock=lambda: next(ticks) * 0.5)
    assert 7 == sum(len(portion) for portion in portions)
    assert len(portions) > 2


def test_an_unreadable_image_ends_the_evaluation_and_earlier_portions_stay():
    def broken(index: int) -> Any:
        if index == 4:
            raise DataError("4.png cannot be read")
        return load(index)

    ticks = iter(range(100))
    evaluated: list[int] = []

    def go() -> None:
        indices, clock = range(9), lambda: next(ticks)
        images = Images(broken, indices, [0] * 9)
        portions = evaluate(Session(), images, EvaluationSettings(SPEC, "scores", batch=1, workers=2), clock=clock)
        for portion, _ in portions:
            evaluated.extend(portion.images)

    with pytest.raises(DataError, match=r"4\.png"):
        go()
    assert [0, 1, 2, 3] == evaluated


def test_decoding_runs_ahead_in_bounded_memory():
    ahead, most, lock = 0, 0, threading.Lock()

    def counted(index: int) -> Any:
        nonlocal ahead, most
        with lock:
            ahead += 1
            most = max(most, ahead)
        return load(index)

    class Counting(Session):
        def __call__(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
            nonlocal ahead
            with lock:
                ahead -= 1
            return super().__call__(feeds)

    run(Counting(), list(range(200)), load=counted)
    assert 1 < most <= 9


def test_the_score_output_has_one_score_per_class():
    maps = TensorSpec("maps", "float32", (1, 8, 7, 7))
    assert "scores" == score_output([maps, TensorSpec("scores", "float32", (None, 5))], "m").name
    with pytest.raises(DataError, match=r"m has no output of one score per class: maps \[1, 8, 7, 7\]"):
        score_output([maps], "m")
