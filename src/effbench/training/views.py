"""Views of images for training: each is determined by the seed, the image and the number of the view."""

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

CACHE_BYTES = 256 * 2**20
"""Fixed views are kept in memory, up to this size."""


def labels_of(images: Dataset) -> npt.NDArray[np.int64]:
    """Return the class of every image, `UNLABELLED` for an image without one."""
    return np.array([UNLABELLED if item.label is None else item.label for item in images.items], np.int64)


class Views(torch.utils.data.Dataset[tuple[Tensor, int, int, int]]):
    """Views of images, all of one size, indexed by (image, view).

    Args:
        images: The data set.
        size: Height and width in pixels.
        augmentation: A name of `AUGMENTATIONS`; with ``none`` every view is the one that ``preprocessing`` defines.
        seed: Seed of all views.
        preprocessing: Interpolation and crop of views that are not random.
        fixed: Whether views are used more than once, and may be kept in memory.
    """

    def __init__(
        self,
        images: Dataset,
        size: tuple[int, int],
        augmentation: str,
        seed: int,
        preprocessing: Preprocessing,
        fixed: bool,
    ) -> None:
        self.images, self.seed, self.size = images, seed, size
        self.labels = labels_of(images)
        self.preprocessing = replace(preprocessing, channel_order="RGB")
        self.transform = _transform(size, augmentation, preprocessing) if AUGMENTATIONS[augmentation] else None
        inputs = [images.sha256, size, AUGMENTATIONS[augmentation] and [augmentation, seed], self.preprocessing]
        self.identity = fingerprint(inputs)
        self._cache: dict[tuple[int, int], Tensor] = {}
        self._capacity = CACHE_BYTES // (3 * size[0] * size[1]) if fixed else 0

    def __getitem__(self, position: tuple[int, int]) -> tuple[Tensor, int, int, int]:
        """Return the pixels of a view, uint8 of shape (3, H, W), its label, its image and its number."""
        index, view = position
        return self._pixels(index, view), int(self.labels[index]), index, view

    def _pixels(self, index: int, view: int) -> Tensor:
        view = view if self.transform is not None else 0
        pixels = self._cache.get((index, view))
        if pixels is None:
            pixels = self._draw(index, view)
            if len(self._cache) < self._capacity:
                self._cache[index, view] = pixels
        return pixels

    def _draw(self, index: int, view: int) -> Tensor:
        item = self.images.items[index]
        image = decode(item.read(), item.name)
        if self.transform is None:
            return torch.from_numpy(cut(image, self.size, self.preprocessing))
        with drawn_from(self.seed, index, view):
            return self.transform(image)


def _transform(size: tuple[int, int], augmentation: str, preprocessing: Preprocessing) -> Callable[[Any], Tensor]:
    options = {"interpolation": preprocessing.interpolation, **AUGMENTATIONS[augmentation]}
    transform: Callable[[Any], Tensor] = import_timm_data().create_transform(
        (3, *size), is_training=True, normalize=False, **options
    )
    return transform


def seed_of(*position: int) -> int:
    """Return a random seed for a position; the seeds of neighbouring positions are independent."""
    return int(np.random.SeedSequence(position).generate_state(1)[0])


@contextmanager
def drawn_from(*position: int) -> Iterator[None]:
    """Seed all random generators from a position, and restore their states afterwards."""
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


def prepare(pixels: Tensor, size: tuple[int, int], preprocessing: Preprocessing, channels: int = 3) -> Tensor:
    """Convert views to the input of a network: resize, select channels, scale and normalise.

    Args:
        pixels: RGB views, uint8, shape (B, 3, H, W).
        size: Height and width that the network takes.
        preprocessing: Scale, mean, standard deviation and channel order of the network.
        channels: 3, or 1 for a network that takes grey images.

    Returns:
        Shape (B, channels, *size).
    """
    values = resized(pixels.float(), size) * preprocessing.scale
    if channels == 1:
        values = values.mean(dim=1, keepdim=True)
    elif preprocessing.channel_order == "BGR":
        values = values.flip(1)
    mean, deviation = (
        torch.tensor(item, device=values.device)[None, :, None, None]
        for item in (preprocessing.mean, preprocessing.std)
    )
    if mean.shape[1] not in (1, channels):
        mean, deviation = mean.mean(dim=1, keepdim=True), deviation.mean(dim=1, keepdim=True)
    return (values - mean) / deviation


class Order:
    """The views of each batch, determined by the seed and the step, and equal on all processes.

    Each epoch is a pass over the images in a new order without the last incomplete batch. With a share of labelled
    images, an epoch is a pass over the unlabelled ones, and the labelled ones repeat as often as needed.
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
                f"{len(self.main)} images are fewer than the {self.main_per_batch} of a batch.",
                hint="Use a smaller --batch.",
            )
        self.steps_per_epoch = len(self.main) // self.main_per_batch
        self._shuffled = lru_cache(maxsize=4)(self._shuffle)

    def batch(self, step: int, rank: int = 0, processes: int = 1) -> list[tuple[int, int]]:
        """Return a process's part of the batch at a step (from 0) as pairs of image and view."""
        epoch, position = divmod(step, self.steps_per_epoch)
        start = position * self.main_per_batch
        chosen = [*self._shuffled(False, epoch)[start : start + self.main_per_batch]]
        for number in range(step * self.extra_per_batch, (step + 1) * self.extra_per_batch):
            extra_epoch, offset = divmod(number, len(self.extra))
            chosen.append(self._shuffled(True, extra_epoch)[offset])
        view = epoch % self.views if self.views else epoch
        return [(int(index), view) for index in chosen[rank::processes]]

    def rest(self, step: int, last: int, rank: int = 0, processes: int = 1) -> Iterator[list[tuple[int, int]]]:
        """Yield a process's parts of the batches from a step up to another."""
        for number in range(step, last):
            yield self.batch(number, rank, processes)

    def _shuffle(self, extra: bool, epoch: int) -> npt.NDArray[np.intp]:
        images = self.extra if extra else self.main
        order: npt.NDArray[np.intp] = np.random.default_rng([self.seed, int(extra), epoch]).permutation(images)
        return order
