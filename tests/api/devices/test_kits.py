"""A kit is written, run as its holder would run it, and brought home."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from effbench.api.devices import kit_results, kits
from effbench.api.devices.kit_results import KitRecord
from effbench.deploy.artifact import bundle
from effbench.device import agent_kit
from effbench.device.signature import Chain
from effbench.errors import DataError, UsageError
from effbench.profiles.trust import grade_of
from effbench.reports.rows import measured_row
from effbench.schema import FORMAT_VERSION, Device, Measurement
from effbench.store import Store

pytestmark = pytest.mark.xdist_group("export")


def run_kit(folder: Path) -> subprocess.CompletedProcess[str]:
    env = {"PATH": "/usr/bin:/bin", "PYTHON": sys.executable}
    return subprocess.run(
        ["sh", "run.sh"], cwd=folder, env=env, capture_output=True, text=True, timeout=200, check=False
    )


def make(own: Any, device: str = "box", *more: str) -> Path:
    (own.folder / "effbench.toml").write_text('[devices.box]\ntransport = "ssh"\ntargets = ["ort"]\n')
    result = own("kit", "toy.net-64-b1-fp32-ort", "--device", device, "--rounds", "2", "--budget", "2", *more)
    assert 0 == result.returncode, result.stderr
    folder: Path = own.folder / f"kit-{device}"
    return folder


def test_a_kit_is_run_elsewhere_and_brought_home(own: Any, tmp_path: Path):
    folder = make(own)
    away = tmp_path / "somewhere" / "else"
    away.parent.mkdir()
    folder.rename(away)
    result = run_kit(away)
    assert 0 == result.returncode, result.stdout + result.stderr
    assert "verified" in result.stdout
    back = own("import", str(away / "result.jsonl"))
    assert 0 == back.returncode, back.stderr
    (one,) = Store(own.folder / "runs")
    assert ("imported", "box", 2) == (one.origin, one.device, len(one.samples.rounds))
    assert all(len(item.samples_ns) >= 20 for item in one.samples.rounds)
    assert () == one.doubts
    assert "recomputed here from the outputs of the kit's run: the same model" in " ".join(one.notes)
    assert "recomputed here" in back.stdout
    again = own("import", str(away / "result.jsonl"))
    assert (0, [one]) == (again.returncode, list(Store(own.folder / "runs")))  # nothing is added


@pytest.fixture(scope="module")
def brought(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """A home that wrote a kit, and the lines of its result: signed as a run signs them, with figures made up here."""
    home = tmp_path_factory.mktemp("kits") / "runs"
    shutil.copytree(exported / "runs", home)
    artifact = next(item for item in bundle.artifacts(home) if item.subject.target == "ort")
    record = KitRecord("0" * 16, "secret", "raspberry-pi-5", (artifact.digest,))
    kit_results.remember(home, record)
    round_ = {"format": FORMAT_VERSION, "samples_ns": [1000, 1001], "warmup": 1, "stationary": True, "load_ms": 1.0}
    round_ |= {"first_ms": 1.0, "peak_rss_bytes": 1}
    state = {"machine": "aarch64", "cpu_model": "Raspberry Pi 5 Model B"}
    answer = {"event": "round", "round": round_, "batch": 1, "before": state, "after": state, "agent_s": 1.0}
    line = {"artifact": artifact.name, "digest": artifact.digest, "op": "measure", "seconds": 9.0, "answer": answer}
    head = {"format": FORMAT_VERSION, "kit": record.id, "device": record.device, "threads": 1, "time": "2026-01-01"}
    return home, [head, line, {**line, "seconds": 8.0}, {"lines": 3}]


def signed(lines: Sequence[dict[str, Any]], key: str = "secret") -> list[dict[str, Any]]:
    chain = Chain(key)
    return [chain.sign(line) for line in lines]


def import_lines(home: Path, lines: Sequence[Any], **options: bool) -> list[Measurement]:
    return kit_results.import_result("\n".join(map(json.dumps, lines)), "result.jsonl", home, **options)


def changed(lines: list[dict[str, Any]], at: int, **answer: Any) -> list[dict[str, Any]]:
    copy = json.loads(json.dumps(lines))
    copy[at]["answer"].update(answer)
    return copy


def altered(lines: list[dict[str, Any]]) -> dict[str, list[Any]]:
    whole = signed(lines)
    faster = json.loads(json.dumps(whole))
    faster[1]["answer"]["round"]["samples_ns"] = [100, 100]
    inserted = json.loads(json.dumps(whole))
    inserted[1]["answer"]["round"]["samples_ns"].append(900)
    renamed = [{**whole[0], "device": "jetson-thor"}, *whole[1:]]
    return {
        "samples / 10": faster,
        "an inserted sample": inserted,
        "another device": renamed,
        "a line left out": [whole[0], *whole[2:]],
        "two lines swapped": [whole[0], whole[2], whole[1], whole[3]],
        "a line twice": [*whole[:2], whole[1], *whole[2:]],
        "the end left out": whole[:-1],
        "another key": signed(lines, "guessed"),
        "no signature": lines,
        "an unknown kit": signed([{**lines[0], "kit": "f" * 16}, *lines[1:]]),
        "a path for a kit": signed([{**lines[0], "kit": "../../etc/x"}, *lines[1:]]),
    }


def test_an_altered_result_is_refused_and_marked_for_ever_with_force(brought: tuple[Path, list[dict[str, Any]]]):
    home, lines = brought
    for name, result in altered(lines).items():
        with pytest.raises(DataError, match=r"signature|no kit|interrupted") as caught:
            import_lines(home, result)
        assert "--force" in str(caught.value), name
        measured = import_lines(home, result, force=True)
        assert all(item.doubts for item in measured), name
        assert "D" == grade_of(measured[0])[0], name


def test_a_result_is_imported_once(brought: tuple[Path, list[dict[str, Any]]], tmp_path: Path):
    home = tmp_path / "runs"
    shutil.copytree(brought[0], home)
    (home / "measurements.jsonl").unlink(missing_ok=True)
    (one,) = import_lines(home, signed(brought[1]))
    assert (2, ()) == (len(one.samples.rounds), one.doubts)
    first = (home / "measurements.jsonl").read_bytes()
    import_lines(home, signed(brought[1]))
    assert first == (home / "measurements.jsonl").read_bytes()
    (home / "measurements.jsonl").write_bytes(first.splitlines(keepends=True)[0])  # a kill between the two rounds
    import_lines(home, signed(brought[1]))
    assert first == (home / "measurements.jsonl").read_bytes()


@pytest.mark.parametrize(
    "state",
    [{"machine": "x86_64", "cpu_model": "Raspberry Pi 5"}, {"machine": "aarch64", "cpu_model": "Raspberry Pi 4"}],
)
def test_a_result_of_another_machine_is_refused_and_marked(brought: tuple[Path, Any], state: dict[str, str]):
    home, lines = brought
    result = signed(changed(changed(lines, 1, before=state, after=state), 2, before=state, after=state))
    with pytest.raises(DataError, match=r"'raspberry-pi-5' (is|has) a .*, but it ran on"):
        import_lines(home, result)
    (one,) = import_lines(home, result, force=True)
    assert "but it ran on" in one.doubts[0]
    row = measured_row(one, "top1", grade_of(one))
    assert ("D", one.doubts[0]) == (row.trust, row.notes[0])


@pytest.mark.parametrize(
    "bad",
    [
        5,
        [],
        {"digest": 5},
        {"answer": []},
        {"seconds": "long"},
        {"op": "verify", "answer": {"fidelity": {"passed": 1}}},
    ],
)
def test_a_malformed_line_of_a_result_is_named(brought: tuple[Path, list[dict[str, Any]]], bad: Any):
    home, lines = brought
    for at in (0, 1):
        row = {**lines[1], **bad} if at and isinstance(bad, dict) else bad
        with pytest.raises(DataError, match=r"result\.jsonl"):
            import_lines(home, [row, *lines[1:]] if at == 0 else [lines[0], row, *lines[2:]], force=True)
    with pytest.raises(DataError, match="after: expected"):
        import_lines(home, signed(changed(lines, 1, after=5)))


def test_names_that_cannot_travel_make_no_kit(brought: tuple[Path, Any], tmp_path: Path):
    artifact = next(item for item in bundle.artifacts(brought[0]) if item.subject.target == "ort")
    for name in ("a b", "$(touch x)", "..", "-rf", 'a"b', "a;b", "../a"):
        with pytest.raises((UsageError, DataError), match=r"cannot travel|cannot be a file"):
            kits._copy(replace(artifact, entry=name), tmp_path / "kit")
    for device in ("../../escaped", "a/b", "", ".x", "a b", "$(x)", "x" * 300):
        with pytest.raises(DataError, match="cannot be the name of a device"):
            Device(device, "board", "x", "ssh", ("ort",))


def test_a_link_does_not_travel_in_a_kit(own: Any):
    artifact = next(item for item in bundle.artifacts(own.folder / "runs") if item.subject.target == "ort")
    (artifact.folder / "extra").symlink_to("/etc/passwd")
    result = own("kit", artifact.name, "--device", "raspberry-pi-5")
    assert 2 == result.returncode
    assert "but a link" in result.stderr
    assert not (own.folder / "kit-raspberry-pi-5").exists()


def test_a_plan_names_nothing_outside_its_kit(tmp_path: Path):
    plan = {"format": FORMAT_VERSION, "kit": "0", "key": "k", "device": "d", "threads": 1, "rounds": 1, "budget_s": 1}
    for name in ("../x", "/etc", "..", ""):
        (tmp_path / "kit.json").write_text(json.dumps({**plan, "artifacts": [{"name": name, "packages": []}]}))
        with pytest.raises(DataError, match="no artifact of this kit"):
            agent_kit.run(tmp_path)
    for text in ("[]", "{}", json.dumps({**plan, "artifacts": 5}), json.dumps({**plan, "artifacts": [5]})):
        (tmp_path / "kit.json").write_text(text)
        with pytest.raises(DataError):
            agent_kit.run(tmp_path)


@pytest.mark.slow
def test_a_changed_artifact_in_a_kit_is_refused_and_said_so(own: Any):
    folder = make(own)
    model = next((folder / "artifacts").glob("*/model.onnx"))
    model.write_bytes(model.read_bytes() + b"\0")
    result = run_kit(folder)
    assert 5 == result.returncode
    assert "altered since it was exported" in result.stdout
    back = own("import", str(folder / "result.jsonl"))
    assert 2 == back.returncode
    assert "no round was measured" in back.stderr


def test_a_result_of_other_artifacts_is_refused(own: Any, tmp_path: Path):
    lines = [{"format": FORMAT_VERSION, "kit": "x", "device": "y", "time": "t", "threads": 1}]
    lines += [{"digest": "0" * 64, "artifact": "other", "op": "measure", "seconds": 1, "answer": {}}]
    (tmp_path / "result.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = own("import", str(tmp_path / "result.jsonl"), "--force")
    assert 2 == result.returncode
    assert "other is not below" in result.stderr


def test_a_kit_for_a_phone_says_what_its_holder_does(own: Any):
    (own.folder / f"{kits.DRAFT}killed").mkdir()  # of a kit with another name
    (own.folder / f"{kits.DRAFT}killed.lock").touch()
    result = own("kit", "toy.net-64-b1-fp32-ort", "--device", "pixel-8")
    assert 0 == result.returncode, result.stderr
    script = (own.folder / "kit-pixel-8" / "run.sh").read_text()
    assert "adb push onnxruntime /data/local/tmp/effbench-kit/onnxruntime" in script
    assert 0 == subprocess.run(["sh", "-n"], input=script, text=True, check=False).returncode
    assert "--device pixel-8" in result.stdout
    assert [] == list(own.folder.glob("*killed*"))


def test_what_the_device_does_not_run_makes_no_kit(own: Any):
    result = own("kit", "toy.net-64-b1-fp32-ort", "--device", "iphone-13")
    assert 2 == result.returncode
    assert "runs coreml, not ort" in result.stderr
    assert not (own.folder / "kit-iphone-13").exists()


def test_a_folder_is_never_overwritten(own: Any):
    make(own)
    again = own("kit", "toy.net-64-b1-fp32-ort", "--device", "box")
    assert (2, True) == (again.returncode, "exists already" in again.stderr)
