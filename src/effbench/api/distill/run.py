"""Train a student from labels, from teachers, or both; the same command continues a training that was stopped."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effbench import drafts, reading
from effbench.api.distill import teachers as teacher_sources
from effbench.api.distill.dependencies import recorded
from effbench.api.distill.request import DistillRequest
from effbench.api.export.run import check_shapes
from effbench.api.export.source import Source, resolve
from effbench.api.export.stage import Notify
from effbench.api.keywords import from_fields
from effbench.codec import canonical, file_sha256, fingerprint, from_json, to_json
from effbench.data import Dataset, open_dataset
from effbench.data.folder import SPLITS
from effbench.errors import DataError, UsageError
from effbench.schema import InputShapes
from effbench.store import home as home_of
from effbench.training.recipe import Recipe

if TYPE_CHECKING:
    from effbench.training.job import TrainingJob

TRAINED = "trained.json"
WEIGHTS = "student.safetensors"


@dataclass(frozen=True)
class Trained:
    """The result of a training, and its inputs.

    ``weights`` is a .safetensors file below ``folder``; ``teachers`` are names and identities; ``data`` the hash of the
    images and labels; ``top1`` the share of validation images that the student classifies right, or None without any.
    """

    student: str
    shapes: InputShapes
    recipe: Recipe
    teachers: dict[str, str]
    data: str
    images: int
    labelled: int
    steps: int
    loss: float
    top1: float | None
    validation: str | None
    sha256: str
    folder: Path = Path()
    notes: tuple[str, ...] = ()

    @property
    def weights(self) -> Path:
        """The student's weights, without projectors."""
        return self.folder / WEIGHTS


@from_fields(DistillRequest)
def distill(request: DistillRequest) -> Trained:
    """Train a student and write its weights.

    Arguments are the fields of `DistillRequest`; returns and errors are those of `run_training`.
    """
    return run_training(request)


def run_training(request: DistillRequest) -> Trained:
    """Train a student, or continue a training that was stopped.

    Raises:
        UsageError: A field names nothing valid, or the same training runs already.
        DataError: Images or weights cannot be read, or there is nothing to learn from.
    """
    source = _student(request.student, request.weights, request.recipe)
    check_shapes(source, request.shapes)
    frozen = teacher_sources.sources(request.teachers)
    images, held_out = _images(request.data, request.validation, request.classes)
    import torch

    if request.threads is not None:
        torch.set_num_threads(request.threads)
    job, teachers = _job(source, images, held_out, frozen, request)
    trained = _finished(job.folder)
    if trained is not None:
        return replace(trained, notes=(*trained.notes, "trained before; nothing was done"))
    with _locked(job.folder):
        return _train(job, teachers, source.name, request.notify)


def _student(argument: str, weights: str | None, recipe: Recipe) -> Source:
    source = resolve(argument, weights, recipe.seed)
    if source.path is not None:
        raise UsageError(
            f"{argument} cannot be trained: an .onnx file is a finished graph.",
            hint="Name a registered model or package.module:factory; an .onnx file can be a --teacher.",
        )
    return source


def _images(
    data: str | Path, validation: str | Path | None, classes: str | Path | None
) -> tuple[Dataset, Dataset | None]:
    folder = Path(data)
    if (folder / "train").is_dir():
        split = next((folder / name for name in SPLITS if (folder / name).is_dir()), None)
        folder, validation = folder / "train", validation or split
    images = open_dataset(folder, classes)
    if validation is None:
        return images, None
    held_out = open_dataset(validation, classes or images.classes)
    if not held_out.labelled:
        raise DataError(f"{validation} holds images without labels; a validation needs labels.")
    return images, held_out


def _job(
    source: Source, images: Dataset, held_out: Dataset | None, frozen: Sequence[Source], request: DistillRequest
) -> tuple[TrainingJob, dict[str, str]]:
    """Return the training, with the identity of each teacher by its name."""
    from effbench.models.build import fit_resolution, fresh, load_factory, load_state, state_sha256
    from effbench.models.declared import declaration
    from effbench.training.job import TrainingJob

    backbone, size, home = source.backbone, request.shapes.pixels, home_of(request.out)
    module, parts = recorded(source, home, lambda: fresh(backbone, request.recipe.seed))
    if source.state is not None:
        load_state(module, source.state)
    fit_resolution(module, size)
    preprocessing = declaration(load_factory(backbone.factory), module).preprocessing or backbone.preprocessing
    teachers = []
    for number, teacher in enumerate(frozen, start=1):
        request.notify(f"teacher {teacher.name}")
        teachers.append(teacher_sources.build(teacher, size, number, home))
    identities = {teacher.name: teacher.identity for teacher in teachers}
    request.notify("hashing the images")
    key = fingerprint(
        {
            "student": {**parts, "state": state_sha256(module), "structure": str(module)},
            "size": size,
            "preprocessing": preprocessing,
            "recipe": request.recipe,
            "teachers": list(identities.values()),
            "images": images.sha256,
            "validation": held_out.sha256 if held_out else None,
        }
    )
    job = TrainingJob(
        student=module,
        size=size,
        preprocessing=preprocessing,
        images=images,
        teachers=tuple(teachers),
        recipe=request.recipe,
        folder=home / "trained" / f"{source.name}-{request.shapes}-{key[:8]}",
        cache=home / "features",
        validation=held_out,
        channels=backbone.in_channels,
        workers=request.workers,
    )
    return job, identities


def _train(job: TrainingJob, teachers: dict[str, str], name: str, notify: Notify) -> Trained:
    from effbench.training.loop import Training
    from effbench.training.losses import UNLABELLED

    training = Training(job, notify)
    result = training.run()
    sha256 = _write_weights(job.folder, training) if training.rank == 0 else ""
    notes = list(result.notes)
    if not (job.recipe.labels and job.images.labelled) and not job.recipe.logits:
        labelled = (training.views.labels != UNLABELLED).any()
        notes += (
            []
            if labelled and job.recipe.labels
            else ["the classifier was not trained: the losses were on features only"]
        )
    trained = Trained(
        student=name,
        shapes=InputShapes(job.size),
        recipe=job.recipe,
        teachers=teachers,
        data=job.images.sha256,
        images=len(job.images.items),
        labelled=int((training.views.labels != UNLABELLED).sum()),
        steps=result.steps,
        loss=result.loss,
        top1=result.top1,
        validation=job.validation.sha256 if job.validation else None,
        sha256=sha256,
        folder=job.folder,
        notes=tuple(notes),
    )
    if training.rank == 0:
        draft = job.folder / f".{TRAINED}"
        draft.write_bytes(canonical(to_json(trained)))
        draft.replace(job.folder / TRAINED)
    return trained


def _write_weights(folder: Path, training: Any) -> str:
    from safetensors.torch import save_file

    draft = folder / f".{WEIGHTS}"
    save_file(training.weights(), draft)
    draft.replace(folder / WEIGHTS)
    return file_sha256(folder / WEIGHTS)


def _finished(folder: Path) -> Trained | None:
    path = folder / TRAINED
    if not path.is_file() or not (folder / WEIGHTS).is_file():
        return None
    trained = from_json(Trained, reading.json_file(path), str(path), folder=folder)
    if file_sha256(trained.weights) != trained.sha256:
        raise DataError(f"{trained.weights}: changed since it was written.", hint=f"Remove {folder} to train again.")
    return trained


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a training, so that it runs once; of the processes of one training the first holds it."""
    from filelock import Timeout

    if os.environ.get("RANK", "0") != "0":
        yield
        return
    try:
        lock = drafts.file_lock(folder / ".lock", 0)
        lock.acquire()
    except Timeout as error:
        raise UsageError(f"This training is running already, in {folder}.", hint="Wait for it.") from error
    except OSError as error:
        raise DataError(f"Cannot write {folder}: {error.strerror}.", hint="Choose another with --out.") from error
    try:
        yield
    finally:
        lock.release()
