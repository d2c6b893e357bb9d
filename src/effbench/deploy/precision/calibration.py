"""The images that int8 is calibrated with and verified on, and their hash."""

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
from effbench.deploy.artifact import encoded, feeding, fidelity
from effbench.deploy.artifact.synthetic import reference_images
from effbench.errors import DataError, FidelityError, UsageError
from effbench.schema import Artifact, InputSpec, Preprocessing

if TYPE_CHECKING:
    from onnx import ModelProto

SYNTHETIC = "synthetic"
IMAGES = 96
"""At most this many files are read, spread evenly over the sorted names; so many synthetic images are made."""
_FIRST_SEED = 1000  # far from the seeds of the images that fidelity is checked on


@dataclass(frozen=True)
class Calibration:
    """Calibration images, shape (N, C, H, W), uint8, resized and cropped, and the SHA-256 of all images held here.

    ``check_images`` are `fidelity.NATURAL` images of the same folder to verify with, not used for calibration if the
    folder holds enough. ``decoded`` is one of them before resizing and cropping, shape (H, W, C). Both are None for
    synthetic images, as verification makes its own, and for a single image, which has no other to be compared with.
    ``folder`` is the folder's name, without its path; empty for synthetic images.
    """

    images: npt.NDArray[np.uint8]
    sha256: str
    check_images: npt.NDArray[np.uint8] | None = None
    decoded: npt.NDArray[np.uint8] | None = None
    folder: str = ""

    def feeds(self, batch: int, inputs: Sequence[InputSpec], preprocessing: Preprocessing) -> list[dict[str, Array]]:
        """Return the preprocessed inputs, whole batches only; inputs that are no image are fed by their role."""
        count = len(self.images) // batch * batch
        samples = with_images(inputs, self.images[:count], seed=_FIRST_SEED)
        return feeding.feeds(samples, batch, inputs, preprocessing)


def load_calibration(
    folder: str | Path | None, resolution: tuple[int, int] | None, preprocessing: Preprocessing, channels: int = 3
) -> Calibration:
    """Read calibration images from a folder, or make synthetic ones if the folder is ``synthetic``.

    A graph calibrated with synthetic images is good for latency, not for accuracy. Without a resolution (no input is
    an image) there are so many samples, and no images in them.

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
    if resolution is None:
        if str(folder) != SYNTHETIC:
            raise UsageError("No input is an image.", hint="Leave out --images, or give arrays with --inputs FILE.npz.")
        return Calibration(np.empty((IMAGES, 1, 0, 0), np.uint8), "")
    if str(folder) == SYNTHETIC:
        seeds = range(_FIRST_SEED, _FIRST_SEED + IMAGES, fidelity.NATURAL)
        images = np.concatenate([reference_images(fidelity.NATURAL, channels, resolution, seed) for seed in seeds])
        return Calibration(images, _sha256(images))
    files = _image_files(Path(folder))
    chosen = _spread(files, IMAGES)
    held_out = _spread(sorted(set(files) - set(chosen)) or files, fidelity.NATURAL)
    random.Random(0).shuffle(chosen)  # names are often sorted by class; a part of the images should hold all classes
    images, check_images = (
        np.stack([pixels.read(FileContent(file)(), str(file), resolution, preprocessing, channels) for file in part])
        for part in (chosen, held_out)
    )
    if len(files) == 1:
        return Calibration(images, _sha256(images))
    image = pixels.decode(FileContent(held_out[0])(), str(held_out[0]), channels)
    # In the proportions of the file, but without a camera's forty million pixels.
    image.thumbnail((2 * resolution[1], 2 * resolution[0]))
    decoded = np.asarray(image, np.uint8).reshape(image.height, image.width, channels)
    name = Path(folder).resolve().name
    return Calibration(images, _sha256(images, check_images, decoded), check_images, decoded, name)


def write_reference(path: Path, source: Artifact, model: ModelProto, calibration: Calibration) -> None:
    """Replace expected outputs on synthetic images by expected outputs on images of the calibration folder.

    Ranges calibrated on one kind of image clip another kind, so quantization is verified on images like those of the
    calibration. The fp32 graph computes the expected outputs. Before, it is checked against those that are replaced,
    so that the artifact stays tied to the original model.

    Args:
        path: The file of expected outputs.
        source: The fp32 graph as an artifact.
        model: The same graph.
        calibration: Read from a folder.

    Raises:
        FidelityError: The fp32 graph itself is not the same model.
        ConversionError: The interpreter lacks an operator of the graph.
    """
    from effbench.deploy.interpreter import Interpreter

    assert calibration.check_images is not None
    inputs, preprocessing = source.inputs, source.preprocessing
    batch, run = source.subject.batch, Interpreter(model).run
    before = fidelity.load_reference(path)
    result = fidelity.check(run, fidelity.Setup(before, batch, inputs, preprocessing, "fp32"))
    if not result.passed:
        raise FidelityError(f"The fp32 graph of {source.name} is not the same model: {'; '.join(result.reasons)}.")
    count = -(-fidelity.NATURAL // batch) * batch
    images = np.resize(calibration.check_images, (count, *calibration.check_images.shape[1:]))
    samples = with_images(inputs, images)
    expected = fidelity.run_all(run, feeding.feeds(samples, batch, inputs, preprocessing), batch)
    engine = f"{before.engine}; its graph by effbench's ONNX interpreter, on images of the calibration folder"
    held_out = f"held out of the folder '{calibration.folder}' (SHA-256 of its images {calibration.sha256[:12]})"
    reference = fidelity.Reference(samples, expected, engine, held_out, before.rounding, before.kinds)
    example = encoded.make_example(run, inputs, batch, preprocessing, calibration.decoded)
    fidelity.save_reference(path, reference, example)


def with_images(inputs: Sequence[InputSpec], images: npt.NDArray[np.uint8], seed: int = 0) -> feeding.Samples:
    """Return samples of every input: the images for the image inputs, and what the roles say for the others.

    A second image input gets the same images in another order.
    """
    samples = feeding.synthetic([spec for spec in inputs if spec.role != "image"], len(images), seed)
    image_inputs = [spec for spec in inputs if spec.role == "image"]
    return {**samples, **{spec.name: np.roll(images, place, axis=0) for place, spec in enumerate(image_inputs)}}


def stamps(folder: str | Path) -> tuple[tuple[str, int, int], ...]:
    """Return names, sizes and modification times of a folder's images, which change with the images.

    Raises:
        DataError: The folder is missing or holds no images.
    """
    files = ((file, file.stat()) for file in _image_files(Path(folder)))
    return tuple((str(file), stat.st_size, stat.st_mtime_ns) for file, stat in files)


def _sha256(*arrays: npt.NDArray[np.uint8]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.shape}".encode() + array.tobytes())
    return digest.hexdigest()


def _image_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}.")
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
    if not files:
        raise DataError(f"{folder} holds no images.", hint=f"Looked for {', '.join(SUFFIXES)}, in subfolders too.")
    return files


def _spread(files: Sequence[Path], count: int) -> list[Path]:
    """Return at most so many files, evenly over the sorted names."""
    return [files[index] for index in np.linspace(0, len(files) - 1, min(count, len(files))).round().astype(int)]
