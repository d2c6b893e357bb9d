"""The sizes, the batch and the inputs of an export, settled before anything is exported."""

from __future__ import annotations

from pathlib import Path

import field_models
import numpy as np
import onnx
import pytest

from effbench.api.export.inputs import Inputs, inputs_of
from effbench.api.export.request import ExportRequest
from effbench.api.export.run import run_exports
from effbench.api.export.source import resolve
from effbench.api.export.stage import Limits
from effbench.errors import DataError, EffbenchError, UsageError
from effbench.schema import InputShapes


def settled(folder: Path, name: str, **fields: object) -> Inputs:
    path = folder / f"{name}.onnx"
    onnx.save(field_models.seeded(name), path)
    request = ExportRequest(str(path), out=folder / "runs", **fields)  # type: ignore[arg-type]
    return inputs_of(request, resolve(str(path)), folder / "runs", Limits.of(60.0))


def test_a_file_is_read_once_and_its_own_size_is_the_default(tmp_path: Path) -> None:
    first = settled(tmp_path, "one_channel")
    assert ([InputShapes((48, 320))], 1, 1) == (first.sizes, first.batch, first.channels)
    (cached,) = (tmp_path / "runs" / "signatures").iterdir()
    before = cached.stat().st_mtime_ns
    assert first == settled(tmp_path, "one_channel")
    assert before == cached.stat().st_mtime_ns


def test_a_model_without_an_image_has_no_resolution(tmp_path: Path) -> None:
    inputs = settled(tmp_path, "tokens")
    assert "ids=1x12" == str(inputs.sizes[0])
    assert inputs.needs_no_images
    with pytest.raises(UsageError, match=r"has no image input: ids: int32 1x12, tokens below 100.*\n.*--res"):
        settled(tmp_path, "tokens", resolutions=[64])


def test_the_shape_of_an_open_input_is_given_by_name(tmp_path: Path) -> None:
    inputs = settled(tmp_path, "recurrent", input_shapes={"x": (1, 3, 64, 96)})
    assert [InputShapes((64, 96))] == inputs.sizes


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"input_roles": {"y": "uniform"}}, UsageError, "input 'y'"),
        ({"dynamic_batch": True}, UsageError, "batch of plain.onnx is fixed to 1"),
        ({"inputs": "none.npz"}, DataError, "none.npz: no such file"),
        ({"input_shapes": {"x": (1, 3, 64)}}, UsageError, "has 4 dimensions, not 3"),
    ],
)
def test_what_does_not_fit_is_refused(
    fields: dict[str, object], error: type[EffbenchError], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        settled(tmp_path, "plain", **fields)


def test_samples_of_a_user_are_part_of_what_is_asked(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", x=np.zeros((3, 3, 64, 64), np.float32))
    inputs = settled(tmp_path, "plain", inputs=tmp_path / "s.npz")
    assert inputs.needs_no_images
    assert 64 == len(inputs.terms.sha256 or "")


def test_a_file_that_fails_as_a_whole_has_no_size_of_another(tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}.onnx" for name in ("one_channel", "plain")]
    for path in paths:
        onnx.save(field_models.seeded(path.stem), path)
    fields = {"targets": ["ort"], "precision": "int8", "out": tmp_path / "runs"}
    cells = run_exports([ExportRequest(str(path), **fields) for path in paths])  # type: ignore[arg-type]
    assert ["at its own size"] * 2 == [cell.shapes.label for cell in cells]
    assert all("needs images to calibrate with" in cell.reason for cell in cells)


def test_a_factory_takes_one_image(tmp_path: Path) -> None:
    request = ExportRequest("regla_t", out=tmp_path, vocabulary=9)
    with pytest.raises(UsageError, match=r"belong to an .onnx file.*\n.*torch.onnx.export"):
        inputs_of(request, resolve("regla_t"), tmp_path, Limits.of(60.0))
