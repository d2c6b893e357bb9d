"""Files of other kinds: each refused in a sentence that says what it is and what to do."""

from pathlib import Path

import field_models
import onnx
import pytest

from effbench.api.export import other_files
from effbench.api.export.source import is_model, resolve
from effbench.errors import UsageError


@pytest.mark.parametrize("end", other_files.KINDS)
@pytest.mark.parametrize("upper", [False, True])
def test_a_file_of_another_kind_says_what_to_do(end: str, upper: bool, tmp_path: Path):
    path = tmp_path / f"net{end.upper() if upper else end}"
    path.write_bytes(b"content")
    what, advice = other_files.KINDS[end]
    for ask in (resolve, lambda name: is_model(name, ())):
        with pytest.raises(UsageError) as caught:
            ask(str(path))
        assert f"'{path}' is {what}, which effbench does not export." == caught.value.message
        assert advice == caught.value.hint


def test_a_folder_of_another_kind(tmp_path: Path):
    (tmp_path / "net.mlpackage").mkdir()
    with pytest.raises(UsageError, match="Core ML model"):
        resolve(str(tmp_path / "net.mlpackage"))


def test_a_file_that_is_not_there_is_not_called_one():
    with pytest.raises(UsageError, match="no such file"):
        resolve("net.tflite")
    with pytest.raises(UsageError, match="no such file"):
        resolve("./models/net")
    with pytest.raises(UsageError, match="Unknown model 'net'"):
        resolve("net")


def test_a_file_of_an_unknown_kind(tmp_path: Path):
    (tmp_path / "net.xyz").write_bytes(b"content")
    with pytest.raises(UsageError, match="a file of a kind that effbench does not export"):
        resolve(str(tmp_path / "net.xyz"))


@pytest.mark.parametrize("end", [".onnx", ".ONNX", ".Onnx"])
def test_the_case_of_a_suffix_plays_no_role(end: str, tmp_path: Path):
    path = tmp_path / f"net{end}"
    onnx.save_model(field_models.plain(), str(path), format="protobuf")
    assert (path, "net") == (resolve(str(path)).path, resolve(str(path)).name)
    assert is_model(str(path), ())
