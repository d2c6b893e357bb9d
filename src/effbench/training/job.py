"""The input and the result of a training, its processes and its random seeds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from effbench.data import Dataset
from effbench.errors import MissingDependencyError, UsageError
from effbench.schema import Preprocessing
from effbench.training.features import observe
from effbench.training.recipe import Recipe
from effbench.training.teachers import Teacher
from effbench.training.views import seed_of

ORDER, VIEWS, STEP, PROJECTORS = range(4)
"""Purposes of random numbers; each has a separate stream."""


@dataclass(frozen=True)
class TrainingJob:
    """The student, teachers, images and folders of a training.

    ``workers`` is the number of processes that decode images for each training process.
    """

    student: nn.Module
    size: tuple[int, int]
    preprocessing: Preprocessing
    images: Dataset
    teachers: tuple[Teacher, ...]
    recipe: Recipe
    folder: Path
    cache: Path
    validation: Dataset | None = None
    channels: int = 3
    workers: int = 0

    @property
    def canvas(self) -> tuple[int, int]:
        """The size of the views: the largest that the student or a teacher takes."""
        sizes = [self.size, *(teacher.size for teacher in self.teachers)]
        return (max(height for height, _ in sizes), max(width for _, width in sizes))


@dataclass(frozen=True)
class TrainingResult:
    """The steps, seconds of this run, last loss, and accuracy on the validation images of a training."""

    steps: int
    resumed_at: int
    seconds: float
    loss: float
    top1: float | None
    notes: tuple[str, ...] = ()


def accelerator(recipe: Recipe, uses_all_parameters: bool = True) -> Any:
    """Return Accelerate's `Accelerator` for this process; it reads torchrun's variables.

    Raises:
        MissingDependencyError: Accelerate is not installed.
        UsageError: fp16 was requested without a GPU.
    """
    try:
        from accelerate import Accelerator
        from accelerate.utils import DistributedDataParallelKwargs
    except ImportError as error:
        raise MissingDependencyError("Training", "accelerate", "train") from error
    ddp = DistributedDataParallelKwargs(find_unused_parameters=not uses_all_parameters)
    mixed = {"fp32": "no"}.get(recipe.precision, recipe.precision)
    if recipe.precision == "fp16" and not torch.cuda.is_available():
        raise UsageError("--precision fp16 needs a GPU.", hint="On a CPU use fp32 or bf16.")
    return Accelerator(mixed_precision=mixed, cpu=not torch.cuda.is_available(), kwargs_handlers=[ddp])


@torch.no_grad()
def probe(job: TrainingJob) -> Any:
    """Return the student's features of blank images, for their number, widths and positions."""
    training = job.student.training
    job.student.eval()
    features = observe(job.student, torch.zeros(2, job.channels, *job.size))
    job.student.train(training)
    return features


def stream(recipe: Recipe, purpose: int) -> int:
    """Return the seed of the random numbers for one purpose."""
    return seed_of(recipe.seed, purpose)
