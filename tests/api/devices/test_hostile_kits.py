"""A kit holds no command of its data, no file from elsewhere, and is written nowhere else."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from effbench.api.devices import kits
from effbench.codec import digest_of
from effbench.deploy.artifact import bundle
from effbench.errors import DataError
from effbench.profiles import devices
from effbench.schema import Artifact, FileInfo, InputShapes, InputSpec, Subject, Weights

ENTRIES = (
    "$(touch escaped).onnx",
    "`touch escaped`.onnx",
    'a";touch escaped;".onnx',
    "a';touch escaped;'.onnx",
    "a b.onnx",
    "-rf",
)


def artifact(folder: Path, entry: str = "model.onnx", **changes: Any) -> Artifact:
    subject = Subject("toy", "user", Weights(), InputShapes((8, 8)), 1, "ort", "fp32")
    image = InputSpec("image", "float32", (1, 3, 8, 8))
    files = {entry: FileInfo("0" * 64, 1)}
    return replace(Artifact(folder, "key", "digest", subject, (image,), (), files, entry), **changes)


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("target", ["ort", "litert", "qnn"])
def test_the_script_for_a_phone_runs_nothing_of_an_artifacts_names(entry: str, target: str, tmp_path: Path) -> None:
    """The script really runs, with an `adb` that runs the device's constant script in this shell."""
    item = artifact(tmp_path / "name", entry)
    item = replace(item, subject=replace(item.subject, target=target))
    device = replace(devices.packaged()["pixel-8"], settings={"threads": "1; touch escaped"})
    (tmp_path / "run.sh").write_text(kits._adb_script([item], 1, device))
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "adb").write_text(
        '#!/bin/sh\\n[ "$1" = shell ] && { shift 2; sh -c "$*" >> log 2>&1; }\\nexit 0\\n'.replace("\\n", "\n")
    )
    (tools / "adb").chmod(0o755)
    env = {"PATH": f"{tools}{os.pathsep}/usr/bin:/bin"}
    subprocess.run(["sh", str(tmp_path / "run.sh")], cwd=tmp_path, env=env, check=False, capture_output=True)
    assert not (tmp_path / "escaped").exists()
    lines = [shlex.split(line) for line in (tmp_path / "run.sh").read_text().splitlines() if line.startswith("printf")]
    assert any(entry in word for words in lines for word in words)


@pytest.mark.parametrize("name", ["$(touch escaped)", "a b", "a;b", "-rf", "a\nb", 'a"""'])
def test_an_artifact_whose_folder_is_no_name_comes_into_no_kit(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the name of an artifact in a kit"):
        kits._write(
            tmp_path / "kit",
            [artifact(tmp_path / name)],
            devices.packaged()["pixel-8"],
            tmp_path,
            kits.KitRequest(["x"], "pixel-8"),
        )


@pytest.mark.parametrize("entry", ["/etc/passwd", "../../etc/passwd", "a/../../b", "", "a\nb"])
def test_a_manifest_names_no_file_elsewhere(entry: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a file of an artifact"):
        artifact(tmp_path, entry)
    with pytest.raises(DataError, match="a file of an artifact"):
        artifact(tmp_path, files={entry: FileInfo("0" * 64, 1)})


@pytest.mark.parametrize("place", ["model.onnx", "sub/model.onnx"])
def test_a_link_is_not_followed_into_a_kit(place: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "model.onnx").write_text("secret")
    folder = tmp_path / "artifact"
    folder.mkdir()
    item = artifact(folder, place)
    item = replace(item, digest=digest_of(item.files))
    bundle.save_manifest(item)
    if place == "model.onnx":
        (folder / place).symlink_to(secret / "model.onnx")
    else:
        (folder / "sub").symlink_to(secret)
    with pytest.raises(DataError, match="link"):
        kits._copy(item, tmp_path / "kit")
    assert not list((tmp_path / "kit").rglob("model.onnx"))


def test_the_run_script_stands_in_a_folder_of_any_name(tmp_path: Path) -> None:
    folder = tmp_path / "-a $(touch escaped) 'b'\n\";touch escaped"
    folder.mkdir()
    (folder / "run.sh").write_text(kits.RUN.format(result="result.jsonl"))
    (tmp_path / "python").write_text("#!/bin/sh\npwd > started\n")
    (tmp_path / "python").chmod(0o755)
    env = {"PATH": os.environ["PATH"], "PYTHON": str(tmp_path / "python")}
    subprocess.run(["sh", str(folder / "run.sh")], cwd=tmp_path, env=env, check=True)
    assert (folder / "started").exists()
    assert not list(tmp_path.rglob("escaped"))
    shutil.rmtree(folder)
