"""What a training is given and what it gives back; the processes and the random numbers that it runs on."""

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
"""What a random number is for; each has a stream of its own."""


@dataclass(frozen=True)
class TrainingJob:
    """What is trained, on what, and where it is written.

    ``canvas`` is the size of the views, the largest that the student or a teacher takes; ``workers`` are processes that
    decode images beside each training process.
    """

    student: nn.Module
    size: tuple[int, int]
    how: Preprocessing
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
        """The size of the views."""
        sizes = [self.size, *(teacher.size for teacher in self.teachers)]
        return (max(height for height, _ in sizes), max(width for _, width in sizes))


@dataclass(frozen=True)
class TrainingResult:
    """How a training ended: its steps, seconds of this run, last loss, and accuracy on the validation images."""

    steps: int
    resumed_at: int
    seconds: float
    loss: float
    top1: float | None
    notes: tuple[str, ...] = ()


def accelerator(recipe: Recipe, needs_all: bool = True) -> Any:
    """Return Accelerate's `Accelerator` for this process; it reads torchrun's variables.

    Raises:
        MissingDependencyError: Accelerate is not installed.
        UsageError: Half precision was asked for where it cannot be had.
    """
    try:
        from accelerate import Accelerator
        from accelerate.utils import DistributedDataParallelKwargs
    except ImportError as error:
        raise MissingDependencyError("Training", "accelerate", "train") from error
    unused = DistributedDataParallelKwargs(find_unused_parameters=not needs_all)
    mixed = {"fp32": "no"}.get(recipe.precision, recipe.precision)
    if recipe.precision == "fp16" and not torch.cuda.is_available():
        raise UsageError("--precision fp16 trains on a GPU only.", hint="On a CPU give fp32 or bf16.")
    return Accelerator(mixed_precision=mixed, cpu=not torch.cuda.is_available(), kwargs_handlers=[unused])


@torch.no_grad()
def probe(job: TrainingJob) -> Any:
    """Return the student's features of empty images: their number, widths and positions."""
    training = job.student.training
    job.student.eval()
    found = observe(job.student, torch.zeros(2, job.channels, *job.size))
    job.student.train(training)
    return found


def stream(recipe: Recipe, purpose: int) -> int:
    """Return the seed of everything that is drawn for one purpose."""
    return seed_of(recipe.seed, purpose)
