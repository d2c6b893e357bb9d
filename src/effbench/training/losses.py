"""What a student is told: by teachers' features, with some teachers left out per image, by their logits, by labels.

Every loss is a sum over the images of this process divided by a count over all processes, so that the same batch
gives the same loss whatever the number of processes.

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
"""Adds a tensor up over all processes; takes no gradient."""


def alone(value: Tensor) -> Tensor:
    """Return the sum over the processes where there is only one."""
    return value


@dataclass(frozen=True)
class MatchedFeatures:
    """A teacher's standardised features of a batch: pooled (B, C) and spatial (B, C, h, w), where it has them."""

    pooled: Tensor | None = None
    spatial: Tensor | None = None

    def kinds(self) -> dict[str, Tensor]:
        """Return what is there, by name."""
        found = {"pooled": self.pooled, "spatial": self.spatial}
        return {name: value for name, value in found.items() if value is not None}


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
        ValueError: The shapes differ; broadcasting would hide it.
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
        found = student[name].kinds()
        kinds = [feature_loss(found[kind], value, cosine, smooth_l1) for kind, value in target.kinds().items()]
        rows.append(torch.stack(kinds).mean(dim=0))
    return torch.stack(rows)


@torch.no_grad()
def keep(losses: Tensor, uniform: Tensor, drop: float) -> Tensor:
    """Choose which teachers speak about which image.

    The teacher with the largest loss always does; each other is left out with probability ``drop``.

    Args:
        losses: Shape (T, B).
        uniform: Numbers from [0, 1), shape (T, B); a teacher is left out where its number is below ``drop``.
        drop: Probability.

    Returns:
        1 for a teacher that is kept, else 0; shape (T, B).
    """
    kept = (uniform >= drop).to(losses.dtype)
    return kept.scatter(0, losses.argmax(dim=0, keepdim=True), 1.0)


def distillation(losses: Tensor, kept: Tensor, total: Total = alone) -> Tensor:
    """Return the mean of the kept losses, over the images of all processes; a scalar, this process's part."""
    return (losses * kept).sum() / total(kept.sum())


def soft_labels(student: Tensor, teachers: Sequence[Tensor], temperature: float = 1.0, total: Total = alone) -> Tensor:
    """Return the Kullback-Leibler divergence of the student from the teachers' mean distribution.

    Args:
        student: Logits, shape (B, K).
        teachers: Logits of each teacher, shape (B, K).
        temperature: Divides all logits; the loss is multiplied by its square.
        total: Adds up over the processes.

    Source: Hinton et al., "Distilling the Knowledge in a Neural Network", 2015, arXiv:1503.02531.
    """
    expected = torch.stack([F.softmax(item / temperature, dim=1) for item in teachers]).mean(dim=0)
    found = F.log_softmax(student / temperature, dim=1)
    images = total(torch.tensor(float(len(student)), device=student.device))
    return F.kl_div(found, expected, reduction="sum") * temperature**2 / images


def hard_labels(student: Tensor, labels: Tensor, smoothing: float = 0.0, total: Total = alone) -> Tensor:
    """Return the cross entropy over the images that have a label (`UNLABELLED` is none); 0 where none has."""
    labelled = total((labels != UNLABELLED).sum().float())
    summed = F.cross_entropy(student, labels, reduction="sum", ignore_index=UNLABELLED, label_smoothing=smoothing)
    return summed / labelled.clamp_min(1)
