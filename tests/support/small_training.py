"""Small networks and images for the tests of training; as a script, a training that can be killed."""

from __future__ import annotations

import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from effbench.data import Dataset, Item
from effbench.data.table import CellContent
from effbench.schema import Preprocessing
from effbench.training.job import TrainingJob
from effbench.training.loop import Training
from effbench.training.recipe import Recipe
from effbench.training.teachers import Teacher, from_module

PREPROCESSING = Preprocessing(crop_pct=1.0)


class Net(nn.Module):
    """Two stages with BatchNorm and dropout, and a classifier."""

    def __init__(self, width: int = 8, classes: int = 4) -> None:
        super().__init__()
        self.first = self.stage(3, width)
        self.second = self.stage(width, 2 * width)
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(2 * width, classes)

    def stage(self, inputs: int, outputs: int) -> nn.Module:
        # The gradient of a bias before a BatchNorm is rounding errors only, which Adam would turn into steps.
        return nn.Sequential(nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.GELU())

    def forward_features(self, x: Tensor) -> tuple[Tensor, ...]:
        first = self.first(x)
        return first, self.second(first)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.forward_features(x)[-1].mean((2, 3))))


def net(width: int = 8, seed: int = 0, dropout: float = 0.1) -> Net:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Net(width)
    network.drop.p = dropout
    return network


def images(count: int = 48, labelled: int | None = None, seed: int = 0, side: int = 16) -> Dataset:
    """Return images of noise with a color cast, which is the class."""
    rng = np.random.default_rng(seed)
    items = []
    for index in range(count):
        label = index % 4
        pixels = rng.integers(0, 160, (side, side, 3), np.uint8)
        pixels[..., label : label + 1] += 60
        stream = BytesIO()
        Image.fromarray(pixels).save(stream, "PNG")
        tagged = label if labelled is None or index < labelled else None
        items.append(Item(f"{index:04d}.png", CellContent(stream.getvalue()), None, tagged))
    return Dataset("colors", "list", tuple(items), ("a", "b", "c", "d"))


def teacher(name: str = "one", width: int = 12, seed: int = 1, side: int = 24) -> Teacher:
    return from_module(name, net(width, seed), (side, side), PREPROCESSING)


def job(folder: Path, recipe: Recipe, dropout: float = 0.1, **changes: object) -> TrainingJob:
    settings = {
        "student": net(dropout=dropout),
        "size": (16, 16),
        "preprocessing": PREPROCESSING,
        "images": images(labelled=16),
        "teachers": (teacher(), teacher("two.b", 6, 2)),
        "recipe": recipe,
        "folder": folder,
        "cache": folder.parent / "features",
    }
    return TrainingJob(**{**settings, **changes})  # type: ignore[arg-type]


RECIPE = Recipe(
    epochs=4, batch=16, learning_rate=3e-3, warmup_epochs=1, views=2, augmentation="shift", labelled_share=0.25,
    ema_decay=0.9, checkpoint_steps=1,
)  # fmt: skip

if __name__ == "__main__":
    from safetensors.torch import save_file

    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    dropout = float(sys.argv[2]) if len(sys.argv) > 2 else 0.1
    training = Training(job(folder, RECIPE, dropout), lambda text: print(text, file=sys.stderr, flush=True))
    training.run()
    if training.rank == 0:
        save_file(training.weights(), folder / "weights.safetensors")
