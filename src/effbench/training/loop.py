"""The training loop: batches in a fixed order, losses over all processes, and regular checkpoints.

Accelerate handles devices, precision and processes (started by torchrun); timm provides the learning-rate schedule, the
groups of weight decay and the moving average of weights.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from effbench.errors import DataError, EffbenchError, UsageError
from effbench.models.torchvision_operators import import_timm
from effbench.training import checkpoint, losses
from effbench.training.cache import FeatureCache, Scale
from effbench.training.job import (
    ORDER,
    PROJECTORS,
    STEP,
    VIEWS,
    TrainingJob,
    TrainingResult,
    accelerator,
    probe,
    stream,
)
from effbench.training.journal import CURVE, TrainingJournal, read
from effbench.training.objective import Objective
from effbench.training.projectors import Student, grid_of
from effbench.training.synchronise import synchronised
from effbench.training.teachers import Teacher, TeacherOutput
from effbench.training.validation import accuracy
from effbench.training.views import Order, Views, drawn_from, prepare, seed_of

Notify = Callable[[str], None]

SCALE_IMAGES = 2048
"""Images that the scale of a teacher's features is computed from."""

CHECKPOINT_S = 60.0
"""Time between checkpoints if the recipe sets no number of steps; the most that a kill loses."""


class Training:
    """A training that resumes from its newest checkpoint."""

    def __init__(self, job: TrainingJob, notify: Notify) -> None:
        self.job, self.recipe, self.notify = job, job.recipe, notify
        recipe = job.recipe
        self.accelerator = accelerator(recipe, bool(recipe.logits or recipe.labels))
        self.device: torch.device = self.accelerator.device
        self.rank, self.processes = self.accelerator.process_index, self.accelerator.num_processes
        if recipe.batch % self.processes:
            raise UsageError(f"--batch {recipe.batch} cannot be shared by {self.processes} processes.")
        fixed = recipe.views > 0
        self.views = Views(job.images, job.canvas, recipe.augmentation, stream(recipe, VIEWS), job.preprocessing, fixed)
        share = recipe.labelled_share if recipe.labels else 0.0
        self.order = Order(self.views.labels, recipe.batch, stream(recipe, ORDER), recipe.views, share)
        self.steps = recipe.epochs * self.order.steps_per_epoch
        features = probe(job)
        self.grid, self.classes = grid_of(features), 0 if features.logits is None else features.logits.shape[1]
        self._check_labels()
        self.caches = self._fill_caches()
        self.scales = [self._scale(teacher, cache) for teacher, cache in zip(job.teachers, self.caches, strict=True)]
        names = [teacher.name for teacher in job.teachers]
        self.objective = Objective(recipe, names, self.scales, self.classes, self._total)
        self._build(tuple(x.shape[1] for x in features.maps))
        self.step = self._restore()
        self._notified_s, self._saved_s = 0.0, time.monotonic()

    def _check_labels(self) -> None:
        recipe, labels = self.recipe, self.views.labels[self.views.labels != losses.UNLABELLED]
        if recipe.labels and not len(labels):
            if not self.job.teachers:
                raise DataError(
                    "No image has a label and there is no teacher: there is nothing to learn from.",
                    hint="Use a folder per class, or add a --teacher.",
                )
        elif recipe.labels and not self.classes:
            raise UsageError("The student has no class scores to train with labels.", hint="Use --labels 0.")
        elif recipe.labels:
            self.job.images.check_head(self.classes, "the student")

    def _fill_caches(self) -> list[FeatureCache | None]:
        if not self.recipe.views:
            return [None for _ in self.job.teachers]
        views = self.recipe.views if self.views.transform is not None else 1
        caches = [FeatureCache(self.job.cache, item, self.views, views, self.grid) for item in self.job.teachers]
        for cache in caches:
            cache.fill(self.device, self.rank, self.processes, self.notify)
        self.accelerator.wait_for_everyone()
        return list(caches)

    def _scale(self, teacher: Teacher, cache: FeatureCache | None) -> Scale:
        count = len(self.views.labels)
        views = [(int(index), 0) for index in range(0, count, max(1, count // SCALE_IMAGES))]
        groups = [views[start : start + 128] for start in range(0, len(views), 128)]
        if cache is not None:
            return Scale.of([cache.read(group) for group in groups])
        return Scale.of([self._run(teacher, torch.stack([self.views[view][0] for view in group])) for group in groups])

    def _run(self, teacher: Teacher, pixels: Tensor) -> TeacherOutput:
        return teacher(pixels.to(self.device), self.grid)

    def _build(self, widths: tuple[int, ...]) -> None:
        recipe = self.recipe
        outputs = {t.name: s.widths for t, s in zip(self.job.teachers, self.scales, strict=True)}
        with drawn_from(stream(recipe, PROJECTORS)):
            model = Student(self.job.student, widths, outputs if recipe.features else {})
        timm_utils = import_timm("timm.utils", "Training", "train")
        self.ema = timm_utils.ModelEmaV3(model.backbone, recipe.ema_decay) if recipe.ema_decay else None
        if self.ema is not None:
            self.ema.to(self.device)
        synced = synchronised(model, self.device)
        groups = import_timm("timm.optim", "Training", "train").param_groups_weight_decay(synced, recipe.weight_decay)
        optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate)
        scheduler = import_timm("timm.scheduler", "Training", "train").CosineLRScheduler(
            optimizer,
            t_initial=self.steps,
            lr_min=recipe.final_learning_rate,
            warmup_t=round(recipe.warmup_epochs * self.order.steps_per_epoch),
            warmup_lr_init=recipe.learning_rate * 1e-3,
            t_in_epochs=False,
        )
        self.scheduler = scheduler
        self.model, self.optimizer = self.accelerator.prepare(synced, optimizer)

    @property
    def bare(self) -> Student:
        """The student with its projectors, without the wrappers of Accelerate."""
        student = self.accelerator.unwrap_model(self.model)
        assert isinstance(student, Student)
        return student

    def state(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        scaler = getattr(self.accelerator, "scaler", None)
        return {
            "model": dict(self.bare.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "ema": dict(self.ema.module.state_dict()) if self.ema is not None else None,
            "scaler": scaler.state_dict() if scaler is not None else None,
            "threads": torch.get_num_threads(),
        }

    def _restore(self) -> int:
        newest = checkpoint.load(self.job.folder)
        if newest is None:
            return 0
        step, state = newest
        self.bare.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.ema is not None:
            self.ema.module.load_state_dict(state["ema"])
        if state["scaler"] is not None and getattr(self.accelerator, "scaler", None) is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.notify(f"resuming from step {step} of {self.steps}")
        return step

    def run(self) -> TrainingResult:
        """Train to the last step; afterwards `weights` returns the weights."""
        start, first = time.monotonic(), self.step
        loss = next((line["loss"] for line in reversed(read(self.job.folder / CURVE)) if "loss" in line), 0.0)
        with TrainingJournal(self.job.folder, self.step, self.rank == 0) as journal:
            for batch in self._batches():
                numbers = self._train_step(*batch)
                loss = numbers["loss"]
                self.step += 1
                journal.write(self.step, numbers)
                self._report(loss, start, first)
                self._checkpoint()
            self.accelerator.wait_for_everyone()
            top1 = self._validate()
            if top1 is not None:
                journal.write(self.step, {"validation/top1": top1})
        notes = (f"resumed from step {first}",) if first else ()
        return TrainingResult(self.steps, first, round(time.monotonic() - start, 3), loss, top1, notes)

    def _report(self, loss: float, start: float, first: int) -> None:
        if time.monotonic() - self._notified_s < 1 and self.step < self.steps:
            return
        self._notified_s = time.monotonic()
        remaining_s = (time.monotonic() - start) / (self.step - first) * (self.steps - self.step)
        self.notify(f"step {self.step} of {self.steps}, loss {loss:.4f}, {remaining_s:.0f} s left")

    def _checkpoint(self) -> None:
        """Write a checkpoint if one is due; only the first process does."""
        every = self.recipe.checkpoint_steps
        due = self.step % every == 0 if every else time.monotonic() - self._saved_s > CHECKPOINT_S
        if self.rank == 0 and (due or self.step == self.steps):
            checkpoint.save(self.job.folder, self.step, self.state())
            self._saved_s = time.monotonic()

    def _batches(self) -> Iterator[tuple[Tensor, Tensor, list[tuple[int, int]]]]:
        remaining = self.order.rest(self.step, self.steps, self.rank, self.processes)
        loader = DataLoader(self.views, batch_sampler=remaining, num_workers=self.job.workers)
        for pixels, labels, index, view in loader:
            positions = list(zip(index.tolist(), view.tolist(), strict=True))
            yield pixels.to(self.device), labels.to(self.device), positions

    def _train_step(self, pixels: Tensor, labels: Tensor, views: list[tuple[int, int]]) -> dict[str, float]:
        self.scheduler.step_update(self.step)
        self.model.train()
        outputs = [
            self._run(teacher, pixels) if cache is None else _to(cache.read(cache.keys(views)), self.device)
            for teacher, cache in zip(self.job.teachers, self.caches, strict=True)
        ]
        inputs = prepare(pixels, self.job.size, self.job.preprocessing, self.job.channels)
        # Dropout is seeded by the step, so that a resumed training repeats it.
        with drawn_from(stream(self.recipe, STEP), self.step, self.rank), self.accelerator.autocast():
            projected, logits = self.model(inputs)
        logits = logits.float() if logits is not None else None
        uniform = self._uniform(len(outputs), len(labels))
        terms, statistics = self.objective(projected, logits, outputs, labels, uniform)
        loss = torch.stack(list(terms.values())).sum()
        # Gradients are averaged over processes, but the loss of each is already a part of the batch's mean.
        self.accelerator.backward(loss * self.processes)
        if self.recipe.clip_norm:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.ema is not None:
            self.ema.update(self.bare.backbone, self.step)
        return self._numbers(loss, terms, statistics)

    def _uniform(self, teachers: int, images: int) -> Tensor:
        """Return this process's part of the random numbers of the batch."""
        generator = torch.Generator().manual_seed(seed_of(stream(self.recipe, STEP), self.step))
        numbers = torch.rand(teachers, self.recipe.batch, generator=generator)[:, self.rank :: self.processes]
        assert numbers.shape[1] == images
        return numbers.to(self.device)

    def _total(self, value: Tensor) -> Tensor:
        return self.accelerator.reduce(value, "sum")  # type: ignore[no-any-return]

    def _numbers(self, loss: Tensor, terms: Mapping[str, Tensor], statistics: Mapping[str, Tensor]) -> dict[str, float]:
        named = {"loss": loss, **{f"loss/{name}": term for name, term in terms.items()}, **statistics}
        summed = self._total(torch.stack([value.detach().float() for value in named.values()])).tolist()
        numbers = dict(zip(named, summed, strict=True))
        if not torch.isfinite(torch.tensor(numbers["loss"])):
            raise EffbenchError(
                f"The loss of step {self.step} is {numbers['loss']}.",
                hint="Try a smaller --learning-rate, or --clip-norm 1. The previous checkpoint is kept.",
            )
        return {**numbers, "learning_rate": self.optimizer.param_groups[0]["lr"]}

    def weights(self) -> dict[str, Tensor]:
        """Return the student's weights, or their moving average if the recipe has one, without projectors."""
        module = self.ema.module if self.ema is not None else self.bare.backbone
        return {name: value.detach().cpu().contiguous().clone() for name, value in module.state_dict().items()}

    def _validate(self) -> float | None:
        if self.job.validation is None or not self.classes:
            return None
        module = self.ema.module if self.ema is not None else self.bare.backbone
        return accuracy(
            module, self.job.validation, self.job.size, self.job.preprocessing, self.job.channels, self.device
        )


def _to(output: TeacherOutput, device: torch.device) -> TeacherOutput:
    return TeacherOutput(**{kind: value.to(device) for kind, value in output.kinds().items()})
