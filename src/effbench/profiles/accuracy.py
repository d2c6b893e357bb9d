"""The evaluation loop: threads decode images ahead while the runtime works, and predictions are yielded in portions.

It runs on devices and needs numpy, and Pillow to decode images.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from effbench.errors import DataError
from effbench.schema import Predictions, TensorSpec

Array = npt.NDArray[Any]
Run = Callable[[Mapping[str, Array]], Mapping[str, Array]]
Load = Callable[[int], Array]

PORTION_S = 1.0
"""Predictions are yielded about this often, so a kill loses at most this much work."""


def score_output(outputs: Sequence[TensorSpec], model: str) -> TensorSpec:
    """Return the output that holds a score per class, shape (B, K).

    Raises:
        DataError: The model has no such output.
    """
    output = next((spec for spec in outputs if len(spec.shape) == 2 and (spec.shape[1] or 0) > 1), None)
    if output is None:
        shapes = "; ".join(f"{spec.name} {list(spec.shape)}" for spec in outputs)
        raise DataError(f"{model} has no output of one score per class: {shapes}.", hint="Evaluate a classifier.")
    return output


@dataclass(frozen=True)
class Images:
    """The images to evaluate.

    Attributes:
        load: Returns the input tensor of an image by its index in the data set, shape (C, H, W), in the input's type.
        indices: Indices into the data set, in order.
        labels: Their labels; -1 if an image has none.
    """

    load: Load
    indices: Sequence[int]
    labels: Sequence[int]


@dataclass(frozen=True)
class EvaluationSettings:
    """How a session is fed, and where its scores are.

    Attributes:
        spec: The session's image input.
        output: The name of the output that holds the scores (`score_output`).
        batch: Images per inference; the last batch is padded and the padding dropped.
        workers: Threads that decode.
    """

    spec: TensorSpec
    output: str
    batch: int
    workers: int


def evaluate(
    run: Run,
    images: Images,
    settings: EvaluationSettings,
    *,
    portion_s: float = PORTION_S,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[tuple[Predictions, float]]:
    """Run a session over images; yield predictions about once a second, each with the seconds it took.

    Args:
        run: The session.
        images: What to run it over.
        settings: How to feed it.
        portion_s: Seconds between yields.
        clock: Returns seconds.

    Raises:
        DataError: An image cannot be read; predictions yielded before stay valid.
    """
    start, first, scores = clock(), 0, list[Array]()
    batch, indices, labels = settings.batch, images.indices, images.labels
    with closing(_decode_ahead(images, settings)) as tensors:
        for position in range(0, len(indices), batch):
            stack = list(itertools.islice(tensors, batch))
            end = position + len(stack)
            stack += [stack[-1]] * (batch - len(stack))
            feed = stack[0][None] if batch == 1 else np.stack(stack)
            outputs = run({settings.spec.name: feed})
            scores.append(_scores(outputs, settings.output)[: end - position])
            now = clock()
            if now - start >= portion_s or end == len(indices):
                joined = scores[0] if len(scores) == 1 else np.concatenate(scores)
                yield predictions(joined, indices[first:end], labels[first:end]), now - start
                start, first, scores = clock(), end, []


def _decode_ahead(images: Images, settings: EvaluationSettings) -> Generator[Array, None, None]:
    """Yield input tensors in order, decoded by threads that are at most ``2 * (batch + workers)`` tensors ahead."""
    window = 2 * (settings.batch + settings.workers)
    ahead = iter(images.indices)
    waiting: deque[Future[Array]] = deque()
    with ThreadPoolExecutor(settings.workers) as pool:
        try:
            for _ in images.indices:
                while len(waiting) < window and (index := next(ahead, None)) is not None:
                    waiting.append(pool.submit(images.load, index))
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _scores(outputs: Mapping[str, Array], name: str) -> Array:
    # A runtime may rename outputs; then take the one with two dimensions. Copy, since buffers may be reused.
    scores = outputs[name] if name in outputs else next(v for v in outputs.values() if np.ndim(v) == 2)
    return np.array(scores, np.float64)


def predictions(scores: Array, indices: Sequence[int], labels: Sequence[int]) -> Predictions:
    """Turn scores of shape (N, K) into predictions; rows that are distributions are probabilities, others logits.

    Of equal scores, the lower class ranks first, as in argmax.

    Raises:
        DataError: A score is not finite.
    """
    if not np.isfinite(scores).all():
        raise DataError(
            "The model's output for an image is NaN or infinite.", hint="effbench numerics finds the cause."
        )
    logs = log_probabilities(scores)
    best = scores.argmax(axis=1)
    two = np.sort(np.partition(logs, -2, axis=1)[:, -2:], axis=1)
    targets = np.asarray(labels, np.int64)
    rows, target_index = np.arange(len(scores)), np.maximum(targets, 0)
    at = scores[rows, target_index][:, None]
    lower = np.arange(scores.shape[1]) < target_index[:, None]
    ranks = ((scores > at) | ((scores == at) & lower)).sum(axis=1)
    labelled = targets >= 0
    return Predictions(
        images=tuple(int(value) for value in indices),
        labels=tuple(int(value) for value in targets),
        top1=tuple(int(value) for value in best),
        ranks=tuple(int(value) for value in np.where(labelled, ranks, -1)),
        log_likelihoods=_rounded(np.where(labelled, logs[rows, target_index], 0)),
        confidences=_rounded(np.exp(two[:, 1])),
        margins=_rounded(two[:, 1] - two[:, 0]),
    )


def log_probabilities(scores: Array) -> Array:
    """Return ln p of every class, shape (N, K), from logits, or from probabilities if every row sums to one."""
    if (scores >= 0).all() and np.allclose(scores.sum(axis=1), 1, atol=1e-2):
        return np.asarray(np.log(np.maximum(scores, 1e-12)))
    shifted = scores - scores.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def _rounded(values: Array) -> tuple[float, ...]:
    # float32 holds seven digits; more would only fill the disk.
    return tuple(float(f"{value:.7g}") for value in values)
