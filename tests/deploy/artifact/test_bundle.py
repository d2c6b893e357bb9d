from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from effbench.codec import fingerprint, plain
from effbench.deploy.artifact import bundle
from effbench.errors import DataError
from effbench.schema import Artifact, FileInfo, InputShapes, InputSpec, Subject, Weights


def make(draft: Path, content: bytes = b"graph") -> Artifact:
    (draft / "model.onnx").write_bytes(content)
    (draft / "reference.npz").write_bytes(b"x" * 100)
    subject = Subject("net", "user", Weights(), InputShapes((64, 64)), 1, "onnx", "fp32")
    spec = InputSpec("image", "float32", (1, 3, 64, 64))
    return Artifact(draft, "key", "", subject, (spec,), (), {}, "model.onnx")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "artifacts" / "net-64-key"
    bundle.write(path, make)
    return path


def test_an_artifact_is_read_back_with_its_size(folder: Path) -> None:
    artifact = bundle.load(folder)
    assert sorted(artifact.files) == ["model.onnx", "reference.npz"]
    assert artifact.subject.size_bytes == 5  # the expected outputs are not deployed
    assert artifact.path == folder / "model.onnx"


def test_the_digest_depends_on_the_files_alone(folder: Path, tmp_path: Path) -> None:
    again = bundle.write(tmp_path / "other", make)
    other = bundle.write(tmp_path / "third", lambda draft: make(draft, b"graph2"))
    assert bundle.load(folder).digest == again.digest != other.digest


def test_an_artifact_is_found_by_its_key_only(folder: Path) -> None:
    assert bundle.find(folder, "key") is not None
    assert bundle.find(folder, "another") is None
    assert bundle.find(folder.parent / "none", "key") is None


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "model.onnx").write_bytes(b"grapH"), "altered since it was exported"),
        (lambda f: (f / "model.onnx").write_bytes(b"graph plus"), "altered since it was exported"),
        (lambda f: (f / "model.onnx").unlink(), "missing"),
        (lambda f: (f / bundle.MANIFEST).write_text("{"), "not valid JSON"),
        (lambda f: (f / bundle.MANIFEST).write_text("[1]"), "changed since it was written"),
        (lambda f: _edit(f, digest="0" * 64), "changed since it was written"),
        (lambda f: (f / bundle.MANIFEST).unlink(), "No such file"),
    ],
)
def test_a_changed_artifact_is_refused(folder: Path, damage: object, message: str) -> None:
    damage(folder)  # type: ignore[operator]
    with pytest.raises(DataError, match=message):
        bundle.load(folder)


def _edit(folder: Path, **changes: object) -> None:
    path = folder / bundle.MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_manifest_cannot_point_outside(folder: Path) -> None:
    _rewrite(folder, files={"../../secret": bundle.load(folder).files["model.onnx"]})
    with pytest.raises(DataError, match=r"outside the artifact|cannot be a file of an artifact"):
        bundle.load(folder)


def test_a_symbolic_link_is_not_a_file_of_an_artifact(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"graph")
    (folder / "model.onnx").unlink()
    (folder / "model.onnx").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="but a link"):
        bundle.load(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"entry": "/bin/true"}, "entry '/bin/true' is none of the listed files"),
        ({"entry": "../elsewhere"}, "is none of the listed files"),
        ({"entry": ""}, "is none of the listed files"),
        ({"entry": "model"}, "is none of the listed files"),
        ({"files": {}}, "is none of the listed files"),
        ({"files": {"a\\..\\b": FileInfo("0", 1)}}, "outside the artifact"),
        ({"files": {"a//b": FileInfo("0", 1)}}, "outside the artifact"),
        ({"files": {"./model.onnx": FileInfo("0", 1)}}, "outside the artifact"),
        ({"files": {"/etc/passwd": FileInfo("0", 1)}, "entry": "/etc/passwd"}, "outside the artifact"),
        ({"files": {"a\nb": FileInfo("0", 1)}}, "outside the artifact"),
        ({"files": {bundle.MANIFEST: FileInfo("0", 1)}, "entry": bundle.MANIFEST}, "outside the artifact"),
    ],
)
def test_the_digest_covers_what_runs(folder: Path, changes: dict[str, Any], message: str) -> None:
    _rewrite(folder, **changes)
    with pytest.raises(DataError, match=f"{message}|cannot be a file of an artifact"):
        bundle.load(folder, check_files=False)


def _rewrite(folder: Path, **changes: Any) -> None:
    """Write a manifest whose digest and checksum hold, as an attacker would write it."""
    data = {**json.loads((folder / bundle.MANIFEST).read_text()), **plain(changes)}
    del data["checksum"]
    data["digest"] = fingerprint({name: info["sha256"] for name, info in data["files"].items()})
    (folder / bundle.MANIFEST).write_text(json.dumps({**data, "checksum": fingerprint(data)}))


def test_a_file_that_the_manifest_does_not_list_is_refused(folder: Path) -> None:
    (folder / "deep").mkdir()
    assert bundle.load(folder).name == folder.name
    (folder / "deep" / "json.py").write_text("")
    with pytest.raises(DataError, match=r"json\.py: the manifest does not list this file"):
        bundle.load(folder)


def test_a_link_to_a_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "more").symlink_to(tmp_path)
    with pytest.raises(DataError, match="but a link"):
        bundle.load(folder)


def test_an_artifact_has_the_permissions_of_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        bundle.write(tmp_path / "artifacts" / "a", make)
    finally:
        os.umask(before)
    assert 0o755 == (tmp_path / "artifacts" / "a").stat().st_mode & 0o777
    assert 0o644 == (tmp_path / "artifacts" / "a" / bundle.MANIFEST).stat().st_mode & 0o777


def test_a_failure_while_building_leaves_nothing(tmp_path: Path) -> None:
    def fails(draft: Path) -> Artifact:
        (draft / "half").write_bytes(b"x")
        raise DataError("no")

    with pytest.raises(DataError, match="no"):
        bundle.write(tmp_path / "artifacts" / "a", fails)
    assert list((tmp_path / "artifacts").iterdir()) == []


SLOW_WRITER = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_bundle import make
from effbench.deploy.artifact import bundle

def slow(draft):
    artifact = make(draft)
    print("half", flush=True)
    time.sleep(600)
    return artifact

bundle.write(Path({folder!r}), slow)
"""


def test_a_kill_while_building_leaves_no_artifact(tmp_path: Path) -> None:
    folder = tmp_path / "artifacts" / "net"
    code = SLOW_WRITER.format(tests=str(Path(__file__).parent), folder=str(folder))
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"half\n"
        os.kill(writer.pid, signal.SIGKILL)
    assert not folder.exists()
    assert list(bundle.artifacts(tmp_path)) == []
    time.sleep(0.05)
    bundle.write(folder, make)
    assert [item.name for item in (tmp_path / "artifacts").iterdir()] == ["net"]  # the stale draft was removed


def test_annotations_change_the_manifest_and_not_the_digest(folder: Path) -> None:
    before = bundle.load(folder)
    after = bundle.annotate(before, placement={"devices": ["CPU"]})
    assert bundle.load(folder).placement == {"devices": ["CPU"]}
    assert after.digest == before.digest


def test_an_artifact_can_be_read_while_another_process_annotates_it(folder: Path) -> None:
    artifact = bundle.load(folder)
    stop = threading.Event()

    def annotate() -> None:
        while not stop.is_set():
            bundle.annotate(artifact, placement={"cpu": 1})

    with ThreadPoolExecutor(2) as pool:
        writers = [pool.submit(annotate) for _ in range(2)]
        try:
            for _ in range(400):
                bundle.load(folder)
        finally:
            stop.set()
        for writer in writers:
            writer.result()


def test_a_search_passes_by_what_another_version_wrote(folder: Path) -> None:
    other = folder.with_name("old-64-key")
    shutil.copytree(folder, other)
    (other / "manifest.json").write_text('{"format": 1}')
    home = folder.parent.parent
    assert [folder.name] == [item.name for item in bundle.artifacts(home, skip=True)]
    with pytest.raises(DataError, match="old-64-key"):
        list(bundle.artifacts(home))


def test_an_unwritable_folder_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="Cannot write"):
        bundle.write(tmp_path / "file" / "artifacts" / "a", make)


def test_names_are_safe_for_folders() -> None:
    named = InputShapes(None, (("../in:0", (1, 8)), ("y" * 200, (2,))))
    assert bundle.name_of("m", named, 1, "fp32", "ort").startswith("m-.._in_0=1x8,yyy")
    assert len(bundle.name_of("m", named, 1, "fp32", "ort")) < 120
    assert bundle.name_of("a/b:c", InputShapes((64, 96)), None, "fp16", "ov") == "a_b_c-64x96-b_dynamic-fp16-ov"
