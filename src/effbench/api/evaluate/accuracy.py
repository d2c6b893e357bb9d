"""Statistics of predictions: accuracy with its interval, agreement with the reference, a likely wrong preprocessing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from effbench.data.pixels import affine
from effbench.schema import Evaluation, Predictions, Preprocessing
from effbench.statistics.proportions import calibration_error, sign_flip_test, wilson

SUSPICION = 0.01
"""Chance of reporting a preprocessing that is not better, over all alternatives together."""
MATERIAL_NATS = 0.05
"""A smaller gain of mean log-likelihood is not reported, even if it is significant."""
SAME_RANGE = 0.02
"""Two preprocessings whose inputs differ by less than this share of their range count as equal."""
FEWEST = 12
"""With fewer images no alternative can be significant."""


@dataclass(frozen=True)
class Share:
    """A share of images in percent, with Wilson's 95 % interval."""

    hits: int
    of: int
    pct: float
    interval_pct: tuple[float, float]


@dataclass(frozen=True)
class Disagreement:
    """An image that an artifact and the reference classify differently.

    The margins are the distances of the two best logits of each, in nats: a difference at margins of rounding size is
    a tie.
    """

    image: str
    label: int | None
    reference_class: int
    artifact_class: int
    reference_margin: float
    artifact_margin: float


@dataclass(frozen=True)
class Suspicion:
    """Another preprocessing under which the same artifact classifies the same images better."""

    what: str
    preprocessing: Preprocessing
    images: int
    gain_nats: float
    p_value: float
    right_as_declared: int
    right_instead: int


def share(hits: int, of: int) -> Share:
    """Return a share with its interval."""
    low, high = wilson(hits, of)
    return Share(hits, of, 100 * hits / of, (100 * low, 100 * high))


def within(predictions: Predictions, k: int) -> Share | None:
    """Return how often the label is among the k best classes; None without labels."""
    ranks = [rank for rank in predictions.ranks if rank >= 0]
    return share(sum(rank < k for rank in ranks), len(ranks)) if ranks else None


def reliability(predictions: Predictions) -> float | None:
    """Return the expected calibration error over the labelled images; None without labels."""
    labelled = [place for place, rank in enumerate(predictions.ranks) if rank >= 0]
    if not labelled:
        return None
    confidences = [predictions.confidences[place] for place in labelled]
    return calibration_error(confidences, [predictions.ranks[place] == 0 for place in labelled])


def agreement(
    reference: Predictions, predictions: Predictions, names: Sequence[str]
) -> tuple[Share | None, tuple[Disagreement, ...]]:
    """Return the share of common images on which both predict the same class, and the disagreements."""
    index_of = {image: place for place, image in enumerate(reference.images)}
    pairs = [(index_of[image], place) for place, image in enumerate(predictions.images) if image in index_of]
    disagreements = [
        Disagreement(
            image=names[predictions.images[j]],
            label=predictions.labels[j] if predictions.labels[j] >= 0 else None,
            reference_class=reference.top1[i],
            artifact_class=predictions.top1[j],
            reference_margin=reference.margins[i],
            artifact_margin=predictions.margins[j],
        )
        for i, j in pairs
        if reference.top1[i] != predictions.top1[j]
    ]
    agreed = share(len(pairs) - len(disagreements), len(pairs)) if pairs else None
    return agreed, tuple(sorted(disagreements, key=lambda one: -one.reference_margin))


def alternatives(declared: Preprocessing) -> dict[str, Preprocessing]:
    """Return common preprocessings that differ from a declared one, by description."""
    half, clip = (0.5,) * 3, (0.48145466, 0.4578275, 0.40821073)
    base = Preprocessing()
    scales = {
        "ImageNet's mean and deviation": (base.mean, base.std, base.scale),
        "pixels from -1 to 1": (half, half, 1 / 255),
        "CLIP's mean and deviation": (clip, (0.26862954, 0.26130258, 0.27577711), 1 / 255),
        "pixels from 0 to 1": ((0.0,) * 3, (1.0,) * 3, 1 / 255),
        "pixels from 0 to 255": ((0.0,) * 3, (1.0,) * 3, 1.0),
    }
    preprocessings = {
        name: replace(declared, mean=mean, std=std, scale=scale) for name, (mean, std, scale) in scales.items()
    }
    swapped = "BGR" if declared.channel_order == "RGB" else "RGB"
    preprocessings[f"channels in the order {swapped}"] = replace(declared, channel_order=swapped)
    for name in ("bicubic", "bilinear"):
        preprocessings[f"{name} interpolation"] = replace(declared, interpolation=name)
    for part in (0.875, 0.95, 1.0):
        preprocessings[f"a crop of {part:g}"] = replace(declared, crop_pct=part)
    return {name: other for name, other in preprocessings.items() if not _alike(declared, other)}


def _alike(one: Preprocessing, other: Preprocessing) -> bool:
    if replace(one, mean=other.mean, std=other.std, scale=other.scale) != other:
        return False
    (slope, offset), (other_slope, other_offset) = affine(one, 3), affine(other, 3)
    apart = np.maximum(np.abs(offset - other_offset), np.abs(slope + offset - other_slope - other_offset))
    return bool((apart <= SAME_RANGE * slope).all())


def suspicions(declared: Evaluation, others: Mapping[str, Evaluation]) -> tuple[Suspicion, ...]:
    """Return the alternatives that predict the labels significantly better; most right, then largest gain, first.

    Paired, image by image, on ln p(label); the level is shared out among the alternatives (Bonferroni).
    """
    better = []
    for name, other in others.items():
        rows_by_image = dict(zip(declared.predictions.images, _rows(declared.predictions), strict=True))
        pairs = [
            (rows_by_image[image], row)
            for image, row in zip(other.predictions.images, _rows(other.predictions), strict=True)
            if image in rows_by_image and row[0] >= 0
        ]
        gains = np.array([other_row[1] - row[1] for row, other_row in pairs])
        if len(gains) < FEWEST or gains.mean() < MATERIAL_NATS:
            continue
        p_value = sign_flip_test(gains)
        if p_value < SUSPICION / len(others):
            hits = [sum(row[0] == 0 for row in side) for side in zip(*pairs, strict=True)]
            better.append(
                Suspicion(name, other.preprocessing, len(gains), float(gains.mean()), p_value, hits[0], hits[1])
            )
    return tuple(sorted(better, key=lambda one: (-one.right_instead, -one.gain_nats)))


def _rows(predictions: Predictions) -> list[tuple[int, float]]:
    return list(zip(predictions.ranks, predictions.log_likelihoods, strict=True))
