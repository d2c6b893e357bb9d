"""int8 from the command line: refused without images, keyed by them, and marked where they are synthetic."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from conftest import Run
from effbench.api.export import exporter
from effbench.api.export.declarations import Declarations
from effbench.api.export.inputs import Inputs
from effbench.api.export.request import ExportRequest
from effbench.api.export.source import Source
from effbench.deploy.artifact import bundle, fidelity, synthetic
from effbench.errors import UnavailableError
from effbench.schema import LATENCY_ONLY, Backbone, InputTerms, Weights

pytestmark = [pytest.mark.target("torch"), pytest.mark.target("ort"), pytest.mark.xdist_group("export")]

INT8 = ("export", "toy:net", "--res", "64", "-t", "ort", "--precision", "int8")


def photographs(folder: Path, seed: int) -> Path:
    folder.mkdir()
    for index, image in enumerate(synthetic.reference_images(3, 3, (80, 100), seed)):
        Image.fromarray(image.transpose(1, 2, 0)).save(folder / f"{index}.png")
    return folder


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--precision", "int8"), "Give --images FOLDER with some dozens of typical images"),
        (("--precision", "a16w8"), "--images synthetic is good for latency only"),
        (("--precision", "int8", "--images", "nowhere"), "There is no folder"),
        (("--images", "synthetic"), "Add --precision int8"),
    ],
)
def test_images_are_asked_for_before_any_work(run: Run, arguments: tuple[str, ...], message: str) -> None:
    done = run("export", "toy:net", "--res", "64", "-t", "ort", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert not (run.folder / "runs").exists()


def test_int8_of_synthetic_images_is_for_latency_only(own: Run) -> None:
    pytest.importorskip("nncf")
    done = own(*INT8, "--images", "synthetic", "--json")
    (cell,) = json.loads(done.stdout)["data"]
    assert (done.returncode, cell["status"], cell["precision"]) == (0, "ok", "int8"), done.stdout
    assert LATENCY_ONLY in cell["notes"]
    assert cell["fidelity"]["snr_db"] > 14
    assert cell["fidelity"]["inputs"] == fidelity.NATURAL
    artifact = bundle.load(own.folder / cell["artifact"])
    assert artifact.subject.latency_only
    # ONNX Runtime fuses no convolution whose bias is float, so it computes in float between the Q/DQ; that is said.
    assert artifact.subject.compute_precision == "fp32"
    assert artifact.calibration is not None
    assert len(artifact.calibration) == 64
    own("profile", cell["artifact"], "--rounds", "1", "--budget", "1")
    assert LATENCY_ONLY in own("report").stdout.replace("\n    ", " ")


def test_a_runtime_that_loses_what_the_graph_has_is_told_from_the_graph(
    own: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("nncf")
    artifact = None
    for lost, noted in ((0.0, False), (5.0, False), (9.0, True)):
        if artifact is not None and artifact.fidelity is not None and artifact.fidelity.snr_db is not None:
            bundle.annotate(artifact, fidelity=replace(artifact.fidelity, snr_db=artifact.fidelity.snr_db - lost))
        (cell,) = json.loads(own(*INT8, "--images", "synthetic", "--json").stdout)["data"]
        artifact = artifact or bundle.load(own.folder / cell["artifact"])
        notes = [note for note in cell["notes"] if "this runtime loses 9 dB" in note]
        assert len(notes) == noted, cell["notes"]
    assert "on effbench's interpreter" in notes[0]
    graphs = [item for item in bundle.artifacts(own.folder / "runs") if item.name.startswith("toy.net-64-b1-int8-onnx")]
    assert [item.fidelity.engine for item in graphs if item.fidelity] == ["effbench's interpreter"]

    def no_time(*_: object) -> None:
        raise UnavailableError("stopped after 1 s")

    (graph,) = graphs
    bundle.annotate(graph, fidelity=None)
    monkeypatch.setattr(exporter, "verify_artifact", no_time)
    request = ExportRequest("toy:net", out=own.folder / "runs")
    inputs = Inputs([], 1, InputTerms(), Declarations())
    export = exporter.Exporter(request, Source(Backbone("toy.net", "user", "toy:net"), Weights()), None, inputs)
    assert artifact is not None
    (note,) = export._noise_of_runtime(artifact)
    assert note == "the noise of the graph itself is unknown: stopped after 1 s"


@pytest.mark.slow
def test_other_images_are_another_artifact_and_the_same_are_the_same(own: Run) -> None:
    pytest.importorskip("nncf")
    exports = []
    for seed in (1, 2, 1):
        folder = own.folder / f"photographs{seed}"
        done = own(*INT8, "--images", str(folder if folder.exists() else photographs(folder, seed)), "--json")
        (cell,) = json.loads(done.stdout)["data"]
        artifact = bundle.load(own.folder / cell["artifact"])
        assert not artifact.subject.latency_only
        exports.append((artifact.key, artifact.calibration, cell["cached"]))
    first, second, third = exports
    assert first[0] != second[0]
    assert first[1] != second[1]
    assert (third[0], third[1], first[2], third[2]) == (first[0], first[1], False, True)


@pytest.mark.parametrize(("target", "precision"), [("torch", "fp16"), ("coreml", "a16w8"), ("trt", "a16w8")])
def test_a_precision_that_a_target_never_takes_is_unsupported(own: Run, target: str, precision: str) -> None:
    images = ("--images", "synthetic") if precision == "a16w8" else ()
    done = own("export", "toy:net", "--res", "64", "-t", target, "--precision", precision, *images, "--json")
    (cell,) = json.loads(done.stdout)["data"]
    assert (done.returncode, cell["status"]) == (4, "unsupported")
    assert "It takes" in cell["next_step"]
