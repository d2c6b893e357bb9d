"""The objective of a batch: the weighted terms of a recipe's loss, and the statistics of each teacher."""

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
    """The loss of a recipe, for teachers with the scales of their features, and for the student's classes.

    ``total`` sums a tensor over all processes.
    """

    recipe: Recipe
    names: Sequence[str]
    scales: Sequence[Scale]
    classes: int
    total: losses.Total

    def __call__(
        self,
        projected: Mapping[str, losses.MatchedFeatures],
        logits: Tensor | None,
        outputs: Sequence[TeacherOutput],
        labels: Tensor,
        uniform: Tensor,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the terms of the loss, and for each teacher its loss and how often it was chosen.

        Args:
            projected: The student's projections for each teacher.
            logits: Logits of the student, shape (B, K), or None.
            outputs: Outputs of the teachers.
            labels: Shape (B,), `losses.UNLABELLED` for an image without a label.
            uniform: Random numbers that drop teachers, shape (T, B).

        Raises:
            UsageError: The recipe uses logits, and no teacher has the student's classes.
        """
        recipe, names = self.recipe, self.names
        terms, statistics = {}, {}
        if outputs and recipe.features:
            targets = {n: scale(output) for n, scale, output in zip(names, self.scales, outputs, strict=True)}
            rows = losses.teacher_losses(projected, targets, recipe.cosine, recipe.smooth_l1)
            chosen = losses.choose_teachers(rows, uniform, recipe.drop_teacher)
            terms["features"] = recipe.features * losses.distillation(rows, chosen, self.total)
            for name, row, share in zip(names, rows.detach(), chosen, strict=True):
                statistics[f"teacher/{name}"] = row.sum() / recipe.batch
                statistics[f"kept/{name}"] = share.sum() / recipe.batch
        soft = [x.logits for x in outputs if x.logits is not None and x.logits.shape[1] == self.classes]
        if recipe.logits:
            if logits is None or not soft:
                raise UsageError(
                    f"--logits {recipe.logits:g}: no teacher has the student's {self.classes} classes.",
                    hint="Use --logits 0 to learn from their features only.",
                )
            terms["logits"] = recipe.logits * losses.soft_labels(logits, soft, recipe.temperature, self.total)
        if recipe.labels and logits is not None:
            terms["labels"] = recipe.labels * losses.hard_labels(logits, labels, recipe.label_smoothing, self.total)
        return terms, statistics
