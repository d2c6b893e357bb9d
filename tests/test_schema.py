from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from effbench.codec import canonical, from_json, to_json
from effbench.errors import DataError, UsageError
from effbench.schema import (
    Artifact,
    Backbone,
    Cell,
    Fidelity,
    FileInfo,
    InputShapes,
    InputSpec,
    Measurement,
    Proof,
    Round,
    Samples,
    Status,
    Subject,
    TensorSpec,
    Weights,
)

SUBJECT = Subject(
    "net", "user", Weights("file", None, "w.safetensors", "ab"), InputShapes((64, 96)), 2, "ov", "fp16", notes=("n",)
)


def artifact() -> Artifact:
    return Artifact(
        folder=Path("here"),
        key="k",
        digest="d",
        subject=SUBJECT,
        inputs=(InputSpec("image", "float32", (None, 3, 64, 96)),),
        outputs=(TensorSpec("output", "float32", (None, 10)),),
        files={"model.onnx": FileInfo("ff", 3)},
        entry="model.onnx",
        fidelity=Fidelity(True, "torch", 9, 1e-5, 1e-6, 1.0, 1.0, True, True, {"max_error": 1e-3}),
        placement={"devices": ["CPU"], "layers": {"fp32": 3}},
    )


def test_an_artifact_is_equal_after_a_json_round_trip() -> None:
    data = json.loads(json.dumps(to_json(artifact())))
    assert from_json(Artifact, data, "x", folder=Path("here")) == artifact()


@given(st.lists(st.integers(1, 10**12), min_size=1, max_size=50), st.floats(0, 1e6), st.booleans())
def test_a_round_is_equal_after_a_json_round_trip(samples: list[int], load_ms: float, stationary: bool) -> None:
    item = Round(tuple(samples), 1, stationary, load_ms, 1.0, 5, {"steal_pct": 0.5}, ("early return",))
    assert from_json(Round, json.loads(canonical(to_json(item))), "x") == item


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"digest": 3}, "digest: expected str, found 3"),
        ({"surprise": 1}, "unknown field 'surprise'"),
        ({"subject": {"model": "x"}}, "Subject lacks"),
        ({"inputs": "no"}, "inputs: expected a list"),
        ({"format": 7}, "format 7"),
        ({"files": {"a": {"sha256": "x", "size_bytes": True}}}, "expected int, found True"),
    ],
)
def test_invalid_data_are_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        from_json(Artifact, {**to_json(artifact()), **change}, "manifest.json", folder=Path("x"))


def test_missing_fields_are_named() -> None:
    data = to_json(artifact())
    del data["key"], data["entry"]
    with pytest.raises(DataError, match="Artifact lacks key, entry"):
        from_json(Artifact, data, "m", folder=Path("x"))


def test_not_finite_numbers_are_errors() -> None:
    with pytest.raises(DataError, match="not finite"):
        canonical({"x": float("nan")})


@pytest.mark.parametrize(("text", "size"), [("512", (512, 512)), (224, (224, 224)), ("384x640", (384, 640))])
def test_resolutions_read_both_ways(text: str | int, size: tuple[int, int]) -> None:
    shapes = InputShapes.parse(text)
    assert size == shapes.image
    assert str(text) == str(shapes)
    assert InputShapes.parse(shapes) is shapes


@pytest.mark.parametrize("text", ["", "0", "12.5", "-3", "axb", "1x2x3", "５１２x"])
def test_an_invalid_resolution_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match="not a size in pixels"):
        InputShapes.parse(text)


def test_records_reject_invalid_values() -> None:
    with pytest.raises(DataError, match="no samples"):
        Round((), 0, True, 0, 0, 0)
    with pytest.raises(DataError, match="above zero"):
        Round((5, 0), 0, True, 0, 0, 0)
    with pytest.raises(DataError, match="no rounds"):
        Samples(())
    with pytest.raises(DataError, match="neither end-to-end"):
        Samples((Round((1,), 0, True, 0, 0, 0),), scope="both")
    with pytest.raises(DataError, match="kind 'guessed'"):
        Weights("guessed")
    with pytest.raises(DataError, match="needs a reason"):
        Cell("m", InputShapes((1, 1)), "fp32", "ort", Status.FAILED)
    with pytest.raises(DataError, match="is ok is proved by None"):
        Cell("m", InputShapes((1, 1)), "fp32", "ort", Status.OK)
    with pytest.raises(DataError, match="is built is proved by runtime"):
        Cell("m", InputShapes((1, 1)), "fp32", "trt", Status.BUILT, "not run here", proved_by=Proof.RUNTIME)


def test_the_default_of_a_nested_record_is_kept() -> None:
    backbone = Backbone("a", "b", "c:d", counts={"params": 3})
    assert from_json(Backbone, json.loads(json.dumps(to_json(backbone))), "x") == backbone


def proof(passed: bool = True, unverifiable: str = "", reasons: tuple[str, ...] = ()) -> Fidelity:
    return Fidelity(
        *(passed, "torch", 9, 0.0, 0.0, 1.0, 1.0, True, True, {"max_error": 1e-3}, reasons), unverifiable=unverifiable
    )


PASSED, FAILED, OPEN = proof(), proof(False, reasons=("max error 3 is above 0.001",)), proof(False, "too noisy")


@pytest.mark.parametrize(
    ("graph", "own", "status", "code"),
    [
        (PASSED, PASSED, Status.OK, 0),
        (PASSED, None, Status.BUILT, 0),
        (PASSED, FAILED, Status.FAILED, 1),
        (FAILED, None, Status.FAILED, 1),
        (FAILED, PASSED, Status.FAILED, 1),
        (PASSED, OPEN, Status.UNVERIFIABLE, 3),
        (OPEN, None, Status.UNVERIFIABLE, 3),
        (OPEN, PASSED, Status.UNVERIFIABLE, 3),
        (OPEN, FAILED, Status.FAILED, 1),
    ],
)
def test_a_cell_needs_both_proofs(graph: Fidelity, own: Fidelity | None, status: Status, code: int) -> None:
    subject = Subject("m", "user", Weights(), InputShapes((8, 8)), 1, "ort", "fp32")
    artifact = Artifact(
        Path("m-ort"), "key", "digest", subject, (), (), {}, "m.onnx", graph_fidelity=graph, fidelity=own
    )
    cell = Cell.of("m", subject.shapes, "fp32", "ort", artifact)
    assert (cell.status, cell.exit_code) == (status, code)
    assert (cell.proved_by is not None) == (status is Status.OK)
    assert (cell.fidelity, cell.graph_fidelity) == (own, graph)
    expected = {Status.OK: "", Status.BUILT: "not verified", Status.UNVERIFIABLE: "too noisy"}
    assert cell.reason == expected.get(status, cell.reason)
    if status is Status.FAILED:
        assert "is not the same model: max error 3 is above 0.001" in cell.reason
        assert ("graph of" in cell.reason) == (own is not FAILED)


def test_a_record_of_two_proofs_is_read_back() -> None:
    stored = replace(OPEN, images="6 synthetic scenes", outputs=("a",), rounding={"a": 1e-6}, blind_to=("a change",))
    assert from_json(Fidelity, json.loads(json.dumps(to_json(stored))), "x") == stored


@pytest.mark.parametrize("name", ["warmup", "load_ms", "first_ms", "peak_rss_bytes"])
@pytest.mark.parametrize("value", [-1, float("nan"), float("inf")])
def test_a_round_has_amounts(name: str, value: float) -> None:
    good = Round((1000,), 1, True, 1.0, 1.0, 1)
    with pytest.raises(DataError, match=f"A round has {name}"):
        replace(good, **{name: value})


@pytest.mark.parametrize("key", ["cores_online", "cores_allowed", "temperature_c", "memory_bytes"])
@pytest.mark.parametrize("value", [[1], {"a": 1}, "x", True, float("nan"), float("inf")])
def test_what_a_machine_is_counted_by_is_a_number(key: str, value: Any) -> None:
    subject = Subject("m", "user", Weights(), InputShapes((8, 8)), 1, "ort", "fp32")
    samples = Samples((Round((1000,), 1, True, 1.0, 1.0, 1),))
    with pytest.raises(DataError, match=f"{key} = .*, which is no number"):
        Measurement("d", subject, "local", {}, samples, {key: value}, {}, "2026-01-01")
