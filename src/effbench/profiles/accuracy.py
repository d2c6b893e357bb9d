"""The loop that evaluates: images are decoded ahead in threads while the runtime works, answers leave in portions.

Runs on a device: numpy, and Pillow where images are decoded.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from effbench.errors import DataError
from effbench.schema import Predictions, TensorSpec

Array = npt.NDArray[Any]
Run = Callable[[Mapping[str, Array]], Mapping[str, Array]]
Load = Callable[[int], Array]

PORTION_S = 1.0
"""Answers are handed over about so often: what a kill can lose."""


def score_output(outputs: Sequence[TensorSpec], model: str) -> TensorSpec:
    """Return the output that holds a score per class, shape (B, K).

    Raises:
        DataError: There is none.
    """
    found = next((spec for spec in outputs if len(spec.shape) == 2 and (spec.shape[1] or 0) > 1), None)
    if found is None:
        shapes = "; ".join(f"{spec.name} {list(spec.shape)}" for spec in outputs)
        raise DataError(f"{model} has no output of one score per class: {shapes}.", hint="A classifier is evaluated.")
    return found


def evaluate(
    run: Run,
    load: Load,
    places: Sequence[int],
    labels: Sequence[int],
    *,
    spec: TensorSpec,
    output: str,
    batch: int,
    workers: int,
    portion_s: float = PORTION_S,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[tuple[Predictions, float]]:
    """Run a session over images; yield predictions about once a second, each with the seconds it took.

    Args:
        run: The session.
        load: Returns the input tensor of a place in the data set, shape (C, H, W), in the input's type.
        places: The images to take, in order.
        labels: Their labels; -1 where there is none.
        spec: The session's image input.
        output: The name of the output that holds the scores (`score_output`).
        batch: Images per inference; the last batch is filled up and the surplus dropped.
        workers: Threads that decode.
        portion_s: How often predictions are yielded.
        clock: Tells seconds.

    Raises:
        DataError: An image cannot be read; what was yielded before stands.
    """
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[Array]] = deque()
        try:
            yield from _loop(run, load, places, labels, spec, output, batch, workers, portion_s, clock, pool, waiting)
        finally:
            for future in waiting:
                future.cancel()


def _loop(
    run: Run,
    load: Load,
    places: Sequence[int],
    labels: Sequence[int],
    spec: TensorSpec,
    output: str,
    batch: int,
    workers: int,
    portion_s: float,
    clock: Callable[[], float],
    pool: ThreadPoolExecutor,
    waiting: deque[Future[Array]],
) -> Iterator[tuple[Predictions, float]]:
    ahead = iter(places)
    window = batch * 2 + workers * 2  # bounds the memory that decoded images take
    start, first, scores = clock(), 0, list[Array]()
    for position in range(0, len(places), batch):
        while len(waiting) < window and (place := next(ahead, None)) is not None:
            waiting.append(pool.submit(load, place))
        count = min(batch, len(places) - position)
        tensors = [waiting.popleft().result() for _ in range(count)]
        tensors += [tensors[-1]] * (batch - count)
        feed = tensors[0][None] if batch == 1 else np.stack(tensors)
        scores.append(_scores(run({spec.name: feed}), output)[:count])
        now, end = clock(), position + count
        if now - start >= portion_s or end == len(places):
            joined = scores[0] if len(scores) == 1 else np.concatenate(scores)
            yield predictions(joined, places[first:end], labels[first:end]), now - start
            start, first, scores = clock(), end, []


def _scores(outputs: Mapping[str, Array], name: str) -> Array:
    # A runtime may rename outputs; then the one with two dimensions is meant. A copy: buffers may be used again.
    found = outputs[name] if name in outputs else next(v for v in outputs.values() if np.ndim(v) == 2)
    return np.array(found, np.float64)


def predictions(scores: Array, places: Sequence[int], labels: Sequence[int]) -> Predictions:
    """Return what scores say, shape (N, K): logits, or probabilities where every row is one distribution.

    Of equal scores the one of the lower class stands above, as argmax has it.

    Raises:
        DataError: A score is not finite.
    """
    if not np.isfinite(scores).all():
        raise DataError("The model gave NaN or infinity for an image.", hint="effbench numerics tells where from.")
    logs = log_probabilities(scores)
    best = scores.argmax(axis=1)
    two = np.sort(np.partition(logs, -2, axis=1)[:, -2:], axis=1)
    wanted = np.asarray(labels, np.int64)
    rows, place = np.arange(len(scores)), np.maximum(wanted, 0)
    at = scores[rows, place][:, None]
    lower = np.arange(scores.shape[1]) < place[:, None]
    ranks = ((scores > at) | ((scores == at) & lower)).sum(axis=1)
    known = wanted >= 0
    return Predictions(
        images=tuple(int(value) for value in places),
        labels=tuple(int(value) for value in wanted),
        top1=tuple(int(value) for value in best),
        ranks=tuple(int(value) for value in np.where(known, ranks, -1)),
        log_likelihoods=_rounded(np.where(known, logs[rows, place], 0)),
        confidences=_rounded(np.exp(two[:, 1])),
        margins=_rounded(two[:, 1] - two[:, 0]),
    )


def log_probabilities(scores: Array) -> Array:
    """Return ln p of every class, shape (N, K), from logits, or from probabilities where every row is one."""
    if (scores >= 0).all() and np.allclose(scores.sum(axis=1), 1, atol=1e-2):
        return np.asarray(np.log(np.maximum(scores, 1e-12)))
    shifted = scores - scores.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def _rounded(values: Array) -> tuple[float, ...]:
    # Seven digits are what float32 holds; more would only fill the disk.
    return tuple(float(f"{value:.7g}") for value in values)
