"""Images as a training sees them: a view of an image, decided by the seed, the image and the view's number."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from effbench.codec import fingerprint
from effbench.data import Dataset
from effbench.data.pixels import cut, decode
from effbench.errors import DataError
from effbench.models.torchvision_operators import import_timm_data
from effbench.schema import Preprocessing
from effbench.training.features import resized
from effbench.training.losses import UNLABELLED
from effbench.training.recipe import AUGMENTATIONS

KEPT_BYTES = 256 * 2**20
"""Views that are drawn once only are kept in memory, up to this size."""


def labels_of(images: Dataset) -> npt.NDArray[np.int64]:
    """Return the class of every image, `UNLABELLED` where it has none."""
    return np.array([UNLABELLED if item.label is None else item.label for item in images.items], np.int64)


class Views(torch.utils.data.Dataset[tuple[Tensor, int, int, int]]):
    """Views of images, all at one size; an item is asked for by (image, view).

    Args:
        images: Where they come from.
        size: Height and width in pixels.
        augmentation: A name of `AUGMENTATIONS`; with ``none`` every view is the one that `how` describes.
        seed: Of all views.
        how: Interpolation and crop where nothing is drawn at random.
        fixed: Views come again, and may be kept.
    """

    def __init__(
        self, images: Dataset, size: tuple[int, int], augmentation: str, seed: int, how: Preprocessing, fixed: bool
    ) -> None:
        self.images, self.seed, self.size = images, seed, size
        self.labels = labels_of(images)
        self.how = replace(how, channel_order="RGB")
        self.transform = _transform(size, augmentation, how) if AUGMENTATIONS[augmentation] else None
        made_of = [images.sha256, size, AUGMENTATIONS[augmentation] and [augmentation, seed], self.how]
        self.identity = fingerprint(made_of)
        self._kept: dict[tuple[int, int], Tensor] = {}
        self._room = KEPT_BYTES // (3 * size[0] * size[1]) if fixed else 0

    def __getitem__(self, place: tuple[int, int]) -> tuple[Tensor, int, int, int]:
        """Return the view as bytes (3, H, W), its label, and its place again."""
        index, view = place
        return self._pixels(index, view), int(self.labels[index]), index, view

    def _pixels(self, index: int, view: int) -> Tensor:
        view = view if self.transform is not None else 0
        found = self._kept.get((index, view))
        if found is None:
            found = self._draw(index, view)
            if len(self._kept) < self._room:
                self._kept[index, view] = found
        return found

    def _draw(self, index: int, view: int) -> Tensor:
        item = self.images.items[index]
        image = decode(item.read(), item.name)
        if self.transform is None:
            return torch.from_numpy(cut(image, self.size, self.how))
        with drawn_from(self.seed, index, view):
            return self.transform(image)


def _transform(size: tuple[int, int], augmentation: str, how: Preprocessing) -> Callable[[Any], Tensor]:
    create_transform = import_timm_data().create_transform
    found: Callable[[Any], Tensor] = create_transform(
        (3, *size), is_training=True, normalize=False, interpolation=how.interpolation, **AUGMENTATIONS[augmentation]
    )
    return found


def seed_of(*position: int) -> int:
    """Return a random seed for a position; neighbouring positions have nothing in common."""
    return int(np.random.SeedSequence(position).generate_state(1)[0])


@contextmanager
def drawn_from(*position: int) -> Iterator[None]:
    """Draw whatever is drawn inside from a position, and leave the generators outside as they were."""
    seed = seed_of(*position)
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def prepare(pixels: Tensor, size: tuple[int, int], how: Preprocessing, channels: int = 3) -> Tensor:
    """Return the input of a network from views: its size, its channels, its scale.

    Args:
        pixels: Bytes of RGB views, shape (B, 3, H, W).
        size: Height and width that the network takes.
        how: Scale, mean, deviation and channel order that the network was made for.
        channels: 3, or 1 for a network that takes grey images.

    Returns:
        Shape (B, channels, *size).
    """
    values = resized(pixels.float(), size) * how.scale
    if channels == 1:
        values = values.mean(dim=1, keepdim=True)
    elif how.channel_order == "BGR":
        values = values.flip(1)
    mean, deviation = (torch.tensor(item, device=values.device)[None, :, None, None] for item in (how.mean, how.std))
    if mean.shape[1] not in (1, channels):
        mean, deviation = mean.mean(dim=1, keepdim=True), deviation.mean(dim=1, keepdim=True)
    return (values - mean) / deviation


class Order:
    """Which views make up which batch: decided by the seed and the step, whatever process asks.

    Each epoch is a pass over the images in a new order, the last incomplete batch left out. With a share of labelled
    images, a pass goes over the unlabelled ones and the labelled ones are gone through as often as it takes.
    """

    def __init__(
        self, labels: npt.NDArray[np.int64], batch: int, seed: int, views: int, labelled_share: float = 0.0
    ) -> None:
        self.seed, self.views = seed, views
        labelled = np.flatnonzero(labels != UNLABELLED)
        unlabelled = np.flatnonzero(labels == UNLABELLED)
        mixed = bool(labelled_share and len(labelled) and len(unlabelled))
        self.main = unlabelled if mixed else np.arange(len(labels))
        self.extra = labelled
        self.extra_per_batch = min(batch - 1, max(1, round(labelled_share * batch))) if mixed else 0
        self.main_per_batch = batch - self.extra_per_batch
        if len(self.main) < self.main_per_batch:
            raise DataError(
                f"{len(self.main)} images are fewer than the {self.main_per_batch} that a batch takes.",
                hint="Give a smaller --batch.",
            )
        self.steps_per_epoch = len(self.main) // self.main_per_batch
        self._shuffled = lru_cache(maxsize=4)(self._shuffle)

    def batch(self, step: int, rank: int = 0, processes: int = 1) -> list[tuple[int, int]]:
        """Return a process's part of the batch at a step (from 0): pairs of image and view."""
        epoch, position = divmod(step, self.steps_per_epoch)
        start = position * self.main_per_batch
        chosen = [*self._shuffled(False, epoch)[start : start + self.main_per_batch]]
        for place in range(step * self.extra_per_batch, (step + 1) * self.extra_per_batch):
            turn, offset = divmod(place, len(self.extra))
            chosen.append(self._shuffled(True, turn)[offset])
        view = epoch % self.views if self.views else epoch
        return [(int(index), view) for index in chosen[rank::processes]]

    def rest(self, step: int, last: int, rank: int = 0, processes: int = 1) -> Iterator[list[tuple[int, int]]]:
        """Yield a process's parts of the batches from a step up to another."""
        for each in range(step, last):
            yield self.batch(each, rank, processes)

    def _shuffle(self, extra: bool, turn: int) -> npt.NDArray[np.intp]:
        which = self.extra if extra else self.main
        found: npt.NDArray[np.intp] = np.random.default_rng([self.seed, int(extra), turn]).permutation(which)
        return found
