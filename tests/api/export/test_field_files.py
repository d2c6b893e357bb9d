"""Files with the traits of the field, through the first proof and two runtimes."""

from pathlib import Path

import field_models
import onnx
import pytest

import effbench
from effbench.schema import Status

PASSING = (
    "audio",
    "captured_weights",
    "channels_last_bytes",
    "constant_weights",
    "huge_batch_norm",
    "initializers_as_inputs",
    "one_channel",
    "out_of_order",
    "plain",
    "punctuated_outputs",
    "sparse_map",
    "suppressed_boxes",
    "time_first",
    "tokens",
    "two_images",
)

pytestmark = [pytest.mark.slow, pytest.mark.target("ort"), pytest.mark.target("ov")]


@pytest.mark.parametrize("name", PASSING)
def test_a_file_with_one_unusual_trait_is_exported_and_proved(name: str, tmp_path: Path):
    onnx.save(field_models.seeded(name), tmp_path / f"{name}.onnx")
    cells = effbench.export(str(tmp_path / f"{name}.onnx"), ["ort", "ov"], out=tmp_path / "runs")
    assert [Status.OK] * 2 == [cell.status for cell in cells], [cell.reason for cell in cells]
    assert not [note for cell in cells for note in cell.notes if note.startswith("computed")]


def test_external_data_in_a_file_of_any_name(tmp_path: Path):
    cells = effbench.export(str(field_models.external(tmp_path)), ["ort"], out=tmp_path / "runs")
    assert [Status.OK] == [cell.status for cell in cells], cells[0].reason
