"""int8 is verified on images like those it was calibrated with, and stays tied to the model as written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

from conftest import Run
from effbench.api.export.calibration_images import calibration_images
from effbench.api.export.declarations import Declarations
from effbench.api.export.inputs import Inputs
from effbench.data.pixels import normalize, read
from effbench.deploy.artifact import bundle, encoded, fidelity, synthetic
from effbench.deploy.precision.calibration import IMAGES, load_calibration, write_reference
from effbench.errors import FidelityError
from effbench.schema import InputShapes, InputTerms, Preprocessing

pytestmark = [pytest.mark.target("ort"), pytest.mark.xdist_group("export")]

NETWORK = """
import torch
from torch import nn


class Net(nn.Module):
    '''Sums its input over large areas, so that nothing but the range of its scales decides what int8 leaves.'''

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.AvgPool2d(16), nn.Flatten())

    def forward(self, x):
        return self.body(x)


def net():
    return Net()
"""


def images(folder: Path, count: int, pale: bool = False) -> Path:
    """Write images; pale ones differ by 64 levels of gray alone, as scans of one kind may."""
    folder.mkdir()
    for seed in range(count):
        (image,) = synthetic.reference_images(1, 3, (80, 100), 7000 + seed)
        image = 92 + image // 4 if pale else image
        Image.fromarray(image.transpose(1, 2, 0)).save(folder / f"{seed:03d}.png")
    return folder


def test_images_to_check_with_are_others_than_those_of_the_calibration(tmp_path: Path):
    calibration = load_calibration(images(tmp_path / "many", IMAGES + 9), (32, 32), Preprocessing())
    assert calibration.check_images is not None
    assert calibration.check_images.shape == (fidelity.NATURAL, 3, 32, 32)
    assert len(calibration.images) == IMAGES
    calibrated = {image.tobytes() for image in calibration.images}
    assert not calibrated & {image.tobytes() for image in calibration.check_images}
    few = load_calibration(images(tmp_path / "few", 3), (32, 32), Preprocessing())
    assert few.check_images is not None
    assert {one.tobytes() for one in few.images} == {one.tobytes() for one in few.check_images}
    one = load_calibration(images(tmp_path / "one", 1), (32, 32), Preprocessing())
    assert one.check_images is None


def test_the_first_images_are_of_the_whole_folder(tmp_path: Path):
    folder = tmp_path / "sorted"
    for number in range(40):  # by name, black comes before white, as one class comes before another
        kind = "white" if number > 19 else "black"
        (folder / kind).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), kind).save(folder / kind / f"{number}.png")
    images = load_calibration(folder, (32, 32), Preprocessing()).images
    levels = images[: fidelity.NATURAL].mean(axis=(1, 2, 3))
    assert levels.min() < levels.max()
    assert np.array_equal(images, load_calibration(folder, (32, 32), Preprocessing()).images)


def test_a_hash_is_taken_once_and_again_when_a_image_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder, read = images(tmp_path / "some", 3), []

    def counted(*args: object) -> object:
        read.append(args)
        return load_calibration(*args)  # type: ignore[arg-type]

    monkeypatch.setattr("effbench.deploy.precision.calibration.load_calibration", counted)
    inputs = Inputs([InputShapes((32, 32))], 1, InputTerms(), Declarations())
    first, again = (calibration_images(folder, inputs, Preprocessing(), ["int8"]).hashes for _ in range(2))
    assert first == again
    assert len(read) == 1
    Image.new("RGB", (40, 40), "red").save(next(folder.iterdir()))
    assert calibration_images(folder, inputs, Preprocessing(), ["int8"]).hashes != first


def test_a_image_to_check_with_changes_the_hash(tmp_path: Path):
    folder = images(tmp_path / "many", IMAGES + 9)
    before = load_calibration(folder, (32, 32), Preprocessing())
    assert before.check_images is not None
    held = {image.tobytes() for image in before.check_images}
    changed = 0
    for file in sorted(folder.iterdir()):
        content = file.read_bytes()
        if read(content, file.name, (32, 32), Preprocessing()).tobytes() not in held:
            continue
        Image.new("RGB", (50, 50), (9, 9, 9)).save(file)
        assert before.sha256 != load_calibration(folder, (32, 32), Preprocessing()).sha256
        file.write_bytes(content)
        changed += 1
    assert fidelity.NATURAL == changed


@pytest.mark.parametrize("size", [(28, 28), (300, 20), (900, 1700)])
def test_a_image_of_any_size_is_prepared_as_the_reference_says(tmp_path: Path, size: tuple[int, int]):
    folder = tmp_path / "some"
    folder.mkdir()
    for seed in range(2):
        (image,) = synthetic.reference_images(1, 3, size, seed)
        Image.fromarray(image.transpose(1, 2, 0)).save(folder / f"{seed}.png")
    calibration = load_calibration(folder, (64, 64), Preprocessing())
    assert calibration.decoded is not None
    tensor = encoded.preprocess(calibration.decoded, (64, 64), Preprocessing())
    deployed = normalize(read(encoded.png(calibration.decoded), "x", (64, 64), Preprocessing())[None], Preprocessing())[
        0
    ]
    assert encoded.level_error(deployed, tensor) < encoded.MAX_LEVEL_ERROR


def int8(run: Run, calibration: Path) -> tuple[int, dict[str, object]]:
    (run.folder / "sums.py").write_text(NETWORK)
    line = ("export", "sums:net", "--res", "64", "-t", "ort", "--precision", "int8", "--images", str(calibration))
    done = run(*line, "--json")
    (cell,) = json.loads(done.stdout)["data"]
    return done.returncode, cell


def test_scales_from_pale_images_hold_for_pale_images_and_not_for_synthetic_ones(run: Run):
    pytest.importorskip("nncf")
    code, cell = int8(run, images(run.folder / "pale", 12, pale=True))
    assert (0, "ok") == (code, cell["status"]), cell
    result = cell["fidelity"]
    assert isinstance(result, dict)
    assert "images of the calibration folder" in result["reference"]
    assert "torch" in result["reference"]
    assert result["snr_db"] > 20
    artifact = bundle.load(run.folder / str(cell["artifact"]))
    graphs = {item.digest: item for item in bundle.artifacts(run.folder / "runs")}
    half_way = graphs[str(artifact.graph_digest)]
    written = graphs[str(half_way.graph_digest)]
    assert ("int8", "fp32") == (half_way.subject.storage_precision, written.subject.storage_precision)
    # The same artifact on the images that an artifact in fp32 is verified with: its scales clip them.
    shutil.copyfile(written.folder / bundle.REFERENCE, run.folder / "synthetic.npz")
    from effbench.deploy import get

    spec = artifact.inputs[0]
    clipped = fidelity.check(
        get("ort").open(artifact, 1, {}),
        fidelity.Setup(
            fidelity.load_reference(run.folder / "synthetic.npz"), 1, (spec,), artifact.preprocessing, "int8"
        ),
    )
    assert not clipped.passed


def test_a_graph_that_is_another_model_is_no_reference(exported: Path, tmp_path: Path):
    (source,) = (item for item in bundle.artifacts(exported / "runs") if item.subject.target == "onnx")
    calibration = load_calibration(images(tmp_path / "some", 8), (64, 64), source.preprocessing)
    path = tmp_path / "reference.npz"
    for broken in (False, True):
        shutil.copyfile(source.folder / bundle.REFERENCE, path)
        model = onnx.load(source.path)
        if broken:
            weight = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
            weight.CopyFrom(numpy_helper.from_array(1.1 * numpy_helper.to_array(weight), weight.name))
            before = path.read_bytes()
            with pytest.raises(FidelityError, match="The fp32 graph of toy"):
                write_reference(path, source, model, calibration)
            assert before == path.read_bytes()
            continue
        write_reference(path, source, model, calibration)
        inputs, outputs, engine, *_ = fidelity.load_reference(path)
        assert calibration.check_images is not None
        assert np.array_equal(inputs["image"], calibration.check_images)
        assert {len(value) for value in outputs.values()} == {fidelity.NATURAL}
        assert "calibration folder" in engine
