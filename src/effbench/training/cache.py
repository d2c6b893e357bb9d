"""Teachers' features on disk, computed once for each view of each image, in shards that are written atomically."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from effbench import drafts
from effbench.codec import fingerprint
from effbench.errors import DataError
from effbench.training.checkpoint import sync
from effbench.training.losses import MatchedFeatures
from effbench.training.projectors import Widths
from effbench.training.teachers import Teacher, TeacherOutput
from effbench.training.views import Views

SHARD = 2048
"""Views in a shard: the most that a kill loses."""

BATCH = 128
SMALLEST_DEVIATION = 1e-3
"""Relative to the largest of a teacher's channels, so that a constant channel is not amplified."""


class FeatureCache:
    """The features of one teacher for ``views`` views of every image.

    Args:
        folder: The folder of all caches; this one gets a subfolder named by a hash of its inputs.
        teacher: The teacher that computes the features.
        source: The views.
        views: Number of fixed views of an image.
        grid: Positions of spatial features.
    """

    def __init__(self, folder: Path, teacher: Teacher, source: Views, views: int, grid: tuple[int, int]) -> None:
        self.teacher, self.source, self.views, self.grid = teacher, source, views, grid
        inputs = {"teacher": teacher.identity, "views": source.identity, "count": views, "grid": grid}
        self.folder = folder / f"{teacher.name}-{fingerprint(inputs)[:16]}"
        self.total = len(source.labels) * views
        self.shards = -(-self.total // SHARD)
        self._open = lru_cache(maxsize=256)(self._opened)

    def fill(self, device: torch.device, rank: int, processes: int, notify: Callable[[str], None]) -> None:
        """Compute this process's share of the missing shards.

        Raises:
            DataError: The disk is full, or a feature is not a finite number in half precision.
        """
        missing = [shard for shard in range(rank, self.shards, processes) if not self._path(shard).is_dir()]
        for count, shard in enumerate(missing, start=1):
            self._write(shard, device)
            notify(f"features of {self.teacher.name}: {count} of {len(missing)} shards")

    def _path(self, shard: int) -> Path:
        return self.folder / f"{shard:06d}"

    def _views_of(self, shard: int) -> list[tuple[int, int]]:
        last = min(self.total, (shard + 1) * SHARD)
        return [divmod(number, self.views) for number in range(shard * SHARD, last)]

    def _write(self, shard: int, device: torch.device) -> None:
        views = self._views_of(shard)
        parts: dict[str, list[npt.NDArray[Any]]] = {}
        for start in range(0, len(views), BATCH):
            pixels = torch.stack([self.source[view][0] for view in views[start : start + BATCH]])
            for kind, value in self.teacher(pixels.to(device), self.grid).kinds().items():
                parts.setdefault(kind, []).append(value.half().cpu().numpy())
        try:
            with drafts.draft(self.folder, f".{shard:06d}-") as draft:
                draft.mkdir()
                for kind, arrays in parts.items():
                    joined = np.concatenate(arrays)
                    if not np.isfinite(joined).all():
                        raise DataError(
                            f"{self.teacher.name} has {kind} features outside the range of half precision.",
                            hint="Run it without the cache: --views 0.",
                        )
                    np.save(draft / f"{kind}.npy", joined)
                    sync(draft / f"{kind}.npy")
                draft.rename(self._path(shard))
        except OSError as error:
            if self._path(shard).is_dir():  # another training wrote it meanwhile
                return
            raise DataError(
                f"Cannot write {self.folder}: {error.strerror}.",
                hint="Complete shards are kept. Free space, or run the teachers during training: --views 0.",
            ) from error

    def _opened(self, shard: int) -> dict[str, npt.NDArray[np.float16]]:
        files = sorted(self._path(shard).glob("*.npy"))
        try:
            return {file.stem: np.load(file, mmap_mode="r", allow_pickle=False) for file in files}
        except (OSError, ValueError) as error:
            raise DataError(
                f"{self._path(shard)} cannot be read: {error}.", hint="Remove it; it will be computed again."
            ) from error

    def keys(self, views: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """Return the cached (image, view) for each view: without random augmentation every view is the first."""
        return [(index, view % self.views) for index, view in views]

    def read(self, views: list[tuple[int, int]]) -> TeacherOutput:
        """Return the features of some views, in their order."""
        numbers = np.array([index * self.views + view for index, view in views])
        shards, rows = np.divmod(numbers, SHARD)
        features: dict[str, npt.NDArray[np.float16]] = {}
        for shard in np.unique(shards):
            indices = np.flatnonzero(shards == shard)
            for kind, values in self._open(int(shard)).items():
                if kind not in features:
                    features[kind] = np.empty((len(views), *values.shape[1:]), values.dtype)
                features[kind][indices] = values[rows[indices]]
        return TeacherOutput(**{kind: torch.from_numpy(value).float() for kind, value in features.items()})


class Scale:
    """Mean and standard deviation of a teacher's features per channel, which make teachers comparable.

    UNIC updates them by a moving average during training. Here they are computed once before it, so that the targets
    stay fixed and a resumed training sees the same ones.
    """

    def __init__(self, mean: dict[str, Tensor], deviation: dict[str, Tensor]) -> None:
        self.mean, self.deviation = mean, deviation

    @classmethod
    def of(cls, outputs: list[TeacherOutput]) -> Scale:
        """Compute mean and deviation over images and positions."""
        mean, deviation = {}, {}
        for kind in ("pooled", "spatial"):
            values = [value for output in outputs if (value := getattr(output, kind)) is not None]
            if values:
                flat = torch.cat([value.transpose(0, 1).flatten(1) for value in values], dim=1).double()
                spread = flat.std(dim=1, correction=0)
                mean[kind] = flat.mean(dim=1).float()
                deviation[kind] = spread.clamp_min(SMALLEST_DEVIATION * float(spread.max()) + 1e-12).float()
        return cls(mean, deviation)

    def __call__(self, output: TeacherOutput) -> MatchedFeatures:
        """Return features with zero mean and unit deviation."""
        standardised = {}
        for kind, mean in self.mean.items():
            value: Tensor = getattr(output, kind)
            shape = (1, -1, *([1] * (value.dim() - 2)))
            deviation = self.deviation[kind].to(value.device)
            standardised[kind] = (value - mean.to(value.device).view(shape)) / deviation.view(shape)
        return MatchedFeatures(**standardised)

    @property
    def widths(self) -> Widths:
        """The channels of the features."""
        return Widths(*(len(self.mean[kind]) if kind in self.mean else None for kind in ("pooled", "spatial")))
