"""Train a student from labels, from teachers, or both; start the same again after a kill and it goes on."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effbench.api.distill import teachers as teacher_sources
from effbench.api.export.run import check_shapes
from effbench.api.export.source import Source, ingredients, resolve
from effbench.api.export.stage import Notify, silent
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


def distill(
    student: str,
    data: str | Path,
    teachers: Sequence[str] = (),
    *,
    resolution: str | int = 224,
    recipe: Recipe | None = None,
    validation: str | Path | None = None,
    classes: str | Path | None = None,
    weights: str | None = None,
    workers: int = 0,
    threads: int | None = None,
    out: str | Path | None = None,
    notify: Notify = silent,
) -> Trained:
    """Train a student and write its weights.

    Args:
        student: A registered name, or ``package.module:factory``.
        data: Images (`effbench.data.open_dataset`), with or without labels; of a folder with ``train`` in it, those.
        teachers: ``MODEL`` or ``MODEL@FILE.safetensors`` each; none means plain training from labels.
        resolution: Of the student's images.
        recipe: Everything else that decides the weights.
        validation: Labelled images for an accuracy at the end; ``val`` beside ``train`` where there is one.
        classes: The classes in the order of the student's outputs (`open_dataset`).
        weights: A .safetensors file to begin from.
        workers: Processes that decode images.
        threads: Of torch; None leaves its default.
        out: The folder to write below (`store.home`).
        notify: Called with a line now and then.

    Raises:
        UsageError: An argument that names nothing valid, or the same training runs already.
        DataError: Images or weights cannot be read, or there is nothing to learn from.
    """
    recipe = recipe or Recipe()
    source, shapes = _student(student, weights, recipe), InputShapes.parse(resolution)
    check_shapes(source, shapes)
    frozen = teacher_sources.sources(teachers)
    images, held_out = _images(data, validation, classes)
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    home = home_of(out)
    job, known = _job(source, shapes.image, recipe, images, held_out, frozen, home, workers, notify)
    found = _finished(job.folder)
    if found is not None:
        return replace(found, notes=(*found.notes, "trained before; nothing was done"))
    with _alone(job.folder):
        return _train(job, known, source.name, notify)


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
    source: Source,
    size: tuple[int, int],
    recipe: Recipe,
    images: Dataset,
    held_out: Dataset | None,
    frozen: Sequence[Source],
    home: Path,
    workers: int,
    notify: Notify,
) -> tuple[TrainingJob, dict[str, str]]:
    from effbench.models.build import fit_resolution, fresh, load_factory, load_state
    from effbench.models.declared import declaration
    from effbench.training.job import TrainingJob

    backbone = source.backbone
    module = fresh(backbone, recipe.seed)
    if source.state is not None:
        load_state(module, source.state)
    fit_resolution(module, size)
    how = declaration(load_factory(backbone.factory), module).preprocessing or backbone.preprocessing
    made = []
    for number, one in enumerate(frozen, start=1):
        notify(f"teacher {one.name}")
        made.append(teacher_sources.build(one, size, number))
    known = {teacher.name: teacher.identity for teacher in made}
    notify("hashing the images")
    key = fingerprint(
        {
            "student": ingredients(source),
            "size": size,
            "how": how,
            "recipe": recipe,
            "teachers": list(known.values()),
            "images": images.sha256,
            "validation": held_out.sha256 if held_out else None,
        }
    )
    folder = home / "trained" / f"{source.name}-{size}-{key[:8]}"
    job = TrainingJob(
        student=module,
        size=size,
        how=how,
        images=images,
        teachers=tuple(made),
        recipe=recipe,
        folder=folder,
        cache=home / "features",
        validation=held_out,
        channels=backbone.in_channels,
        workers=workers,
    )
    return job, known


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
