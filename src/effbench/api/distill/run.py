"""Train a student from labels, from teachers, or both; start the same again after a kill and it goes on."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effbench.api.distill import teachers as teacher_sources
from effbench.api.distill.request import DistillRequest
from effbench.api.export.run import check_shapes
from effbench.api.export.source import Source, ingredients, resolve
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
    """What a training made, and of what.

    ``weights`` is a .safetensors file below ``folder``; ``teachers`` are names and identities; ``data`` the hash of the
    images and labels; ``top1`` the share of validation images that the student gets right, None without any.
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
    with _alone(job.folder):
        return _train(job, teachers, source.name, request.notify)


def _student(argument: str, weights: str | None, recipe: Recipe) -> Source:
    source = resolve(argument, weights, recipe.seed)
    if source.path is not None:
        raise UsageError(
            f"{argument} cannot be trained: an .onnx file is a finished graph.",
            hint="Name a registered model or package.module:factory; as a --teacher an .onnx file is welcome.",
        )
    return source


def _images(
    data: str | Path, validation: str | Path | None, classes: str | Path | None
) -> tuple[Dataset, Dataset | None]:
    place = Path(data)
    if (place / "train").is_dir():
        beside = next((place / name for name in SPLITS if (place / name).is_dir()), None)
        place, validation = place / "train", validation or beside
    images = open_dataset(place, classes)
    if validation is None:
        return images, None
    held_out = open_dataset(validation, classes or images.classes)
    if not held_out.labelled:
        raise DataError(f"{validation} holds images without labels, by which nothing can be validated.")
    return images, held_out


def _job(
    source: Source, images: Dataset, held_out: Dataset | None, frozen: Sequence[Source], request: DistillRequest
) -> tuple[TrainingJob, dict[str, str]]:
    """Return the training, with the identity of each teacher by its name."""
    from effbench.models.build import fit_resolution, fresh, load_factory, load_state
    from effbench.models.declared import declaration
    from effbench.training.job import TrainingJob

    backbone, size, home = source.backbone, request.shapes.image, home_of(request.out)
    module = fresh(backbone, request.recipe.seed)
    if source.state is not None:
        load_state(module, source.state)
    fit_resolution(module, size)
    preprocessing = declaration(load_factory(backbone.factory), module).preprocessing or backbone.preprocessing
    teachers = []
    for number, teacher in enumerate(frozen, start=1):
        request.notify(f"teacher {teacher.name}")
        teachers.append(teacher_sources.build(teacher, size, number))
    identities = {teacher.name: teacher.identity for teacher in teachers}
    request.notify("hashing the images")
    key = fingerprint(
        {
            "student": ingredients(source),
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
        notes += [] if labelled and job.recipe.labels else ["the classifier was not trained: features were all it saw"]
    made = Trained(
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
        draft.write_bytes(canonical(to_json(made)))
        draft.replace(job.folder / TRAINED)
    return made


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
    import json

    found = from_json(Trained, json.loads(path.read_text()), str(path), folder=folder)
    if file_sha256(found.weights) != found.sha256:
        raise DataError(f"{found.weights}: not the file that was written.", hint=f"Remove {folder} to train again.")
    return found


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep a second start of the same training out; of several processes of one training the first holds the lock."""
    from filelock import FileLock, Timeout

    if os.environ.get("RANK", "0") != "0":
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock", timeout=0)
        lock.acquire()
    except Timeout as error:
        raise UsageError(f"This training is running already, in {folder}.", hint="Wait for it.") from error
    except OSError as error:
        raise DataError(f"Cannot write {folder}: {error.strerror}.", hint="Choose another with --out.") from error
    try:
        yield
    finally:
        lock.release()
