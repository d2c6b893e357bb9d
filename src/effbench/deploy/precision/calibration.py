"""Images that int8 is calibrated with and checked on, and the hash that says which they were."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from effbench.data import pixels
from effbench.data.files import FileContent
from effbench.data.folder import SUFFIXES
from effbench.deploy import Array
from effbench.deploy.artifact import encoded, fidelity
from effbench.errors import DataError, FidelityError, UsageError
from effbench.schema import Artifact, Preprocessing, TensorSpec

if TYPE_CHECKING:
    from onnx import ModelProto

SYNTHETIC = "synthetic"
IMAGES = 96
"""At most this many images are used, spread evenly over the sorted names; as many synthetic ones are made."""
_FIRST_SEED = 1000  # far from the seeds of the images that fidelity is checked with


@dataclass(frozen=True)
class Calibration:
    """Images, shape (N, C, H, W), uint8, resized and cropped; ``sha256`` hashes them, so it changes with any of them.

    ``latency_only`` marks images that are not photographs: what is calibrated with them has a latency, no accuracy.

    ``checks`` are images of the same folder to verify with, `fidelity.NATURAL` of them, hashed too: others than those
    of the calibration where the folder holds more. ``whole`` is one of them as decoded, shape (H, W, C). Synthetic
    images have neither, as verification has its own, nor has a single image, which has nothing to differ from.
    """

    images: npt.NDArray[np.uint8]
    sha256: str
    latency_only: bool
    checks: npt.NDArray[np.uint8] | None = None
    whole: npt.NDArray[np.uint8] | None = None

    def feeds(self, batch: int, spec: TensorSpec, preprocessing: Preprocessing) -> list[dict[str, Array]]:
        """Return what to feed, in whole batches."""
        whole = len(self.images) // batch * batch
        return fidelity.feeds(self.images[:whole], batch, spec, preprocessing)


def load_calibration(
    folder: str | Path | None, resolution: tuple[int, int], preprocessing: Preprocessing, channels: int = 3
) -> Calibration:
    """Read calibration images from a folder, or make synthetic ones where ``synthetic`` is asked for.

    Raises:
        UsageError: No folder was given.
        DataError: The folder is missing, holds no images, or one cannot be read.
        MissingDependencyError: Pillow is not installed.
    """
    if folder is None:
        raise UsageError(
            "int8 needs images to calibrate with.",
            hint="Give --images FOLDER with some dozens of typical images; "
            "--images synthetic is good for latency only.",
        )
    if str(folder) == SYNTHETIC:
        seeds = range(_FIRST_SEED, _FIRST_SEED + IMAGES, fidelity.NATURAL)
        images = np.concatenate(
            [fidelity.reference_images(fidelity.NATURAL, channels, resolution, seed) for seed in seeds]
        )
        return Calibration(images, _sha256(images), latency_only=True)
    files = _image_files(Path(folder))
    chosen = _spread(files, IMAGES)
    held = _spread(sorted(set(files) - set(chosen)) or files, fidelity.NATURAL)
    random.Random(0).shuffle(chosen)  # names come class by class; what takes some of the images should see of all
    images, checks = (
        np.stack([pixels.read(FileContent(one)(), str(one), resolution, preprocessing, channels) for one in some])
        for some in (chosen, held)
    )
    if len(files) == 1:
        return Calibration(images, _sha256(images), latency_only=False)
    whole = pixels.decode(FileContent(held[0])(), str(held[0]), channels)
    # Still in the shape of the whole image, but not a camera's forty million pixels.
    whole.thumbnail((2 * resolution[1], 2 * resolution[0]))
    array = np.asarray(whole, np.uint8).reshape(whole.height, whole.width, channels)
    return Calibration(images, _sha256(images, checks, array), latency_only=False, checks=checks, whole=array)


def reference(path: Path, source: Artifact, model: ModelProto, calibration: Calibration) -> None:
    """Put expected outputs on a folder's own images in the place of those on synthetic ones.

    Scales taken from one kind of image clip another kind: what quantization does to a model is seen on images like
    those it was calibrated with. The fp32 graph computes what is expected; before, it is held to the expectations that
    are there, so that an artifact stays tied to the model as it was written.

    Args:
        path: The file of expected outputs of the graph; it is replaced.
        source: The fp32 graph as an artifact.
        model: The same graph.
        calibration: Read from a folder.

    Raises:
        FidelityError: The fp32 graph itself is not the same model.
        ConversionError: The interpreter has not got an operator of it.
    """
    from effbench.deploy.interpreter import Interpreter

    spec, how = source.inputs[0], source.preprocessing
    batch, run = spec.shape[0] or 1, Interpreter(model).run
    before = fidelity.load_reference(path)
    found = fidelity.check(run, before, batch, spec, how, "fp32")
    if not found.passed:
        raise FidelityError(f"The fp32 graph of {source.name} is not the same model: {'; '.join(found.reasons)}.")
    assert calibration.checks is not None
    count = -(-fidelity.NATURAL // batch) * batch
    images = np.resize(calibration.checks, (count, *calibration.checks.shape[1:]))
    expected = fidelity.run_all(run, fidelity.feeds(images, batch, spec, how))
    engine = f"{before[2]}; its graph by effbench's ONNX interpreter, on images of the calibration folder"
    example = encoded.make_example(run, spec, batch, how, calibration.whole)
    fidelity.save_reference(path, images, expected, engine, example)


def stamps(folder: str | Path) -> tuple[tuple[str, int, int], ...]:
    """Return what changes with a folder's images and takes no reading of them: names, sizes, times of change.

    Raises:
        DataError: The folder is missing or holds no images.
    """
    found = ((file, file.stat()) for file in _image_files(Path(folder)))
    return tuple((str(file), about.st_size, about.st_mtime_ns) for file, about in found)


def _sha256(*arrays: npt.NDArray[np.uint8]) -> str:
    found = hashlib.sha256()
    for array in arrays:
        found.update(f"{array.shape}".encode() + array.tobytes())
    return found.hexdigest()


def _image_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}.")
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
    if not files:
        raise DataError(f"{folder} holds no images.", hint=f"Looked for {', '.join(SUFFIXES)}, in subfolders too.")
    return files


def _spread(files: Sequence[Path], count: int) -> list[Path]:
    """Return at most so many files, evenly over the sorted names."""
    return [files[place] for place in np.linspace(0, len(files) - 1, min(count, len(files))).round().astype(int)]
