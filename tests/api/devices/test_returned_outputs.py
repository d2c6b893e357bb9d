"""Whether the model on a kit's device is still the same is judged here, from the outputs that come back."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from effbench import process
from effbench.api.devices import kit_results, returned
from effbench.api.devices.kit_results import KitRecord
from effbench.api.export.verification import reference_of
from effbench.codec import file_sha256, from_json
from effbench.deploy.artifact import bundle
from effbench.device import AGENT
from effbench.device.signature import Chain
from effbench.errors import DataError
from effbench.schema import FORMAT_VERSION, Artifact, Fidelity, Measurement

pytestmark = pytest.mark.xdist_group("export")


class Returned(NamedTuple):
    """A home, an artifact of it, the folder with a kit's result, and the answer to its verification."""

    home: Path
    artifact: Artifact
    folder: Path
    answer: dict[str, Any]

    @property
    def outputs(self) -> Path:
        return self.folder / "outputs" / f"{self.artifact.name}.npz"

    def bring_home(self, force: bool = False, sha256: str | None = None, **claim: Any) -> Measurement:
        """Import the result, signed as a run signs it."""
        round_ = {"format": FORMAT_VERSION, "samples_ns": [1000, 1001], "warmup": 1, "stationary": True}
        round_ |= {"load_ms": 1.0, "first_ms": 1.0, "peak_rss_bytes": 1}
        timed = {"event": "round", "round": round_, "batch": 1, "before": {}, "after": {}, "agent_s": 1.0}
        item = {"artifact": self.artifact.name, "digest": self.artifact.digest, "seconds": 9.0}
        answer = {**self.answer, "fidelity": {**self.answer["fidelity"], **claim}}
        sha256 = (file_sha256(self.outputs) if self.outputs.exists() else "") if sha256 is None else sha256
        head = {"format": FORMAT_VERSION, "kit": "0" * 16, "device": "box", "threads": 1, "time": "2026-01-01"}
        lines = [head, {**item, "op": "verify", "answer": answer, "outputs": sha256}]
        lines += [{**item, "op": "measure", "answer": timed}, {"lines": 3}]
        kit_results.remember(self.home, KitRecord("0" * 16, "secret", "box", (self.artifact.digest,)))
        chain = Chain("secret")
        text = "\n".join(json.dumps(chain.sign(line)) for line in lines)
        (measurement,) = kit_results.import_result(text, str(self.folder / "result.jsonl"), self.home, force=force)
        return measurement

    def change(self, **arrays: Any) -> None:
        """Replace or add arrays of the returned outputs; None removes one."""
        with np.load(self.outputs) as data:
            content = {name: data[name] for name in data.files}
        np.savez(self.outputs, **{key: value for key, value in {**content, **arrays}.items() if value is not None})

    @property
    def first(self) -> tuple[str, np.ndarray]:
        """The name and the value of the output."""
        with np.load(self.outputs) as data:
            return next((name, data[name]) for name in data.files if name.startswith("0:output:"))


@pytest.fixture(scope="module")
def verified(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Returned:
    home = tmp_path_factory.mktemp("home") / "runs"
    shutil.copytree(exported / "runs", home)
    artifact = next(item for item in bundle.artifacts(home) if item.subject.target == "ort")
    folder = tmp_path_factory.mktemp("kit")
    outputs = folder / "outputs" / f"{artifact.name}.npz"
    job = {"op": "verify", "artifact": str(artifact.folder), "reference": str(reference_of(artifact, home))}
    (answer,) = (
        event
        for event in process.run(AGENT, {**job, "threads": 1, "outputs": str(outputs)}, time_limit_s=100)
        if event["event"] == "result"
    )
    return Returned(home, artifact, folder, answer)


@pytest.fixture
def result(verified: Returned, tmp_path: Path) -> Returned:
    shutil.copytree(verified.folder, tmp_path / "kit")
    return verified._replace(folder=tmp_path / "kit")


def test_the_outputs_that_come_back_are_judged_as_verify_judges_them(result: Returned):
    claim = from_json(Fidelity, result.answer["fidelity"], "the answer")
    own = returned.recomputed(result.artifact, result.home, result.outputs)
    assert replace(claim, engine="") == replace(own, engine="")
    assert own.prepared_levels is not None  # the image that was decoded there is judged here too
    measurement = result.bring_home()
    assert (True, ()) == (measurement.subject.fidelity_passed, measurement.doubts)
    (note,) = (note for note in measurement.notes if "model" in note)
    assert note.startswith("recomputed here from the outputs of the kit's run: the same model")
    assert "claimed" not in " ".join(measurement.notes)


def test_a_forged_figure_is_replaced_by_the_recomputed_one(result: Returned):
    notes = " ".join(result.bring_home(max_error=0.123, inputs=5000).notes)
    assert ("1.2e-01" in notes, "5000" in notes) == (False, False)


def test_outputs_that_stay_away_leave_a_claim(result: Returned):
    sha256 = file_sha256(result.outputs)
    result.outputs.unlink()
    for known, reason in ((sha256, "did not come back"), ("", "returned no outputs")):
        measurement = result.bring_home(sha256=known)
        assert measurement.subject.fidelity_passed == result.artifact.subject.fidelity_passed
        assert measurement.notes[1].startswith("claimed by the kit's run: the same model")
        assert reason in measurement.notes[1]


def test_a_forged_verdict_is_refused_and_marked_with_force(result: Returned):
    name, value = result.first
    result.change(**{name: value[::-1], name.replace(":output:", ":again:"): value[::-1][:1]})
    with pytest.raises(DataError, match="its outputs show NOT the same model") as caught:
        result.bring_home()
    assert "--force" in str(caught.value)
    measurement = result.bring_home(force=True)
    assert (False, 1) == (measurement.subject.fidelity_passed, len(measurement.doubts))


def test_other_outputs_than_the_signed_ones_are_refused(result: Returned):
    with pytest.raises(DataError, match="another hash"):
        result.bring_home(sha256="0" * 64)
    measurement = result.bring_home(force=True, sha256="0" * 64)
    assert measurement.notes[1].startswith("claimed")
    assert "another hash" in measurement.doubts[0]


def hostile(name: str, value: np.ndarray) -> dict[str, dict[str, Any]]:
    again, of_decoded = (name.replace(":output:", f":{group}:") for group in ("again", "of_decoded"))
    return {
        "another shape": {name: value[:, :-1]},
        "a scalar": {name: value.sum()},
        "no image": {name: value[:0], again: value[:0]},
        "more images": {name: np.concatenate([value, value])},
        "text": {name: np.full(value.shape, "x")},
        "complex numbers": {name: value.astype(complex)},
        "dates": {name: value.astype("datetime64[s]")},
        "pickled objects": {name: np.array([print], dtype=object)},
        "no second run": {again: None},
        "a longer second run": {again: value},
        "another output": {"0:output:more": value},
        "another check": {"7:output:x": value, "7:again:x": value[:1]},
        "another group": {"0:secret:x": value},
        "an image of another size": {"0:decoded:": value},
        "no outputs for the image": {of_decoded: None},
        "an axis more": {name: value[None]},
    }


@pytest.mark.parametrize("case", hostile("0:output:x", np.zeros((1, 2))))
def test_a_hostile_file_of_outputs_is_refused(case: str, result: Returned):
    result.change(**hostile(*result.first)[case])
    with pytest.raises(DataError, match=r"\.npz: "):
        result.bring_home()
    measurement = result.bring_home(force=True)
    assert (1, True) == (len(measurement.doubts), measurement.notes[1].startswith("claimed"))


def test_outputs_that_are_not_finite_are_not_the_same_model(result: Returned):
    name, value = result.first
    value[0] = np.nan
    result.change(**{name: value})
    with pytest.raises(DataError, match="NOT the same model"):
        result.bring_home()
