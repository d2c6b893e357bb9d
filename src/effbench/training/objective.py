"""What one batch is worth: the weighted terms of a recipe's loss, and what is logged of each teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from effbench.errors import UsageError
from effbench.training import losses
from effbench.training.cache import Scale
from effbench.training.recipe import Recipe
from effbench.training.teachers import TeacherOutput


@dataclass(frozen=True)
class Objective:
    """The loss of a recipe: teachers by name with the scales of their features, and the student's classes.

    ``total`` adds a tensor up over all processes.
    """

    recipe: Recipe
    names: Sequence[str]
    scales: Sequence[Scale]
    classes: int
    total: losses.Total

    def __call__(
        self,
        found: Mapping[str, losses.MatchedFeatures],
        logits: Tensor | None,
        answers: Sequence[TeacherOutput],
        labels: Tensor,
        uniform: Tensor,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the terms of the loss, and per teacher its loss and how often it was kept.

        Args:
            found: The student's projections for each teacher.
            logits: The student's, shape (B, K), or None.
            answers: The teachers'.
            labels: Shape (B,), `losses.UNLABELLED` where there is none.
            uniform: What is drawn to leave teachers out, shape (T, B).

        Raises:
            UsageError: Logits are to be learned from, and no teacher has the student's classes.
        """
        recipe, names = self.recipe, self.names
        terms, seen = {}, {}
        if answers and recipe.features:
            targets = {n: scale(a) for n, scale, a in zip(names, self.scales, answers, strict=True)}
            rows = losses.teacher_losses(found, targets, recipe.cosine, recipe.smooth_l1)
            kept = losses.keep(rows, uniform, recipe.drop_teacher)
            terms["features"] = recipe.features * losses.distillation(rows, kept, self.total)
            for name, row, share in zip(names, rows.detach(), kept, strict=True):
                seen[f"teacher/{name}"] = row.sum() / recipe.batch
                seen[f"kept/{name}"] = share.sum() / recipe.batch
        spoken = [a.logits for a in answers if a.logits is not None and a.logits.shape[1] == self.classes]
        if recipe.logits:
            if logits is None or not spoken:
                raise UsageError(
                    f"--logits {recipe.logits:g}: no teacher has the student's {self.classes} classes.",
                    hint="Learn from their features alone: --logits 0.",
                )
            terms["logits"] = recipe.logits * losses.soft_labels(logits, spoken, recipe.temperature, self.total)
        if recipe.labels and logits is not None:
            terms["labels"] = recipe.labels * losses.hard_labels(logits, labels, recipe.label_smoothing, self.total)
        return terms, seen
