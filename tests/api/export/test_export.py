"""Export and verification with the real runtimes, on a small model from outside the package."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from conftest import Run
from effbench.deploy.artifact import bundle
from effbench.schema import Artifact

pytestmark = [
    pytest.mark.target("torch"),
    pytest.mark.target("ort"),
    pytest.mark.target("ov"),
    pytest.mark.xdist_group("export"),
]


def artifacts(folder: Path) -> dict[str, Artifact]:
    return {item.subject.target: item for item in bundle.artifacts(folder / "runs")}


def cells(text: str) -> list[dict[str, object]]:
    return list(json.loads(text)["data"])


def test_every_target_is_the_same_model(exported: Path) -> None:
    by_target = artifacts(exported)
    assert sorted(by_target) == ["onnx", "ort", "ov", "torch"]
    for name in ("ort", "ov", "torch"):
        result = by_target[name].fidelity
        assert result is not None
        assert result.passed
        assert result.max_error <= 1e-3
        assert "torch" in result.reference
        assert by_target[name].graph_digest == by_target["onnx"].digest
        assert by_target[name].subject.compute_precision == "fp32"


def test_the_manifest_says_what_it_is_made_of(exported: Path) -> None:
    artifact = artifacts(exported)["ov"]
    assert artifact.subject.weights.kind == "untrained"
    assert artifact.subject.weights.seed == 0
    assert {"torch", "onnx", "openvino", "effbench"} <= set(artifact.versions)
    assert sorted(artifact.files) == ["model.bin", "model.xml"]
    assert [stage.name for stage in artifact.stages][-1] == "convert to OpenVINO"
    assert artifact.placement["layers_by_precision"].keys() == {"fp32"}


def test_the_graph_is_clean(exported: Path) -> None:
    model = onnx.load(artifacts(exported)["onnx"].path)
    assert model.ir_version == 10
    assert [(item.domain, item.version) for item in model.opset_import] == [("", 20)]
    kinds = {node.op_type for node in model.graph.node}
    assert not kinds & {"BatchNormalization", "Identity", "Shape", "Cast", "Constant"}
    assert str(exported).encode() not in model.SerializeToString()


def test_again_is_a_hit_without_torch(own: Run) -> None:
    block = "import sys; sys.modules['torch'] = sys.modules['onnx'] = None"
    code = f"{block}; from effbench.cli import main; main(sys.argv[1:])"
    arguments = ["export", "toy:net", "--res", "64", "-t", "ort", "--json"]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=own.folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (cell,) = cells(done.stdout)
    assert (cell["cached"], cell["status"]) == (True, "ok")


def test_a_changed_source_or_seed_is_a_miss(own: Run) -> None:
    before = {item.name for item in bundle.artifacts(own.folder / "runs")}
    (cell,) = cells(own("export", "toy:net", "--res", "64", "-t", "ort", "--json", "--seed", "1").stdout)
    assert cell["cached"] is False
    source = own.folder / "toy.py"
    source.write_text(source.read_text().replace("gelu", "relu"))
    (cell,) = cells(own("export", "toy:net", "--res", "64", "-t", "ort", "--json").stdout)
    assert cell["cached"] is False
    assert len({item.name for item in bundle.artifacts(own.folder / "runs")} - before) == 4


@pytest.mark.slow
def test_a_comment_builds_the_graph_again_and_leaves_every_artifact(own: Run) -> None:
    before = {item.name: item.digest for item in bundle.artifacts(own.folder / "runs")}
    builds = len([*(own.folder / "runs" / "builds").glob("*/*.json")])
    source = own.folder / "toy.py"
    source.write_text(source.read_text() + "# a comment\n")
    (cell,) = cells(own("export", "toy:net", "--res", "64", "-t", "ort", "--json").stdout)
    assert cell["cached"] is True
    assert before == {item.name: item.digest for item in bundle.artifacts(own.folder / "runs")}
    assert builds + 1 == len([*(own.folder / "runs" / "builds").glob("*/*.json")])


def _damage_weights(path: Path) -> None:
    model = onnx.load(path)
    weight = next(t for t in model.graph.initializer if len(t.dims) == 4)
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.02), weight.name))
    onnx.save(model, path)


def test_a_broken_weight_fails_verification(own: Run) -> None:
    artifact = artifacts(own.folder)["ort"]
    _damage_weights(artifact.path)
    refused = own("verify", artifact.name)
    assert refused.returncode == 2
    assert "altered since it was exported" in refused.stderr
    # If the manifest is rewritten too, the outputs still show it.
    info = {"model.onnx": bundle._info(artifact.path)}
    from dataclasses import replace

    bundle.save_manifest(replace(artifact, files=info, digest=bundle.digest_of(info)))
    done = own("verify", artifact.name, "--json")
    assert done.returncode == 1
    (cell,) = cells(done.stdout)
    assert cell["status"] == "failed"
    assert "not the same model" in str(cell["reason"])


def test_a_graph_is_verified_by_the_interpreter(own: Run) -> None:
    graph = artifacts(own.folder)["onnx"]
    done = own("verify", graph.name, "--json")
    assert done.returncode == 0, done.stderr
    (cell,) = cells(done.stdout)
    assert (cell["target"], cell["status"]) == ("onnx", "ok")
    assert cell["fidelity"]["engine"] == "effbench's interpreter"  # type: ignore[index]
    _damage_weights(graph.path)
    info = {name: bundle._info(graph.folder / name) for name in graph.files}
    from dataclasses import replace

    bundle.save_manifest(replace(graph, files=info, digest=bundle.digest_of(info)))
    assert own("verify", graph.name).returncode == 1


def test_a_users_onnx_file_enters_at_the_same_door(own: Run) -> None:
    shutil.copy(artifacts(own.folder)["onnx"].path, own.folder / "mine.onnx")
    done = own("export", "mine.onnx", "--res", "64", "-t", "ort", "-t", "ov", "-t", "torch", "--json")
    by_target = {str(cell["target"]): cell for cell in cells(done.stdout)}
    for name in ("ort", "ov"):
        assert by_target[name]["status"] == "ok", by_target[name]
        assert "interpreter" in by_target[name]["fidelity"]["reference"]  # type: ignore[index]
    assert by_target["torch"]["status"] == "unsupported"
    wrong = own("export", "mine.onnx", "--res", "96", "-t", "ort")
    assert wrong.returncode == 2
    assert "the height of its input 'image' is fixed to 64, not 96" in wrong.stdout


def test_a_dynamic_batch_is_really_dynamic(run: Run) -> None:
    done = run("export", "toy:net", "--res", "64", "-t", "ort", "--dynamic-batch", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    by_target = artifacts(run.folder)
    assert by_target["onnx"].inputs[0].shape == (None, 3, 64, 64)
    assert by_target["ort"].fidelity is not None
    assert by_target["ort"].fidelity.passed
    assert by_target["onnx"].subject.macs is not None


def test_two_exports_at_once_make_one_artifact(run: Run) -> None:
    command = [sys.executable, "-m", "effbench.cli", "export", "toy:net", "--res", "64", "-t", "ort"]
    # A pipe that nobody reads could fill, and one of them wait for the other's end for ever.
    both = [subprocess.Popen(command, cwd=run.folder, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [one.wait() for one in both] == [0, 0]
    assert sorted(artifacts(run.folder)) == ["onnx", "ort"]
    names = [path.name for path in (run.folder / "runs" / "artifacts").iterdir() if not path.name.startswith(".")]
    assert len(names) == 2


@pytest.mark.parametrize("after_s", [0.3, 2.0, 4.0])
def test_a_kill_leaves_nothing_or_a_whole_artifact(run: Run, after_s: float) -> None:
    command = [sys.executable, "-m", "effbench.cli", "export", "toy:net", "--res", "64", "-t", "ort"]
    export = subprocess.Popen(command, cwd=run.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(after_s)
    os.kill(export.pid, signal.SIGKILL)
    export.wait()
    for item in bundle.artifacts(run.folder / "runs"):
        assert bundle.load(item.folder).digest == item.digest
    done = run("export", "toy:net", "--res", "64", "-t", "ort")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("model", "message", "code"),
    [
        ("toy:broken", "forward pass failed", 5),
        ("toy:not_callable", "not_callable", 2),
        ("toy:missing", "missing", 2),
        ("nowhere:net", "nowhere", 2),
    ],
)
def test_a_model_that_cannot_be_built_says_why(run: Run, model: str, message: str, code: int) -> None:
    done = run("export", model, "--res", "64", "-t", "ort")
    assert done.returncode == code, done.stdout + done.stderr
    assert message in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_two_outputs_are_kept_apart(run: Run) -> None:
    done = run("export", "toy:two_outputs", "--res", "64", "-t", "ort", "-t", "ov", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [spec.name for spec in artifacts(run.folder)["ort"].outputs] == ["output_0", "output_1"]
