"""Losses of distillation: teachers' features with teacher dropping per image, teachers' logits, and labels.

Every loss is a sum over the images of this process divided by a count over all processes, so that the loss of a batch
does not depend on the number of processes.

Source: Sariyildiz et al., "UNIC: Universal Classification Models via Multi-teacher Distillation", ECCV 2024, and the
authors' released code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

UNLABELLED = -1

Total = Callable[[Tensor], Tensor]
"""Sums a tensor over all processes, without a gradient."""


def alone(value: Tensor) -> Tensor:
    """Return the sum over a single process."""
    return value


@dataclass(frozen=True)
class MatchedFeatures:
    """Features that a loss compares, of a teacher or projected: pooled (B, C) and spatial (B, C, h, w), or None."""

    pooled: Tensor | None = None
    spatial: Tensor | None = None

    def kinds(self) -> dict[str, Tensor]:
        """Return the features that are present, by name."""
        features = {"pooled": self.pooled, "spatial": self.spatial}
        return {name: value for name, value in features.items() if value is not None}


def feature_loss(student: Tensor, teacher: Tensor, cosine: float = 0.5, smooth_l1: float = 0.5) -> Tensor:
    """Return the weighted sum of cosine distance and smooth L1, averaged over positions.

    Args:
        student: Shape (B, C) or (B, C, h, w).
        teacher: The same shape.
        cosine: Weight of ``1 - cos`` over the channels.
        smooth_l1: Weight of the smooth L1 loss (beta 1), averaged over the channels.

    Returns:
        Shape (B,).

    Raises:
        ValueError: The shapes differ, which broadcasting would hide.
    """
    if student.shape != teacher.shape:
        raise ValueError(f"features of shape {tuple(student.shape)} against {tuple(teacher.shape)}")
    direction = 1 - F.cosine_similarity(student, teacher, dim=1)
    distance = F.smooth_l1_loss(student, teacher, reduction="none").mean(dim=1)
    return (cosine * direction + smooth_l1 * distance).reshape(len(student), -1).mean(dim=1)


def teacher_losses(
    student: Mapping[str, MatchedFeatures],
    teachers: Mapping[str, MatchedFeatures],
    cosine: float = 0.5,
    smooth_l1: float = 0.5,
) -> Tensor:
    """Return the loss of every teacher on every image, averaged over its kinds of features; shape (T, B)."""
    rows = []
    for name, target in teachers.items():
        projected = student[name].kinds()
        kinds = [feature_loss(projected[kind], value, cosine, smooth_l1) for kind, value in target.kinds().items()]
        rows.append(torch.stack(kinds).mean(dim=0))
    return torch.stack(rows)


@torch.no_grad()
def choose_teachers(losses: Tensor, uniform: Tensor, drop: float) -> Tensor:
    """Choose the teachers of each image.

    The teacher with the largest loss is always chosen; each other one is dropped with probability ``drop``.

    Args:
        losses: Shape (T, B).
        uniform: Uniform random numbers in [0, 1), shape (T, B); a teacher is dropped if its number is below ``drop``.
        drop: Probability.

    Returns:
        1 for a chosen teacher, else 0; shape (T, B).
    """
    chosen = (uniform >= drop).to(losses.dtype)
    return chosen.scatter(0, losses.argmax(dim=0, keepdim=True), 1.0)


def distillation(losses: Tensor, chosen: Tensor, total: Total = alone) -> Tensor:
    """Return this process's part of the mean loss of the chosen teachers over all images; a scalar."""
    return (losses * chosen).sum() / total(chosen.sum())


def soft_labels(student: Tensor, teachers: Sequence[Tensor], temperature: float = 1.0, total: Total = alone) -> Tensor:
    """Return the Kullback-Leibler divergence of the student from the teachers' mean distribution.

    Args:
        student: Logits, shape (B, K).
        teachers: Logits of each teacher, shape (B, K).
        temperature: Divides all logits; the loss is multiplied by its square.
        total: Sums over the processes.

    Source: Hinton et al., "Distilling the Knowledge in a Neural Network", 2015, arXiv:1503.02531.
    """
    expected = torch.stack([F.softmax(item / temperature, dim=1) for item in teachers]).mean(dim=0)
    predicted = F.log_softmax(student / temperature, dim=1)
    images = total(torch.tensor(float(len(student)), device=student.device))
    return F.kl_div(predicted, expected, reduction="sum") * temperature**2 / images


def hard_labels(student: Tensor, labels: Tensor, smoothing: float = 0.0, total: Total = alone) -> Tensor:
    """Return the cross entropy over the images with a label (`UNLABELLED` is none); 0 if no image has one."""
    labelled = total((labels != UNLABELLED).sum().float())
    summed = F.cross_entropy(student, labels, reduction="sum", ignore_index=UNLABELLED, label_smoothing=smoothing)
    return summed / labelled.clamp_min(1)
