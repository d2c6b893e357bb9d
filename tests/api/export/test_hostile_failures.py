"""The script beside a failure holds no data, and its record names no module that its author chose."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from effbench.api.export import failures
from effbench.errors import ConversionError, DataError, EffbenchError

ATTACK = '"""\nopen("escaped", "w")\n"""'


def test_the_script_is_the_same_for_all_failures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    texts = set()
    for name, message in (("toy", "plain"), (ATTACK.replace("/", "_"), ATTACK), ("x\\", "\\")):
        error = ConversionError("stage", message)
        failures.keep(tmp_path, name.replace("\n", " "), "effbench.api.export.worker", {"op": "convert"}, error)
        texts.add((Path(str(error.record)) / failures.SCRIPT).read_text())
    (text,) = texts
    compile(text, "reproduce.py", "exec")
    assert "escaped" not in text


@pytest.mark.parametrize("module", ["evil", "os", "", None, "effbench.cli", ["effbench.device.agent"]])
def test_a_record_that_names_another_module_is_refused(module: object, tmp_path: Path) -> None:
    folder = tmp_path / "failures" / "one"
    folder.mkdir(parents=True)
    (folder / failures.RECORD).write_text(json.dumps({"module": module, "job": {"op": "convert"}}))
    with pytest.raises(DataError, match="no stage of effbench"):
        failures.read(folder)


def test_an_error_keeps_its_record(tmp_path: Path) -> None:
    error: EffbenchError = ConversionError("stage", "message")
    failures.keep(tmp_path, "toy", "effbench.device.agent", {"op": "verify"}, error)
    assert "verify" == failures.read(Path(str(error.record)))["job"]["op"]
