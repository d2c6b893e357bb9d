"""Pictures that int8 is calibrated with, and the hash that says which they were."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from effbench.deploy import Array, fidelity
from effbench.errors import DataError, MissingDependencyError, UsageError
from effbench.schema import Preprocessing, TensorSpec

if TYPE_CHECKING:
    from PIL.Image import Image

SYNTHETIC = "synthetic"
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
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
        images = np.stack([read_picture(file, resolution, preprocessing, channels) for file in files])
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


def read_picture(
    file: Path, resolution: tuple[int, int], preprocessing: Preprocessing, channels: int = 3
) -> npt.NDArray[np.uint8]:
    """Return a picture as the model wants it before scaling: resized, center-cropped, shape (C, H, W), uint8.

    Raises:
        DataError: It cannot be read as a picture.
        MissingDependencyError: Pillow is not installed.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise MissingDependencyError("Reading calibration pictures", "pillow", "int8") from error
    modes = {1: "L", 3: "RGB", 4: "RGBA"}
    if channels not in modes:
        raise DataError(f"A model with {channels} input channels takes no pictures.")
    try:
        with Image.open(file) as opened:
            picture = ImageOps.exif_transpose(opened).convert(modes[channels])
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{file} cannot be read as a picture: {error}") from error
    array = np.asarray(_fit(picture, resolution, preprocessing), np.uint8).reshape(*resolution, channels)
    if preprocessing.channel_order == "BGR":
        array = array[..., ::-1]
    return np.ascontiguousarray(array.transpose(2, 0, 1))


def _fit(picture: Image, resolution: tuple[int, int], preprocessing: Preprocessing) -> Image:
    """Scale so that the crop covers ``crop_pct`` of the tighter side, then cut the center out."""
    from PIL import Image

    methods = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
    methods |= {"nearest": Image.Resampling.NEAREST, "lanczos": Image.Resampling.LANCZOS}
    if preprocessing.interpolation not in methods:
        raise UsageError(f"Interpolation '{preprocessing.interpolation}' is none of {', '.join(methods)}.")
    height, width = resolution
    factor = max(height / picture.height, width / picture.width) / preprocessing.crop_pct
    size = (max(width, round(picture.width * factor)), max(height, round(picture.height * factor)))
    scaled = picture.resize(size, methods[preprocessing.interpolation])
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return scaled.crop((left, top, left + width, top + height))
