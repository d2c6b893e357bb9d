"""Teachers' features on disk: computed once for each view of each image, in shards that are written whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from effbench.codec import fingerprint
from effbench.errors import DataError
from effbench.training.checkpoint import sync
from effbench.training.losses import MatchedFeatures
from effbench.training.projectors import Widths
from effbench.training.teachers import Teacher, TeacherOutput
from effbench.training.views import Views

SHARD = 2048
"""Views in a shard: what a kill can cost."""

BATCH = 128
SMALLEST_DEVIATION = 1e-3
"""Relative to the largest of a teacher's channels; a channel that never moves must not be blown up."""


class FeatureCache:
    """The features of one teacher for ``views`` views of every image.

    Args:
        folder: Where caches lie; this one gets a folder of its own, named by all that decides its content.
        teacher: Whose features.
        source: The views.
        views: Number of fixed views of an image.
        grid: Positions of spatial features.
    """

    def __init__(self, folder: Path, teacher: Teacher, source: Views, views: int, grid: tuple[int, int]) -> None:
        self.teacher, self.source, self.views, self.grid = teacher, source, views, grid
        made_of = {"teacher": teacher.identity, "views": source.identity, "count": views, "grid": grid}
        self.folder = folder / f"{teacher.name}-{fingerprint(made_of)[:16]}"
        self.total = len(source.labels) * views
        self.shards = -(-self.total // SHARD)
        self._open = lru_cache(maxsize=256)(self._opened)

    def fill(self, device: torch.device, rank: int, processes: int, notify: Callable[[str], None]) -> None:
        """Compute the shards that are missing and that fall to this process.

        Raises:
            DataError: The disk is full, or a feature is not a finite number in half precision.
        """
        missing = [shard for shard in range(rank, self.shards, processes) if not self._path(shard).is_dir()]
        for done, shard in enumerate(missing, start=1):
            self._write(shard, device)
            notify(f"features of {self.teacher.name}: {done} of {len(missing)} shards")

    def _path(self, shard: int) -> Path:
        return self.folder / f"{shard:06d}"

    def _places(self, shard: int) -> list[tuple[int, int]]:
        last = min(self.total, (shard + 1) * SHARD)
        return [divmod(number, self.views) for number in range(shard * SHARD, last)]

    def _write(self, shard: int, device: torch.device) -> None:
        places = self._places(shard)
        parts: dict[str, list[npt.NDArray[Any]]] = {}
        for start in range(0, len(places), BATCH):
            pixels = torch.stack([self.source[place][0] for place in places[start : start + BATCH]])
            for kind, value in self.teacher(pixels.to(device), self.grid).kinds().items():
                parts.setdefault(kind, []).append(value.half().cpu().numpy())
        draft = self.folder / f".{shard:06d}.{os.getpid()}"
        try:
            draft.mkdir(parents=True, exist_ok=True)
            for kind, found in parts.items():
                joined = np.concatenate(found)
                if not np.isfinite(joined).all():
                    raise DataError(
                        f"{self.teacher.name} gives {kind} features that half precision cannot hold.",
                        hint="Use it without the cache: --views 0.",
                    )
                np.save(draft / f"{kind}.npy", joined)
                sync(draft / f"{kind}.npy")
            draft.rename(self._path(shard))
        except OSError as error:
            shutil.rmtree(draft, ignore_errors=True)
            if self._path(shard).is_dir():  # another training made it meanwhile
                return
            raise DataError(
                f"Cannot write {self.folder}: {error.strerror}.",
                hint="Whole shards are kept; free space, or run the teachers along with --views 0.",
            ) from error

    def _opened(self, shard: int) -> dict[str, npt.NDArray[np.float16]]:
        files = sorted(self._path(shard).glob("*.npy"))
        try:
            return {file.stem: np.load(file, mmap_mode="r", allow_pickle=False) for file in files}
        except (OSError, ValueError) as error:
            raise DataError(
                f"{self._path(shard)} cannot be read: {error}.", hint="Remove it; it is computed again."
            ) from error

    def known(self, places: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """Return the places under which views are kept: where nothing is random, every view is the first."""
        return [(index, view % self.views) for index, view in places]

    def answer(self, places: list[tuple[int, int]]) -> TeacherOutput:
        """Return the features of some views, in their order."""
        numbers = np.array([index * self.views + view for index, view in places])
        shards, rows = np.divmod(numbers, SHARD)
        found: dict[str, npt.NDArray[np.float16]] = {}
        for shard in np.unique(shards):
            where = np.flatnonzero(shards == shard)
            for kind, values in self._open(int(shard)).items():
                if kind not in found:
                    found[kind] = np.empty((len(places), *values.shape[1:]), values.dtype)
                found[kind][where] = values[rows[where]]
        return TeacherOutput(**{kind: torch.from_numpy(value).float() for kind, value in found.items()})


class Scale:
    """Mean and deviation of a teacher's features per channel, by which they are made comparable between teachers.

    UNIC follows them by a moving average during training; here they are taken once beforehand, so that the targets do
    not move and a resumed training sees the same.
    """

    def __init__(self, mean: dict[str, Tensor], deviation: dict[str, Tensor]) -> None:
        self.mean, self.deviation = mean, deviation

    @classmethod
    def of(cls, answers: list[TeacherOutput]) -> Scale:
        """Take mean and deviation over images and positions."""
        mean, deviation = {}, {}
        for kind in ("pooled", "spatial"):
            found = [value for answer in answers if (value := getattr(answer, kind)) is not None]
            if found:
                flat = torch.cat([value.transpose(0, 1).flatten(1) for value in found], dim=1).double()
                spread = flat.std(dim=1, correction=0)
                mean[kind] = flat.mean(dim=1).float()
                deviation[kind] = spread.clamp_min(SMALLEST_DEVIATION * float(spread.max()) + 1e-12).float()
        return cls(mean, deviation)

    def __call__(self, answer: TeacherOutput) -> MatchedFeatures:
        """Return features with zero mean and unit deviation."""
        made = {}
        for kind, mean in self.mean.items():
            value: Tensor = getattr(answer, kind)
            shape = (1, -1, *([1] * (value.dim() - 2)))
            deviation = self.deviation[kind].to(value.device)
            made[kind] = (value - mean.to(value.device).view(shape)) / deviation.view(shape)
        return MatchedFeatures(**made)

    @property
    def widths(self) -> Widths:
        """The channels of the features."""
        return Widths(*(len(self.mean[kind]) if kind in self.mean else None for kind in ("pooled", "spatial")))
