"""Pictures that int8 is calibrated with, and the hash that says which they were."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from effbench.data import pictures
from effbench.data.files import FileContent
from effbench.data.folder import SUFFIXES
from effbench.deploy import Array, fidelity
from effbench.errors import DataError, UsageError
from effbench.schema import Preprocessing, TensorSpec

SYNTHETIC = "synthetic"
PICTURES = 64
"""At most this many pictures are used, spread evenly over the sorted names."""
_FIRST_SEED = 1000  # far from the seeds of the pictures that fidelity is checked with


@dataclass(frozen=True)
class Calibration:
    """Pictures, shape (N, C, H, W), uint8, resized and cropped; ``sha256`` hashes them, so it changes with any of them.

    ``latency_only`` marks pictures that are not photographs: what is calibrated with them has a latency, no accuracy.
    """

    images: npt.NDArray[np.uint8]
    sha256: str
    latency_only: bool

    def feeds(self, batch: int, spec: TensorSpec, preprocessing: Preprocessing) -> list[dict[str, Array]]:
        """Return what to feed, in whole batches."""
        whole = len(self.images) // batch * batch
        return fidelity.feeds(self.images[:whole], batch, spec, preprocessing)


def load_calibration(
    folder: str | Path | None, resolution: tuple[int, int], preprocessing: Preprocessing, channels: int = 3
) -> Calibration:
    """Read calibration pictures from a folder, or make synthetic ones where ``synthetic`` is asked for.

    Raises:
        UsageError: No folder was given.
        DataError: The folder is missing, holds no pictures, or one cannot be read.
        MissingDependencyError: Pillow is not installed.
    """
    if folder is None:
        raise UsageError(
            "int8 needs pictures to calibrate with.",
            hint="Give --calibration FOLDER with some dozens of typical pictures; "
            "--calibration synthetic is good for latency only.",
        )
    if str(folder) == SYNTHETIC:
        seeds = range(_FIRST_SEED, _FIRST_SEED + 3 * fidelity.NATURAL, fidelity.NATURAL)
        images = np.concatenate([fidelity.pictures(fidelity.NATURAL, channels, resolution, seed) for seed in seeds])
    else:
        files = _picture_files(Path(folder))
        images = np.stack(
            [pictures.read(FileContent(file)(), str(file), resolution, preprocessing, channels) for file in files]
        )
    header = f"{images.shape}".encode()
    return Calibration(images, hashlib.sha256(header + images.tobytes()).hexdigest(), str(folder) == SYNTHETIC)


def _picture_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}.")
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
    if not files:
        raise DataError(f"{folder} holds no pictures.", hint=f"Looked for {', '.join(SUFFIXES)}, in subfolders too.")
    picked = np.linspace(0, len(files) - 1, min(PICTURES, len(files))).round().astype(int)
    return [files[i] for i in picked]
